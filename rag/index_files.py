"""Which files in a folder are an index's own: by their exact names, for a folder may hold the user's files too."""

from __future__ import annotations

import shutil
from pathlib import Path

from rag import embedded_file, lexical, vectors_file

DATABASE = "index.sqlite"
REPAIRED = "repaired.sqlite"
RENEWAL = ".renewed"
# What SQLite keeps beside a database.
_BESIDE = ("", "-wal", "-shm", "-journal")
_NAMES = {embedded_file.NAME, *(name + suffix for name in (DATABASE, REPAIRED) for suffix in _BESIDE)}


def own_files(folder: Path) -> list[Path]:
    """Every file that an index consists of, or left behind; not the writer's lock, which whoever waits for it has open.
    A folder of such a name is none of them."""
    return sorted(path for path in folder.iterdir() if _is_own(path.name) and (path.is_symlink() or path.is_file()))


def repair_leftovers(folder: Path) -> list[Path]:
    """What a repair left that was cut off."""
    paths = [folder / (REPAIRED + suffix) for suffix in _BESIDE]
    return [path for path in paths if path.is_file() or path.is_symlink()]


def remove_repair_leftovers(folder: Path) -> None:
    """Call it with the writer lock held."""
    for path in repair_leftovers(folder):
        path.unlink(missing_ok=True)


def remove_renewal(folder: Path) -> None:
    """What a renewal that was cut off has made so far. Call it with the writer lock held."""
    beside = folder / RENEWAL
    if beside.is_symlink() or beside.is_file():
        beside.unlink()
    elif beside.is_dir():
        shutil.rmtree(beside)


def _is_own(name: str) -> bool:
    return name in _NAMES or any(kind.NAME.fullmatch(name) for kind in (vectors_file, lexical))
