"""What a stage leaves in the run's folder, with the fingerprint of everything it came from.

A stage's folder counts as whole only while it holds `artifact.json`, which is written last, by one rename, and removed
before anything in the folder changes. So a stage that was killed leaves nothing that looks finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from hfkit.environment import Environment
from hfkit.errors import WorkError

MARKER = "artifact.json"

# SQLite keeps these beside a database while somebody has it open, and they go when it is closed.
_TRANSIENT = ("-wal", "-shm")
# Folders whose databases change when somebody only looks at them through their program.
_NOT_RECORDED = frozenset({"trackio"})


class FileRecord(BaseModel):
    """A file of an artifact: its path in the folder, its size in bytes, its time of change, its content's sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    bytes: int
    mtime_ns: int
    sha256: str


class ModelRecord(BaseModel):
    """A model that a stage read: its commit, where it has one, and the sha256 of each of its files, by their path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: str | None
    files: dict[str, str]


class Artifact(BaseModel):
    """`result` is what the stage had to say, as its own result type dumps it; `seconds` and `peak_memory_bytes` are
    what it cost.

    `inputs` has a hash of each thing that went into `fingerprint`, and `models` the models that were read, by what they
    were read for: so that one can say later what differs. Artifacts of older versions do not have them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    fingerprint: str
    files: tuple[FileRecord, ...]
    finished: str
    seed: int
    seconds: float
    peak_memory_bytes: int
    environment: Environment
    inputs: dict[str, str] = {}
    models: dict[str, ModelRecord] = {}
    result: dict[str, JsonValue]


class DamagedArtifact(WorkError):
    """An artifact is not what its stage left."""


def fingerprint_of(parts: Mapping[str, JsonValue]) -> str:
    """The sha256, in hexadecimal, of `parts` in canonical JSON."""
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_artifact(folder: Path) -> Artifact | None:
    """The artifact in `folder`, None where no stage finished there.

    Raises:
        DamagedArtifact: the marker cannot be read, or a file is missing or is not the one that was recorded. Files
        whose
            size and time of change are as recorded are not read again (as git's index does it).
    """
    marker = folder / MARKER
    try:
        text = marker.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedArtifact(f"{marker} cannot be read: {error}") from error
    try:
        artifact = Artifact.model_validate_json(text)
    except ValidationError as error:
        raise DamagedArtifact(f"{marker} is damaged ({error.error_count()} faults in it)") from error
    for record in artifact.files:
        _check(folder / record.path, record)
    return artifact


def _check(path: Path, record: FileRecord) -> None:
    try:
        stat = path.stat()
    except OSError as error:
        raise DamagedArtifact(f"{path} is missing ({error.strerror})") from error
    if not path.is_file():
        raise DamagedArtifact(f"{path} is damaged: it is no file")
    if stat.st_size != record.bytes:
        raise DamagedArtifact(f"{path} is damaged: it has {stat.st_size} bytes, {record.bytes} were written")
    if stat.st_mtime_ns != record.mtime_ns and file_sha256(path) != record.sha256:
        raise DamagedArtifact(f"{path} is damaged: its content is not what was written")


def record_files(folder: Path) -> tuple[FileRecord, ...]:
    """Every file in `folder` but the marker, hidden files, what is in hidden folders, and what a tracker keeps; flushed
    to the disk."""
    records = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or inside.name == MARKER or any(part.startswith(".") for part in inside.parts):
            continue
        if path.name.endswith(_TRANSIENT) or inside.parts[0] in _NOT_RECORDED:
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        stat = path.stat()
        records.append(
            FileRecord(path=inside.as_posix(), bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=file_sha256(path))
        )
    return tuple(records)


def write_artifact(folder: Path, artifact: Artifact) -> None:
    write_whole(folder / MARKER, artifact.model_dump_json(indent=2) + "\n")


def forget_artifact(folder: Path) -> None:
    """From here on the folder does not count as whole."""
    (folder / MARKER).unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, finds the old one or the new one and nothing between."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def replace_folder(new: Path, old: Path) -> None:
    """Put the finished folder `new` in the place of `old`. A crash between leaves no `old`, never a mixture."""
    discarded = old.with_name(f".{old.name}.discarded")
    _discard(discarded)
    if old.exists() or old.is_symlink():
        old.rename(discarded)
    new.rename(old)
    _discard(discarded)


def _discard(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def forget_leftovers(folder: Path) -> None:
    """Remove what is hidden in a finished artifact: checkpoints, caches, what was only needed on the way."""
    for path in folder.glob(".*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
