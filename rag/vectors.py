"""The vectors file: a FAISS index derived from the store, carrying the generation it was built from."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from rag.database import explained
from rag.embedder import Vectors
from rag.errors import RagError
from rag.store import Ids, Store

if TYPE_CHECKING:
    import faiss

# Behind FAISS's own bytes, which FAISS reads without looking further: a mark, the index's id, the generation, and the
# SHA-256 of those bytes. A damaged or foreign file is thus told from the right one before FAISS parses it.
_TRAILER = struct.Struct("<8s16sQ32s")
_MARK = b"ragvecs1"
_FILE = re.compile(r"vectors-(\d+)\.faiss(\.tmp)?")


class VectorIndex:
    """Exact search by cosine over the vectors of one generation."""

    def __init__(self, index: faiss.IndexIDMap2, generation: int) -> None:
        self._index, self.generation = index, generation

    @classmethod
    def build(cls, store: Store) -> VectorIndex:
        """From the store's vectors, in memory; call it in a snapshot."""
        import faiss

        ids, vectors = store.vectors()
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(store.manifest.dimension))
        index.add_with_ids(vectors, ids)
        return cls(index, store.generation)

    @classmethod
    def read(cls, folder: Path, store: Store) -> VectorIndex | None:
        """From the file of the store's generation; None where it is missing, damaged or another's."""
        import faiss

        generation = store.generation
        path = folder / f"vectors-{generation}.faiss"
        try:
            with path.open("rb") as file:
                if not _is_whole(file, store.manifest.index_id, generation):
                    return None
            index = faiss.read_index(str(path))
        except (OSError, RuntimeError):  # RuntimeError is what FAISS raises for every fault
            return None
        if not isinstance(index, faiss.IndexIDMap2) or not isinstance(
            faiss.downcast_index(index.index), faiss.IndexFlatIP
        ):
            return None
        expected = (store.manifest.dimension, store.count_chunks(), faiss.METRIC_INNER_PRODUCT)
        return cls(index, generation) if (index.d, index.ntotal, index.metric_type) == expected else None

    def write(self, folder: Path, index_id: str) -> None:
        """Puts the file in place whole or not at all, and takes away those of other generations.

        Raises:
            RagError: the disk is full or cannot be written.
        """
        import faiss

        path = folder / f"vectors-{self.generation}.faiss"
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            with explained(path, 0):
                faiss.write_index(self._index, str(temporary))
                with temporary.open("r+b") as file:
                    digest = _hash(file, os.fstat(file.fileno()).st_size)
                    file.seek(0, os.SEEK_END)
                    file.write(_TRAILER.pack(_MARK, bytes.fromhex(index_id), self.generation, digest))
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
                for other in folder.iterdir():
                    if _FILE.fullmatch(other.name) and other != path:
                        other.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:
            raise RagError(
                f"{path} cannot be written: {error}. The index itself is whole: this file will be made again from it"
            ) from error

    @property
    def size(self) -> int:
        return int(self._index.ntotal)

    def search(
        self, queries: Vectors, limit: int, among: Collection[int] | None = None
    ) -> list[list[tuple[int, float]]]:
        """For each row of `queries`, float32 [q, dimension] unit rows: up to `limit` (chunk id, cosine), best first,
        among these chunk ids if given."""
        import faiss

        limit = min(limit, self.size if among is None else len(among))
        if limit == 0 or not len(queries):
            return [[] for _ in queries]
        parameters = faiss.SearchParameters()
        if among is not None:
            selector = faiss.IDSelectorBatch(np.array(sorted(among), dtype=np.int64))
            parameters.sel = selector
        cosines, ids = self._index.search(np.ascontiguousarray(queries), limit, params=parameters)
        return [
            [(int(id), float(cosine)) for id, cosine in zip(*row, strict=True) if id >= 0]
            for row in zip(ids, cosines, strict=True)
        ]

    def rows(self, ids: Collection[int]) -> Vectors:
        """float32 [n, dimension]: the vectors of these chunk ids, in their order."""
        found: Vectors = np.zeros((len(ids), int(self._index.d)), dtype=np.float32)
        for place, id in enumerate(ids):
            found[place] = self._index.reconstruct(int(id))
        return found

    def ids(self) -> Ids:
        """int64 [n]: every chunk id, in the order of the file."""
        import faiss

        found: Ids = faiss.vector_to_array(self._index.id_map)
        return found


def _is_whole(file: BinaryIO, index_id: str, generation: int) -> bool:
    body = os.fstat(file.fileno()).st_size - _TRAILER.size
    if body < 0:
        return False
    digest = _hash(file, body)
    expected = _TRAILER.pack(_MARK, bytes.fromhex(index_id), generation, digest)
    return file.read(_TRAILER.size) == expected


def _hash(file: BinaryIO, size: int) -> bytes:
    """SHA-256 of the first `size` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0:
        block = file.read(min(size, 1 << 20))
        if not block:
            break
        digest.update(block)
        size -= len(block)
    return digest.digest()
