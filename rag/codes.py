"""Vectors as bytes: the blob of each stored vector, which carries its own checksum."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from rag.embedder import Vectors
from rag.layout import Storage

_CHECKSUM = 4


class BrokenVectorError(ValueError):
    """A blob is not what was written. `place` is its position among those given."""

    def __init__(self, place: int) -> None:
        super().__init__("a stored vector does not have the checksum it should")
        self.place = place


def blob_bytes(storage: Storage, dimension: int) -> int:
    """Bytes of one blob."""
    numbers = {"float32": 4 * dimension, "float16": 2 * dimension, "binary": 2 * dimension, "int8": dimension}
    return numbers[storage] + _CHECKSUM


def encode(vectors: Vectors, storage: Storage) -> list[bytes]:
    """A blob for each row: little-endian numbers, then the CRC-32 of those bytes. int8 is scaled so that the largest
    number of a row becomes 127 or -127; binary keeps float16, by which the found ones are ranked."""
    if storage == "float32":
        bodies = [row.tobytes() for row in vectors.astype("<f4")]
    elif storage == "int8":
        largest = np.abs(vectors).max(axis=1, keepdims=True, initial=1e-12)
        bodies = [row.tobytes() for row in np.rint(vectors / largest * 127).astype(np.int8)]
    else:
        bodies = [row.tobytes() for row in vectors.astype("<f2")]
    return [body + zlib.crc32(body).to_bytes(_CHECKSUM, "little") for body in bodies]


def is_whole(blob: object, storage: Storage, dimension: int) -> bool:
    """Whether this is a blob that `encode` made, with no bit changed since."""
    if not isinstance(blob, bytes) or len(blob) != blob_bytes(storage, dimension):
        return False
    return zlib.crc32(memoryview(blob)[:-_CHECKSUM]) == int.from_bytes(blob[-_CHECKSUM:], "little")


def decode(blobs: Sequence[object], storage: Storage, dimension: int) -> Vectors:
    """float32 [n, dimension]. Raises BrokenVectorError for a blob whose checksum does not fit."""
    whole = []
    for place, blob in enumerate(blobs):
        if not isinstance(blob, bytes) or not is_whole(blob, storage, dimension):
            raise BrokenVectorError(place)
        whole.append(blob)
    size = blob_bytes(storage, dimension)
    table = np.frombuffer(b"".join(whole), dtype=np.uint8).reshape(len(whole), size)[:, :-_CHECKSUM]
    if storage == "int8":
        # The rows were of unit length, so their scale need not be known.
        rows = np.ascontiguousarray(table).view(np.int8).astype(np.float32)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
        return rows
    numbers = np.ascontiguousarray(table).view("<f4" if storage == "float32" else "<f2")
    vectors: Vectors = numbers.astype(np.float32)
    return vectors
