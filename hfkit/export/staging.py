"""A folder that appears whole or not at all: written beside its place, flushed to the disk, and renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hfkit.errors import RequestError, WorkError
from hfkit.export.result import EXPORT
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
    require_free(target)
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


def require_free(target: Path) -> None:
    """Raises RequestError where an export to `target` would replace anything but an earlier export."""
    if not (target.exists() or target.is_symlink()):
        return
    if target.is_dir() and not target.is_symlink() and ((target / EXPORT).is_file() or not any(target.iterdir())):
        return
    raise RequestError(
        f"{target} is there already, and is no export of hfkit's; move it away, or name another folder with --to"
    )


def _require_safe(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(SAFE):
            raise WorkError(f"{path.name}: files of this kind are not exported; take it out of the trained folder")
