"""The files that a path of a recipe means: one file, those of a folder, or those that a glob matches."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from hfkit.errors import RequestError

FileKind = Literal["json", "json_lines", "csv", "tsv", "parquet", "text"]

# In folders, Markdown is most often about the data: it is read only where it is asked for by name.
_IN_FOLDERS: dict[str, FileKind] = {
    ".json": "json",
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
}
_BY_NAME: dict[str, FileKind] = {**_IN_FOLDERS, ".md": "text"}
_KNOWN = f"{', '.join(_BY_NAME)}, and each of them with .gz"


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file to be read. `name` is how messages call it: the path as it was given, with forward slashes."""

    path: Path
    name: str
    kind: FileKind
    gzipped: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class FileList:
    """Files in the order in which they are read.

    Attributes:
        left_out: files of a folder or glob that are not read, each with the reason why.
    """

    files: tuple[DataFile, ...]
    left_out: tuple[tuple[str, str], ...]


def list_files(pattern: str) -> FileList:
    """The files that `pattern` means, sorted by name. Hidden files and folders of a folder are passed over.

    Raises:
        RequestError: there is none, or one that cannot be read: a broken link, a pipe, of no known type.
    """
    path = os.path.expanduser(pattern)  # noqa: PTH111 (keeps a slash at the end, which says that a folder is meant)
    if _is_there(path, pattern):
        if Path(path).is_dir():
            return _of_many(_walk(path), _IN_FOLDERS, pattern, "the folder holds")
        return FileList((_of_one(Path(path)),), ())
    if not glob.has_magic(path):
        raise RequestError(f"{pattern}: {_why_missing(Path(path))}")
    matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 (pathlib's does not take absolute patterns)
    found = [(name, "") for name in matches if not Path(name).is_dir()]
    if matches and not found:
        raise RequestError(f"{pattern}: matches folders only; {pattern}/*.jsonl matches files in them")
    if not found:
        raise RequestError(f"{pattern}: no file matches{_why_no_match(path)}")
    return _of_many(found, _BY_NAME, pattern, "it matches")


def shown(path: str | Path) -> str:
    """A path as text that can be printed, stored and hashed, whatever bytes the file's name is made of."""
    return os.fsencode(path).decode("utf-8", "replace").replace(os.sep, "/")


def _walk(folder: str) -> Iterator[tuple[str, str]]:
    """Each file below `folder`, with the reason why it is left out, if it is."""

    def refuse(error: OSError) -> None:
        raise RequestError(f"{shown(error.filename)}: the folder cannot be read: {error.strerror}") from error

    entries = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [name for name in folders if Path(parent, name).is_symlink()]
        entries += [(str(Path(parent, name)), "a link to a folder, not followed") for name in linked]
        entries += [(str(Path(parent, name)), "") for name in files if not name.startswith(".")]
    yield from sorted(entries)


def _is_there(path: str, pattern: str) -> bool:
    """Also where it is a link to nothing."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise RequestError(f"{pattern}: cannot be read: {error.strerror}") from error
    return True


def _of_many(
    found: Iterator[tuple[str, str]] | list[tuple[str, str]], kinds: dict[str, FileKind], pattern: str, holds: str
) -> FileList:
    files = []
    left_out = []
    for name, why in found:
        if why:
            left_out.append((shown(name), why))
        elif _kind(name, kinds) is None:
            left_out.append((shown(name), "a file of another type, not read"))
        elif (file := _of_one(Path(name))).bytes == 0:
            left_out.append((file.name, "an empty file"))
        else:
            files.append(file)
    if not files:
        names = [name for name, _ in left_out]
        what = f"only {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}" if names else "no files"
        raise RequestError(f"{pattern}: {holds} {what}; what can be read, if it is not empty, is {_KNOWN}")
    return FileList(tuple(files), tuple(left_out))


def _of_one(path: Path) -> DataFile:
    name = shown(path)
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise RequestError(f"{name}: is a link to {shown(os.readlink(path))}, which does not exist") from error  # noqa: PTH115
    except OSError as error:
        raise RequestError(f"{name}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise RequestError(f"{name}: is a {_node_kind(found.st_mode)}, not a file; write what it gives into a file")
    kind = _kind(path.name, _BY_NAME)
    if kind is None:
        raise RequestError(f"{name}: of no known type; what can be read is {_KNOWN}")
    return DataFile(path, name, kind, path.suffix.lower() == ".gz", found.st_size)


def _kind(name: str, kinds: dict[str, FileKind]) -> FileKind | None:
    path = Path(name.lower())
    return kinds.get(Path(path.stem).suffix if path.suffix == ".gz" else path.suffix)


def _node_kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "pipe"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def _why_missing(path: Path) -> str:
    for parent in reversed(path.parents):
        if parent.is_file():
            return f"{shown(parent)} is a file, not a folder"
    if path.is_file():
        return "is a file, not a folder; leave out the slash at the end"
    if not path.parent.is_dir():
        return f"no such file or folder; there is no folder {shown(path.parent)} either"
    try:
        near = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    except OSError:  # Nothing to suggest then; what was asked for is told all the same.
        near = []
    return f"no such file or folder{f'; did you mean {shown(path.parent / near[0])}?' if near else ''}"


def _why_no_match(pattern: str) -> str:
    """What of the folders that a glob starts in is not there."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    if fixed.is_file():
        return f"; {shown(fixed)} is a file, not a folder"
    return "" if fixed.is_dir() else f"; there is no folder {shown(fixed)}"
