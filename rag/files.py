"""Finds and reads the files that a source names: one file, the files under a folder, or the matches of a glob."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rag.corpus import Corpus, Skipped
from rag.errors import RagRequestError
from rag.limits import Limits
from rag.readers.decoding import printable
from rag.readers.draft import over_bytes
from rag.readers.formats import ARCHIVES, PLAIN, READERS, read, suffix_of, without_reader
from rag.readers.pool import ReaderPool
from rag.readers.unreadable import Unreadable, may_pass

_DEEPEST = 1_000
_PIECE = 1_000_000


@dataclass(frozen=True)
class Found:
    """A file: its document's id, where it lies, and why it cannot be read as far as its name and metadata tell."""

    id: str
    path: Path
    problem: str | None = None


def read_source(source: str, limits: Limits, pool: ReaderPool) -> Corpus:
    """The documents of one path or glob, in order. Plain text is read here, all else in the pool's processes.

    Raises:
        RagRequestError: nothing is there, a glob matches nothing, or a single named file has no reader.
    """
    parts: list[Corpus | Future[Corpus]] = []
    for found in source_files(source, limits):
        if found.problem is not None:
            parts.append(_skipped(found, found.problem))
        elif suffix_of(found.id) in PLAIN:
            parts.append(_read_here(found, limits))
        else:
            parts.append(pool.read(found.id, found.path))
    done = [part if isinstance(part, Corpus) else part.result() for part in parts]
    return Corpus(
        tuple(document for part in done for document in part.documents),
        tuple(skipped for part in done for skipped in part.skipped),
    )


def source_files(source: str, limits: Limits) -> Iterator[Found]:
    """The files of a source in a fixed order; a second name for a file (a link) is left out, because its chunks must
    not come twice.

    Raises:
        RagRequestError: as `read_source`.
    """
    seen: set[tuple[int, int]] = set()
    for found in _walk(source, limits):
        try:
            status = found.path.stat()
        except OSError:
            yield found
            continue
        identity = (status.st_dev, status.st_ino)
        if status.st_ino == 0 or identity not in seen:  # 0: a file system without such numbers
            seen.add(identity)
            yield found


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.digest()


def open_regular(path: Path) -> BinaryIO:
    """Opens a file and never waits: what became a pipe or a device since it was found raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | (0 if os.name == "nt" else os.O_NONBLOCK))
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise OSError("not a regular file")
    return stream


def os_reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def near(path: Path) -> str:
    """The end of a message about a missing path: names beside it that look alike, or the first folder missing."""
    parent = path.parent
    while not parent.is_dir() and parent != parent.parent:
        path, parent = parent, parent.parent
    try:
        names = sorted(entry.name for entry in parent.iterdir() if not entry.name.startswith("."))
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join((parent / name).as_posix() for name in close)}?" if close else ""


def _skipped(found: Found, reason: str, passing: bool = False) -> Corpus:
    return Corpus((), (Skipped(found.id.encode("utf-8", "backslashreplace").decode("utf-8"), reason, passing),))


def _read_here(found: Found, limits: Limits) -> Corpus:
    try:
        with open_regular(found.path) as stream:
            data = stream.read(limits.bytes + 1)
        if len(data) > limits.bytes:  # it grew since it was found
            raise Unreadable(over_bytes(len(data), limits))
        return Corpus((read(found.id, found.id, data, limits),))
    except OSError as error:
        return _skipped(found, os_reason(error), may_pass(error))
    except Unreadable as reason:
        return _skipped(found, str(reason))


def _walk(source: str, limits: Limits) -> Iterator[Found]:
    path = Path(source)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # a name that is too long, for example
        raise RagRequestError(f"{source[:200]}: {os_reason(error)}") from None
    if is_folder:
        yield from _walk_folder(path, limits)
    elif is_file:
        missing = without_reader(path.name)
        if missing is not None:
            taken = ", ".join(sorted(READERS.keys() | ARCHIVES))
            raise RagRequestError(f"{source}: {missing}; the readers take {taken}")
        yield Found(path.as_posix(), path, _problem(path, limits))
    elif glob.has_magic(source):
        yield from _walk_glob(path, limits)
    elif path.exists():
        raise RagRequestError(f"{source} is neither a file nor a folder")
    else:
        raise RagRequestError(f"there is no file or folder {source}{near(path)}")


def _walk_glob(pattern: Path, limits: Limits) -> Iterator[Found]:
    """The files that match; `**` stands for any number of folders. Walks by itself, for `glob.glob` follows a link that
    leads back up again and again."""
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    base, wanted = Path(*fixed), pattern.parts[len(fixed) :]
    if not base.is_dir():
        raise RagRequestError(f"there is no folder {base.as_posix()} for the glob {pattern}{near(base)}")
    depth = _DEEPEST if "**" in wanted else len(wanted)
    matched = False
    for found in _walk_folder(base, limits, depth):
        if _matches(found.path.parts[len(fixed) :], wanted):
            matched = True
            yield found
    if not matched:
        raise RagRequestError(f"no file matches the glob {pattern}{near(pattern)}")


def _matches(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether a path's names match a pattern's. Follows all ways through the pattern at once: a deep path and several
    `**` cost no more than their product."""
    places = _after_no_folder({0}, wanted)
    for part in parts:
        following: set[int] = set()
        for place in places:
            if place < len(wanted) and wanted[place] == "**":
                following |= {place, place + 1}
            elif place < len(wanted) and fnmatch.fnmatchcase(part, wanted[place]):
                following.add(place + 1)
        places = _after_no_folder(following, wanted)
    return len(wanted) in places


def _after_no_folder(places: set[int], wanted: tuple[str, ...]) -> set[int]:
    """The places in a pattern, and those behind each `**`, which may stand for no folder at all; at the pattern's end
    it stands for the files themselves."""
    reached = set(places)
    for place in range(len(wanted) - 1):
        if place in reached and wanted[place] == "**":
            reached.add(place + 1)
    return reached


def _walk_folder(folder: Path, limits: Limits, depth: int = _DEEPEST) -> Iterator[Found]:
    """Files of a folder and then of its folders, `depth` levels down at most, each sorted by name. A folder is walked
    once: a link that leads back up ends there."""
    waiting = [(folder, 1)]
    visited = {_identity(folder)}
    while waiting:
        here, level = waiting.pop()
        try:
            entries = sorted(entry for entry in here.iterdir() if not entry.name.startswith("."))
        except OSError as error:
            yield Found(here.as_posix(), here, os_reason(error))
            continue
        below: list[tuple[Path, int]] = []
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError as error:
                yield Found(entry.as_posix(), entry, os_reason(error))
                continue
            if not is_folder:
                yield Found(entry.as_posix(), entry, _problem(entry, limits))
            elif level < depth and (identity := _identity(entry)) not in visited:
                visited.add(identity)
                below.append((entry, level + 1))
            elif level >= _DEEPEST:
                yield Found(entry.as_posix(), entry, f"a folder more than {_DEEPEST:,} folders down is not read")
        waiting += reversed(below)


def _identity(folder: Path) -> tuple[int, int] | str:
    """What two names of a folder have in common."""
    try:
        status = folder.stat()
    except OSError:
        return str(folder)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def _problem(path: Path, limits: Limits) -> str | None:
    """What keeps a file from being read, as far as its name and its metadata tell."""
    if printable(path.as_posix()) != path.as_posix():
        return "its name is not UTF-8"
    missing = without_reader(path.name)
    if missing is not None:
        return missing
    try:
        status = path.stat()
    except FileNotFoundError:
        return "a link that leads nowhere"
    except OSError as error:
        return os_reason(error)
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device: reading it could block for ever
        return "not a regular file"
    return over_bytes(status.st_size, limits) if status.st_size > limits.bytes else None
