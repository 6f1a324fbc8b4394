"""Reads the text files that a source names: one file, the files under a folder, or the matches of a glob."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from rag.corpus import Corpus, Document, Section, Skipped
from rag.errors import RagRequestError
from rag.markdown import parse_markdown

MAX_BYTES = 20_000_000


class _Unreadable(Exception):
    """Why one file is skipped; never leaves this module."""


def parse_text(id: str, text: str) -> Document:
    """A plain text: one section, headed by the file's name without its suffix."""
    title = PurePath(id).stem
    return Document(id, title, text, (Section((title,), 0, len(text)),))


# A reader takes a document's id and its decoded text. A new text format is one line here.
READERS: dict[str, Callable[[str, str], Document]] = {
    ".markdown": parse_markdown,
    ".md": parse_markdown,
    ".rst": parse_text,
    ".txt": parse_text,
}


def read_source(source: str) -> Corpus:
    """The documents of one path or glob.

    Raises:
        RagRequestError: nothing is there, a glob matches nothing, or a single named file has no reader.
    """
    documents: list[Document] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()
    for name, path, problem in _walk(source):
        identity = os.path.realpath(path)
        if identity in seen:  # a second name (a link) for a file that was read: its chunks must not come twice
            continue
        seen.add(identity)
        try:
            if problem is not None:
                raise _Unreadable(problem)
            documents.append(_read(name, path))
        except _Unreadable as reason:
            skipped.append(Skipped(_printable(name), str(reason)))
    return Corpus(tuple(documents), tuple(skipped))


def source_files(source: str) -> list[tuple[str, Path]]:
    """(document id, path) of each file that `read_source(source)` would try to read."""
    return [(name, path) for name, path, problem in _walk(source) if problem is None]


def _walk(source: str) -> Iterator[tuple[str, Path, str | None]]:
    """(id, path, why it cannot be read or None) in a fixed order."""
    path = Path(source)
    if path.is_dir():
        yield from _walk_folder(path, {os.path.realpath(path)})
    elif path.is_file():
        problem = _problem(path)
        if problem is not None and path.suffix.lower() not in READERS:
            raise RagRequestError(f"{source}: {problem}; the readers take {', '.join(sorted(READERS))}")
        yield path.as_posix(), path, problem
    elif glob.has_magic(source):
        yield from _walk_glob(path)
    elif path.exists():
        raise RagRequestError(f"{source} is neither a file nor a folder")
    else:
        raise RagRequestError(f"there is no file or folder {source}{_near(path)}")


def _walk_glob(pattern: Path) -> Iterator[tuple[str, Path, str | None]]:
    """The files that match; `**` stands for any number of folders. Walks by itself, for `glob.glob` follows a link that
    leads back up again and again."""
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    base, wanted = Path(*fixed), pattern.parts[len(fixed) :]
    if not base.is_dir():
        raise RagRequestError(f"there is no folder {base.as_posix()} for the glob {pattern}{_near(base)}")
    depth = None if "**" in wanted else len(wanted)
    matched = False
    for name, path, problem in _walk_folder(base, {os.path.realpath(base)}, depth):
        if _matches(path.parts[len(fixed) :], wanted):
            matched = True
            yield name, path, problem
    if not matched:
        raise RagRequestError(f"no file matches the glob {pattern}{_near(pattern)}")


def _matches(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_matches(parts[taken:], wanted[1:] or ("*",)) for taken in range(len(parts)))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])


def _walk_folder(folder: Path, visited: set[str], depth: int | None = None) -> Iterator[tuple[str, Path, str | None]]:
    """Files of a folder and then of its folders, `depth` levels down at most, each sorted by name. `visited` holds real
    paths: a link that leads back up ends there."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        yield folder.as_posix(), folder, _os_reason(error)
        return
    for entry in entries:
        if not entry.is_dir():
            yield entry.as_posix(), entry, _problem(entry)
    below = None if depth is None else depth - 1
    if below == 0:
        return
    for entry in entries:
        real = os.path.realpath(entry)
        if entry.is_dir() and real not in visited:
            visited.add(real)
            yield from _walk_folder(entry, visited, below)


def _problem(path: Path) -> str | None:
    """What keeps a file from being read, as far as its name and its metadata tell."""
    try:
        path.as_posix().encode("utf-8")
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if path.suffix.lower() not in READERS:
        return f"no reader for {path.suffix}" if path.suffix else "no reader for a file without a suffix"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "a link that leads nowhere"
    except OSError as error:
        return _os_reason(error)
    if not path.is_file():  # a pipe or a device: reading it could block for ever
        return "not a regular file"
    if size > MAX_BYTES:
        return f"{size / 1e6:.1f} MB, more than the {MAX_BYTES / 1e6:.0f} MB that one document may have"
    return None


def _read(name: str, path: Path) -> Document:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _Unreadable(_os_reason(error)) from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Unreadable("UTF-16, not UTF-8; save it as UTF-8")
    if b"\0" in data:
        raise _Unreadable("holds NUL bytes, so it is not text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unreadable(f"not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})") from None
    if not text.strip():
        raise _Unreadable("empty")
    return READERS[path.suffix.lower()](name, text.replace("\r\n", "\n").replace("\r", "\n"))


def _os_reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _near(path: Path) -> str:
    """The end of a message about a missing path: names beside it that look alike, or the first folder missing."""
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        path, parent = parent, parent.parent
    try:
        names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join((parent / name).as_posix() for name in near)}?" if near else ""
