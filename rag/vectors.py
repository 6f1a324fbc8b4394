"""Search by cosine: over the vectors file, with what changed since it was written."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from rag.embedder import Vectors
from rag.store import Ids, Store
from rag.vectors_building import Built, build, caught_up, decoded, ids_in, search_parameters
from rag.vectors_file import VectorsFile, find_files, leftovers, read_file, remove_files, write_file
from rag.vectors_gpu import MOST_ON_GPU, GpuIndex, copy_to_gpu

# Of fewer vectors than this share, comparing with each costs less than looking around for them.
_FEW = 0.1
# So many stored vectors are read and compared in milliseconds, which is exact.
_READ_AT_ONCE = 2000
# One bit a number tells neighbours from one another, but not a few vectors that are all far away.
_MORE_OF_BITS = 4
# A set of ids as bits is the fastest there is to ask, as long as ids are not scattered over billions.
_MOST_BITS = 1 << 28


class VectorIndex:
    """Of one generation of the store: a FAISS index, the chunks that are gone from it, and those it does not hold yet.

    Ids are never given twice, so a file of any generation serves: what it holds too much is passed over, what it lacks
    is compared one by one. What FAISS finds by rounded numbers is ranked anew by the stored vectors, so that every
    cosine that comes out is exact; which chunks are found is approximate unless `layout.candidates` is 1.
    """

    def __init__(self, store: Store, generation: int, built: Built, fresh: Ids) -> None:
        """Use `build` or `read`."""
        self.generation, self.token, self.layout = generation, store.token, built.layout
        self._store, self._index, self._dead, self._fresh = store, built.index, built.dead, fresh
        self._fresh_vectors = store.vectors(fresh.tolist())
        self._gpu: GpuIndex | None = copy_to_gpu(built.index, built.layout)

    @classmethod
    def build(cls, store: Store) -> VectorIndex:
        """From the store's vectors, in memory; call it in a snapshot."""
        return cls(store, store.generation, build(store), np.zeros(0, dtype=np.int64))

    @classmethod
    def read(cls, folder: Path, store: Store) -> VectorIndex | None:
        """From the file of the store's generation; None where it is missing, damaged or another's. Call it in a
        snapshot."""
        generation = store.generation
        file = read_file(folder / f"vectors-{generation}.faiss", store.token, generation)
        return None if file is None else cls._over(file, store)

    @classmethod
    def read_any(cls, folder: Path, store: Store) -> VectorIndex | None:
        """From the newest file that is whole, of whatever generation this index was; None where there is none, or where
        more than a tenth has changed since. Call it in a snapshot."""
        for generation, path in find_files(folder):
            token = store.token_of(generation)
            file = None if token is None else read_file(path, token, generation)
            if file is not None and (found := cls._over(file, store)) is not None:
                return found
        return None

    @classmethod
    def _over(cls, file: VectorsFile, store: Store) -> VectorIndex | None:
        if file.layout.storage != store.storage or file.broken_blocks(everything=False):
            return None
        index = file.load(store.manifest.dimension)
        if index is None:
            return None
        generation = store.generation
        dead, fresh = np.array(file.dead, dtype=np.int64), np.zeros(0, dtype=np.int64)
        if file.generation != generation:
            there, wanted = ids_in(index, file.layout.kind), store.all_ids()
            dead, fresh = (
                np.setdiff1d(there, wanted, assume_unique=True),
                np.setdiff1d(wanted, there, assume_unique=True),
            )
            if len(fresh) > max(1000, _FEW * len(wanted)):
                return None
        elif index.ntotal - len(dead) != store.count_chunks():
            return None
        return cls(store, generation, Built(index, file.layout, dead), fresh)

    @property
    def size(self) -> int:
        """Chunks that can be found."""
        return int(self._index.ntotal) - len(self._dead) + len(self._fresh)

    def search(
        self, queries: Vectors, limit: int, among: Collection[int] | Ids | None = None
    ) -> list[list[tuple[int, float]]]:
        """For each row of `queries`, float32 [q, dimension] unit rows: up to `limit` (chunk id, cosine), best first,
        among these chunk ids if given. Call it in the snapshot that this index was made in, or in one of the same
        generation. Of few `among` none is overlooked; there are as many hits as there are chunks to find.

        Raises:
            DamagedIndexError: the vectors file names a chunk that there is not, or a stored vector was damaged.
        """
        chosen = None if among is None else _ascending(among)
        limit = min(limit, self.size if chosen is None else len(chosen))
        if limit == 0 or not len(queries):
            return [[] for _ in queries]
        queries = np.ascontiguousarray(queries)
        if chosen is not None and len(chosen) <= _READ_AT_ONCE and self.layout.candidates > 1:
            cosines = queries @ self._store.vectors(chosen.tolist()).T
            return [_best(dict(zip(chosen.tolist(), row, strict=True)), limit) for row in cosines.tolist()]
        if self.layout.candidates == 1:
            cosines, ids = self._look(queries, limit, chosen)
            found = [
                {int(id): float(cosine) for id, cosine in zip(*row, strict=True) if id >= 0}
                for row in zip(ids, cosines, strict=True)
            ]
        else:
            more = _MORE_OF_BITS if self.layout.storage == "binary" and chosen is not None else 1
            _, ids = self._look(queries, more * self.layout.candidates * max(limit, 10), chosen)
            every = _ascending(ids[ids >= 0])
            vectors = self._store.vectors(every.tolist())
            found = []
            for query, row in zip(queries, ids, strict=True):
                mine = _ascending(row[row >= 0])
                cosines = vectors[np.searchsorted(every, mine)] @ query
                found.append(dict(zip(mine.tolist(), cosines.tolist(), strict=True)))
        if len(self._fresh):
            keep = slice(None) if chosen is None else np.isin(self._fresh, chosen, assume_unique=True)
            ids, cosines = self._fresh[keep], queries @ self._fresh_vectors[keep].T
            for row, new in zip(found, cosines, strict=True):
                best = np.argsort(-new, kind="stable")[:limit]
                row.update(zip(ids[best].tolist(), new[best].tolist(), strict=True))
        return [_best(row, limit) for row in found]

    def _look(self, queries: Vectors, limit: int, chosen: Ids | None) -> tuple[Vectors, Ids]:
        """FAISS's own (cosines, ids), each [q, limit], with -1 for no id."""
        if chosen is None and not len(self._dead) and self._gpu is not None and limit <= MOST_ON_GPU:
            return self._gpu.search(queries, limit)
        wanted = (
            chosen if chosen is None or not len(self._dead) else np.setdiff1d(chosen, self._dead, assume_unique=True)
        )
        if wanted is not None and len(wanted) == 0:
            return np.zeros((len(queries), 0), dtype=np.float32), np.zeros((len(queries), 0), dtype=np.int64)
        share = 1.0 if wanted is None else len(wanted) / max(1, int(self._index.ntotal))
        if self.layout.kind == "flat" or share > _FEW:
            cosines, ids = self._around(queries, limit, wanted, share)
            # As many as there are: few of the chosen may lie where the search looked.
            most = int(self._index.ntotal) - len(self._dead) if wanted is None else len(wanted)
            if self.layout.kind == "flat" or bool(((ids >= 0).sum(axis=1) >= min(limit, most)).all()):
                return cosines, ids
        return self._everywhere(queries, limit, wanted)

    def _around(self, queries: Vectors, limit: int, wanted: Ids | None, share: float) -> tuple[Vectors, Ids]:
        selector = self._selector(wanted)  # which this name keeps in memory until the search is done
        parameters = search_parameters(self.layout, selector, 1 / share)
        if self.layout.kind == "hnsw":
            parameters.efSearch = max(parameters.efSearch, limit)
        return _searched(self._index, queries, limit, parameters)

    def _everywhere(self, queries: Vectors, limit: int, wanted: Ids | None) -> tuple[Vectors, Ids]:
        """Compares with every chosen vector's codes."""
        import faiss

        selector: Any  # a name until the search is done, as in `_around`: FAISS before 1.15 does not keep it by itself
        if self.layout.kind != "hnsw":
            selector = self._selector(wanted)
            parameters = search_parameters(self.layout, selector, float(self.layout.lists or 1))
            return _searched(self._index, queries, limit, parameters)
        ids = ids_in(self._index, "hnsw")
        keep = np.isin(ids, self._dead, invert=True) if wanted is None else np.isin(ids, wanted)
        selector = faiss.IDSelectorBatch(np.flatnonzero(keep))
        graph: Any = faiss.downcast_index(self._index.index)
        plain: Any = faiss.SearchParameters()
        plain.sel = selector
        cosines, places = _searched(faiss.downcast_index(graph.storage), queries, limit, plain)
        return cosines, np.where(places >= 0, ids[places], -1)

    def _selector(self, wanted: Ids | None) -> Any:
        import faiss

        if wanted is None:
            return faiss.IDSelectorNot(faiss.IDSelectorBatch(self._dead)) if len(self._dead) else None
        if wanted[0] < 0 or wanted[-1] >= _MOST_BITS:
            return faiss.IDSelectorBatch(wanted)
        bits = np.zeros(int(wanted[-1]) + 1, dtype=bool)
        bits[wanted] = True
        selector: Any = faiss.IDSelectorBitmap  # faiss's own types know its C++ signature alone
        return selector(np.packbits(bits, bitorder="little"))

    def rows(self, ids: Collection[int]) -> Vectors:
        """float32 [n, dimension]: the stored vectors of these chunk ids, in their order.

        Raises:
            DamagedIndexError: there is no such chunk, or a bit of its vector is not what was written.
        """
        return self._store.vectors(ids)

    def ids(self) -> Ids:
        """int64 [n]: every chunk id, ascending."""
        there = np.setdiff1d(ids_in(self._index, self.layout.kind), self._dead, assume_unique=True)
        return np.sort(np.concatenate([there, self._fresh]))

    def strange_vector(self) -> int | None:
        """The id of a chunk whose codes are not those of its stored vector: all are compared, of clusters one each."""
        for ids, vectors in decoded(self._index, self.layout.kind):
            alive = np.isin(ids, self._dead, invert=True)
            cosines = (self._store.vectors(ids[alive].tolist()) * vectors[alive]).sum(axis=1)
            # What codes round away is far less than this, and vectors of different texts are seldom so close.
            least = 0.999 if self.layout.candidates == 1 else 0.5
            norms = np.maximum(np.linalg.norm(vectors[alive], axis=1), 1e-12)
            for id in ids[alive][cosines / norms < least].tolist():
                return int(id)
        return None


def _ascending(ids: Collection[int] | Ids) -> Ids:
    """int64 [n], each id once. (numpy's `unique` is twenty times slower on numbers in a narrow range.)"""
    sorted_ids = np.array(ids if isinstance(ids, np.ndarray) else list(ids), dtype=np.int64)
    sorted_ids.sort()
    return sorted_ids[np.concatenate([[True], sorted_ids[1:] != sorted_ids[:-1]])] if len(sorted_ids) else sorted_ids


def _best(found: dict[int, float], limit: int) -> list[tuple[int, float]]:
    return sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]


def _searched(index: Any, queries: Vectors, limit: int, parameters: Any) -> tuple[Vectors, Ids]:
    """A single query is answered by the calling thread alone: waiting for others costs more than they do, ten times as
    much where something else wants their core. OpenMP keeps this number for each thread by itself."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if len(queries) == 1 else threads)
    try:
        found: tuple[Vectors, Ids] = index.search(queries, limit, params=parameters)
        return found
    finally:
        faiss.omp_set_num_threads(threads)


def put_in_place(folder: Path, store: Store) -> VectorIndex:
    """Makes the file of the store's generation unless it is there, from an older one where that is quicker, and takes
    all others away; call it with the writer lock held.

    Raises:
        RagError: the disk is full or cannot be written.
    """
    with store.database.snapshot():
        found = VectorIndex.read(folder, store)
        if found is None or found.layout.kind != store.layout.kind(store.count_chunks()):
            found = _made(folder, store)
    remove_files(folder, other_than=[folder / f"vectors-{found.generation}.faiss"])
    return found


def is_in_place(folder: Path, store: Store) -> bool:
    """Whether there is nothing for `put_in_place` to do; call it in a snapshot."""
    file = read_file(folder / f"vectors-{store.generation}.faiss", store.token, store.generation)
    if file is None or leftovers(folder, store.generation):
        return False
    return file.layout.kind == store.layout.kind(store.count_chunks())


def _made(folder: Path, store: Store) -> VectorIndex:
    generation = store.generation
    built = _from_older(folder, store) or build(store)
    write_file(folder, store.token, generation, built.index, built.layout, built.dead)
    return VectorIndex(store, generation, built, np.zeros(0, dtype=np.int64))


def _from_older(folder: Path, store: Store) -> Built | None:
    for generation, path in find_files(folder):
        token = store.token_of(generation)
        file = None if token is None else read_file(path, token, generation)
        if file is None or file.layout.kind == "flat" or file.broken_blocks(everything=True):
            continue
        index = file.load(store.manifest.dimension, mapped=False)
        if index is not None:
            return caught_up(store, index, file.layout, np.array(file.dead, dtype=np.int64))
    return None
