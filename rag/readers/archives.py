"""The files in an archive, unpacked one at a time into memory: nothing is ever written to a disk."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

from rag.limits import Limits
from rag.readers.formats import is_archive, without_reader
from rag.readers.unreadable import Unreadable, megabytes
from rag.readers.zipped import SMALL, check_ratio, opened

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)
_PIECE = 1_000_000


@dataclass
class Member:
    """One file of an archive: its bytes, or why it has none, and whether that may pass."""

    name: str
    data: bytes = b""
    problem: str | None = None
    passing: bool = False


class _Spent(Unreadable):
    """The limits of the whole archive are reached: nothing more of it is read."""


@dataclass
class _Budget:
    """What is left of an archive's limits, for it and all archives inside it together."""

    members: int
    unpacked: int


def members(id: str, name: str, data: bytes, limits: Limits) -> Iterator[Member]:
    """The files of an archive and of the archives inside it (`a.zip!/docs/x.md`, `a.zip!/b.tar!/y.md`), in order, as
    far as a reader takes them; `name` tells which kind of archive it is. Hidden files are left out. What is damaged or
    over the limits comes as a problem; an archive that breaks off gives what came before.
    """
    found = 0
    for member in _members(id, name, data, limits, _Budget(limits.members, limits.unpacked), 1):
        found += 1
        yield member
    if not found:
        yield Member(id, problem="holds no files")


def _members(id: str, name: str, data: bytes, limits: Limits, budget: _Budget, depth: int) -> Iterator[Member]:
    if depth > limits.depth:
        yield Member(id, problem=f"lies in more than {limits.depth - 1} archives, which is as deep as is read")
        return
    seen: set[str] = set()
    try:
        for member in _files(name, data, limits, budget):
            path = f"{id}!/{member.name}"
            if path in seen:
                member = Member(member.name, problem="a second file of this name in the archive")
            seen.add(path)
            if member.problem is not None or not is_archive(member.name):
                yield Member(path, member.data, member.problem)
            else:
                yield from _members(path, member.name, member.data, limits, budget, depth + 1)
    except Unreadable as reason:
        yield Member(id, problem=str(reason))
    except RuntimeError as error:  # zipfile's word for a password
        yield Member(id, problem=f"protected by a password ({error})")
    except _DAMAGE as error:
        yield Member(id, problem=f"damaged archive: {error or type(error).__name__}")


def _files(name: str, data: bytes, limits: Limits, budget: _Budget) -> Iterator[Member]:
    lowered = name.lower()
    if lowered.endswith(".zip"):
        yield from _of_zip(data, limits, budget)
    elif lowered.endswith(".gz") and not lowered.endswith(".tar.gz"):
        inner = PurePosixPath(name.rpartition("/")[2]).stem
        problem = _refusal(inner)
        if problem:
            yield Member(inner, problem=problem)
        else:
            with gzip.open(io.BytesIO(data)) as stream:
                yield Member(inner, _bounded(stream, len(data), limits, budget))
    else:
        yield from _of_tar(data, limits, budget)


def _of_zip(data: bytes, limits: Limits, budget: _Budget) -> Iterator[Member]:
    archive = opened(data, limits, "zip archive")
    for info in archive.infolist():
        if info.is_dir() or _left_out(info.filename):
            continue
        _count(limits, budget)
        problem = _refusal(info.filename)
        kind = info.external_attr >> 28
        if kind not in (0, 8):  # of Unix, where it says one: a regular file, or nothing said
            problem = "a link, a device or a pipe"
        elif info.flag_bits & 1:
            problem = "protected by a password"
        if problem is not None:
            yield Member(info.filename, problem=problem)
            continue
        try:
            check_ratio(info.file_size, info.compress_size, limits)
            with archive.open(info) as stream:
                content = _bounded(stream, info.compress_size, limits, budget)
        except _Spent:
            raise
        except (Unreadable, NotImplementedError, *_DAMAGE) as error:
            yield Member(info.filename, problem=str(error) or type(error).__name__)
        else:
            yield Member(info.filename, content)


def _of_tar(data: bytes, limits: Limits, budget: _Budget) -> Iterator[Member]:
    # As a stream: members come in their order, and a packed archive is unpacked no further than it is read.
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|*") as archive:
        for info in archive:
            if info.isdir() or _left_out(info.name):
                continue
            _count(limits, budget)
            problem = _refusal(info.name) if info.isreg() else "a link, a device or a pipe"
            if info.isreg() and info.size > limits.bytes:
                problem = f"{megabytes(info.size)}, more than the {megabytes(limits.bytes)} that one file may have"
            # What is passed over is unpacked all the same.
            budget.unpacked -= info.size if info.isreg() and problem is not None else 0
            _check_budget(limits, budget)
            stream = archive.extractfile(info) if problem is None else None
            if stream is None:
                yield Member(info.name, problem=problem)
                continue
            try:
                content = _bounded(stream, len(data), limits, budget)
            except _Spent:
                raise
            except Unreadable as reason:
                yield Member(info.name, problem=str(reason))
            else:
                yield Member(info.name, content)


def _bounded(stream: IO[bytes] | gzip.GzipFile, packed: int, limits: Limits, budget: _Budget) -> bytes:
    """All bytes of a member.

    Raises:
        Unreadable: more than one file may have, than the archive may give, or than its packed size lets expect.
    """
    pieces: list[bytes] = []
    size = 0
    while piece := stream.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        budget.unpacked -= len(piece)
        _check_budget(limits, budget)
        if size > SMALL:
            check_ratio(size, packed, limits)
        if size > limits.bytes:
            raise Unreadable(f"more than the {megabytes(limits.bytes)} that one file may have")
    return b"".join(pieces)


def _check_budget(limits: Limits, budget: _Budget) -> None:
    if budget.unpacked < 0:
        raise _Spent(f"the archive unpacks to more than the {megabytes(limits.unpacked)} that are allowed")


def _count(limits: Limits, budget: _Budget) -> None:
    budget.members -= 1
    if budget.members < 0:
        raise _Spent(f"more than the {limits.members:,} members that an archive may have; the rest is not read")


def _refusal(name: str) -> str | None:
    """Why a member of this name is not read."""
    parts = _parts(name)
    if ".." in parts or name.startswith(("/", "\\")) or parts[0].endswith(":"):
        return "its name leads out of the archive"
    if len(name) > 1_000:
        return "its name has more than 1,000 characters"
    return without_reader(name)


def _parts(name: str) -> list[str]:
    return name.replace("\\", "/").split("/")


def _left_out(name: str) -> bool:
    """Hidden files, and what macOS adds to an archive."""
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in _parts(name))
