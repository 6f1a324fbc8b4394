"""Checkpoints to go on from: written whole or not at all, verified before they are trusted.

A checkpoint is a folder `checkpoint-STEP`. It is written under another name; `checkpoint.json`, written last, has the
sha256 of every other file in it. Then all of it is flushed to the disk, and the folder gets its name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hfkit.artifact import file_sha256
from hfkit.errors import WorkError
from hfkit.training.state import TrainingState

# Hidden, so that what is only needed to continue is no part of the artifact.
CHECKPOINTS = ".checkpoints"
PARTIAL = ".partial"
MANIFEST = "checkpoint.json"
STATE = "training_state.json"

_PREFIX = "checkpoint-"
# The newest, and the one before it should the newest be damaged.
_KEPT = 2


class CheckpointManifest(BaseModel):
    """`files` is path -> sha256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    files: dict[str, str]


def seal_checkpoint(partial: Path, folder: Path, step: int, state: TrainingState) -> Path:
    """Make the files in `partial` the checkpoint of `step` in `folder`, and remove those that are no longer needed."""
    (partial / STATE).write_text(state.model_dump_json(indent=1) + "\n", encoding="utf-8")
    files = {path.relative_to(partial).as_posix(): file_sha256(path) for path in _files(partial)}
    manifest = CheckpointManifest(step=step, files=files)
    (partial / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    target = folder / f"{_PREFIX}{step}"
    put_in_place(partial, target)
    for older in _newest_first(folder)[_KEPT:]:
        shutil.rmtree(older)
    return target


def require_room(partial: Path) -> None:
    """Raises OSError where a file as large as those in `partial` finds no room beside them. What PyTorch raises when it
    cannot write says nothing of the reason."""
    largest = max((path.stat().st_size for path in _files(partial)), default=0)
    block = bytes(2**20)
    with (partial / "probe").open("wb") as file:
        for _ in range(largest // len(block) + 1):
            file.write(block)


def put_in_place(partial: Path, target: Path) -> None:
    """Flush the folder `partial` to the disk and rename it to `target`, which is replaced."""
    for path in (*partial.rglob("*"), partial):
        _flush(path)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    _flush(target.parent)


def newest_whole_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are all as they were written. Damaged ones are named through `say`."""
    found = _newest_first(folder)
    for number, checkpoint in enumerate(found, start=1):
        fault = what_is_damaged(checkpoint)
        if fault is None:
            return checkpoint
        then = "the one before it is looked at" if number < len(found) else "no whole checkpoint is left"
        say(f"  {checkpoint.name} is damaged ({fault}); {then}")
    return None


def what_is_damaged(checkpoint: Path) -> str | None:
    """What is wrong with it, in words; None if it is whole."""
    try:
        manifest = CheckpointManifest.model_validate_json((checkpoint / MANIFEST).read_bytes())
    except OSError:
        return f"{MANIFEST} is missing"
    except ValidationError:
        return f"{MANIFEST} cannot be read"
    if manifest.step != step_of(checkpoint):
        return f"{MANIFEST} is that of step {manifest.step}"
    for name, sha256 in manifest.files.items():
        try:
            if file_sha256(checkpoint / name) != sha256:
                return f"{name} is not what was written"
        except OSError:
            return f"{name} is missing"
    return None


def set_aside_after(folder: Path, step: int) -> None:
    """Take their names from the checkpoints of later steps, damaged ones, so that none of them is taken for the newest
    while the run makes its own again."""
    for checkpoint in (each for each in _newest_first(folder) if step_of(each) > step):
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)


def read_state(checkpoint: Path) -> TrainingState:
    """What `seal_checkpoint` was given."""
    return TrainingState.model_validate_json((checkpoint / STATE).read_bytes())


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which it was written."""
    try:
        return int(checkpoint.name.removeprefix(_PREFIX))
    except ValueError as error:
        raise WorkError(f"{checkpoint}: not a checkpoint that hfkit wrote; move it away") from error


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"), key=step_of, reverse=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST)


def _flush(path: Path) -> None:
    """To the disk; for a folder, the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
