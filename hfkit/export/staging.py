"""A folder that appears whole or not at all: written beside its place, flushed to the disk, and renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hfkit.errors import RequestError, WorkError
from hfkit.export.result import EXPORT, ExportResult, exported_files
from hfkit.training.checkpoints import put_in_place

# A model and what describes it. Reading any of these runs no code.
SAFE = (".safetensors", ".gguf", ".onnx", ".data", ".json", ".jinja", ".txt", ".model", "Modelfile")


@dataclass(frozen=True, slots=True)
class Staging:
    """`folder`, which is not there yet, becomes the export; `room` is for what is needed on the way."""

    folder: Path
    room: Path


@contextmanager
def staged(target: Path) -> Iterator[Staging]:
    """Within, `folder` is made and filled; behind, it lies at `target`. Where the work fails nothing is left, and what
    an earlier export left at `target` stays.

    Raises:
        RequestError: there is something at `target` that no export left.
        WorkError: a file was made whose kind is not among the safe ones.
    """
    if not target.name:
        raise RequestError(f"--to {target}: name a folder of its own, which the export then is")
    require_free(target)
    around = target.parent
    around_is_new = not around.exists()
    work = target.with_name(f".{target.name}.export-partial")
    shutil.rmtree(work, ignore_errors=True)
    room = work / "room"
    room.mkdir(parents=True)
    try:
        staging = Staging(work / "export", room)
        yield staging
        _require_safe(staging.folder)
        put_in_place(staging.folder, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if around_is_new and not any(around.iterdir()):
            around.rmdir()


def require_free(target: Path) -> None:
    """Raises RequestError where an export to `target` would replace anything but an earlier export."""
    if not (target.exists() or target.is_symlink()):
        return
    if not target.is_dir() or target.is_symlink():
        raise RequestError(f"{target} is there already, and is no folder; name another one with --to")
    earlier = earlier_export(target)
    exported = set() if earlier is None else {EXPORT, *(file.path for file in earlier.files)}
    others = sorted({file.path for file in exported_files(target)} - exported)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise RequestError(
            f"{target} is there already, and holds what is no part of an export of hfkit's ({others[0]}{more}); move "
            "it away, or name another folder with --to"
        )


def earlier_export(folder: Path) -> ExportResult | None:
    """What an export said that it left in `folder`; None where none did."""
    try:
        return ExportResult.model_validate_json((folder / EXPORT).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def _require_safe(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(SAFE):
            raise WorkError(f"{path.name}: files of this kind are not exported; take it out of the trained folder")
