"""Numpy arrays in one file that is read in place: plain numbers behind a header in JSON, every byte under a checksum.

The small arrays are checked when the file is opened, which takes milliseconds. Those that are read here and there are
checked block by block when a block is first touched, so that no number is used that is not the one that was written,
and a file of hundreds of megabytes opens at once.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

Stored = npt.NDArray[np.generic]

_MARK = b"ragarrs2"
_HEAD = struct.Struct("<8sII")  # the mark, the header's length and its CRC-32
_ALIGNED = 64
_BLOCK = 1 << 18
_MOST_HEADER = 1 << 20


class DamagedFileError(Exception):
    """The file is not what was written: truncated, foreign, or with a bit flipped. What it held can be made again."""


class BlockGuard:
    """Checks the blocks of some arrays of one file as they are first touched."""

    def __init__(
        self, path: Path, arrays: Mapping[str, Stored], checksums: Mapping[str, npt.NDArray[np.uint32]]
    ) -> None:
        self._path, self._arrays, self._checksums = path, arrays, checksums
        self._checked = {name: np.zeros(len(sums), dtype=np.bool_) for name, sums in checksums.items()}

    def check(self, start: int, stop: int) -> None:
        """Raises DamagedFileError where an entry from `start` to `stop` of any of the arrays is damaged."""
        if stop <= start:
            return
        for name, array in self._arrays.items():
            first, last = (place * array.itemsize // _BLOCK for place in (start, stop - 1))
            for block in np.flatnonzero(~self._checked[name][first : last + 1]) + first:
                if _checksum(array, int(block)) != int(self._checksums[name][block]):
                    raise DamagedFileError(f"{self._path} is damaged")
                self._checked[name][block] = True


class ArrayFile:
    """An open file. Arrays stay readable after another file has taken its place."""

    def __init__(self, path: Path) -> None:
        """Raises DamagedFileError: it is no such file, or not whole. OSError: it is not there."""
        self.path = path
        with path.open("rb") as file:
            mark, length, checksum = _unpacked(file.read(_HEAD.size), path)
            if mark != _MARK or length > _MOST_HEADER:
                raise DamagedFileError(f"{path} is damaged, or another kind of file")
            header = file.read(length)
            size = os.fstat(file.fileno()).st_size
        if len(header) != length or zlib.crc32(header) != checksum:
            raise DamagedFileError(f"{path} is damaged, or another kind of file")
        described = json.loads(header)
        if size != described["size"]:
            raise DamagedFileError(f"{path} has {size} bytes and should have {described['size']}")
        self.token, self.generation = str(described["token"]), int(described["generation"])
        self.described: Mapping[str, int] = described["described"]
        self._places: Mapping[str, tuple[str, int, int]] = described["arrays"]
        # Seen as a plain array: a memmap's own slices are ten times slower, and there are many small ones.
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def array(self, name: str) -> Stored:
        """An array, checked whole. Raises DamagedFileError."""
        array = self._unchecked(name)
        BlockGuard(self.path, {name: array}, {name: self._sums(name)}).check(0, len(array))
        return array

    def guarded(self, *names: str) -> tuple[list[Stored], BlockGuard]:
        """Arrays of one length, unchecked, and the guard to ask before a part of them is read."""
        arrays = {name: self._unchecked(name) for name in names}
        guard = BlockGuard(self.path, arrays, {name: self._sums(name) for name in names})
        return list(arrays.values()), guard

    def _unchecked(self, name: str) -> Stored:
        if name not in self._places:
            raise DamagedFileError(f"{self.path} has no {name}")
        dtype, count, start = self._places[name]
        kind = np.dtype(dtype)
        return self._bytes[start : start + count * kind.itemsize].view(kind)

    def _sums(self, name: str) -> npt.NDArray[np.uint32]:
        sums = self._unchecked(f"{name}.crc32").astype(np.uint32)
        if zlib.crc32(sums.tobytes()) != self.described[f"{name}.crc32"]:
            raise DamagedFileError(f"{self.path} is damaged")
        return sums


def write_arrays(
    path: Path, token: str, generation: int, described: Mapping[str, int], arrays: Mapping[str, Stored]
) -> None:
    """Puts one-dimensional arrays into a file, whole or not at all; `described` are numbers that go with them.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    parts: dict[str, Stored] = {}
    about = dict(described)
    for name, array in arrays.items():
        plain = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        sums = np.array([_checksum(plain, block) for block in range(-(-plain.nbytes // _BLOCK))], dtype="<u4")
        parts |= {name: plain, f"{name}.crc32": sums}
        about[f"{name}.crc32"] = zlib.crc32(sums.tobytes())
    room = _HEAD.size + 512 + 256 * len(parts)  # more than the header below ever takes
    places: dict[str, tuple[str, int, int]] = {}
    end = _aligned(room)
    for name, part in parts.items():
        places[name] = (part.dtype.str, len(part), end)
        end = _aligned(end + part.nbytes)
    header = json.dumps(
        {"token": token, "generation": generation, "described": about, "arrays": places, "size": end}
    ).encode("ascii")
    if _HEAD.size + len(header) > room:
        raise ValueError(f"the names of {path}'s arrays are too long")
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_HEAD.pack(_MARK, len(header), zlib.crc32(header)) + header)
            for name, part in parts.items():
                file.seek(places[name][2])
                file.write(part.data)
            file.truncate(end)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk, half a file is what others lack room for
        raise


def _unpacked(head: bytes, path: Path) -> tuple[bytes, int, int]:
    if len(head) != _HEAD.size:
        raise DamagedFileError(f"{path} is damaged, or another kind of file")
    mark, length, checksum = _HEAD.unpack(head)
    return mark, length, checksum


def _checksum(array: Stored, block: int) -> int:
    return zlib.crc32(array.view(np.uint8)[block * _BLOCK : (block + 1) * _BLOCK].data)


def _aligned(place: int) -> int:
    return -(-place // _ALIGNED) * _ALIGNED
