"""A FAISS index out of the store's vectors: built anew, or an older one brought up to date."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag.embedder import Vectors
from rag.layout import Kind, Layout, list_count
from rag.store import Ids, Store

# Enough for k-means to place a cluster; more costs time and gains little.
_TRAINED_ON = 48
_ROUNDS = 10
_SAMPLE = 256
_NEIGHBOURS = 10
# Questions lie further from the passages than passages from one another, so more is asked here than is promised.
_RECALL = 0.995
_GRAPH_LINKS = 32
_GRAPH_EFFORT = 80


@dataclass(frozen=True)
class Built:
    """A FAISS index over chunk ids with what it says of itself; `dead` are ids in it that no chunk has any more."""

    index: Any
    layout: Layout
    dead: Ids


def build(store: Store) -> Built:
    """From all of the store's vectors, a block at a time; call it in a snapshot.

    An index that is not exact then measures itself: for 256 stored vectors the ten nearest others are known exactly,
    and it is given the least effort that finds 995 in 1000 of them.
    """
    count = store.count_chunks()
    kind = store.layout.kind(count)
    dimension = store.manifest.dimension
    exact = kind == "flat" and store.storage in ("float32", "float16")
    index = _empty(store, kind, count)
    if exact:
        for ids, vectors in store.vector_blocks(by_document=True):
            index.add_with_ids(vectors, ids)
        return Built(index, Layout(kind, store.storage, built_of=count), _NONE)
    lists = list_count(count) if kind == "ivf" else 0
    training = _sample(store, count, max(lists * _TRAINED_ON, 20_000))
    if count:
        _train(index, training)
    else:
        index.train(np.eye(dimension, dtype=np.float32))
    queries = training[np.random.default_rng(1).permutation(len(training))[:_SAMPLE]]
    truth = _Nearest(queries)
    for ids, vectors in store.vector_blocks(by_document=kind == "flat"):
        index.add_with_ids(vectors, ids)
        truth.look_at(ids, vectors)
    layout = Layout(kind, store.storage, lists=lists, built_of=count)
    return Built(index, _tuned(index, layout, queries, truth), _NONE)


def caught_up(store: Store, index: Any, layout: Layout, dead: Ids) -> Built | None:
    """An older index of this store, wholly in memory, with the chunks added and taken away since; call it in a
    snapshot. None where building anew is better: it is small, another type is due, or a fifth has changed."""
    count = store.count_chunks()
    kind = store.layout.kind(count)
    if kind == "flat" or (kind, store.storage) != (layout.kind, layout.storage):
        return None
    there, wanted = ids_in(index, kind), store.all_ids()
    gone = np.setdiff1d(there, wanted, assume_unique=True)
    new = np.setdiff1d(wanted, there, assume_unique=True)
    if len(gone) + len(new) > count // 5 or not 0.5 < count / max(1, layout.built_of) < 2:
        return None
    if kind == "ivf":
        import faiss

        index.remove_ids(faiss.IDSelectorBatch(gone))
        gone = _NONE
    for start in range(0, len(new), 8192):
        part = new[start : start + 8192]
        index.add_with_ids(store.vectors(part.tolist()), part)
    return Built(index, layout, gone)


def ids_in(index: Any, kind: Kind) -> Ids:
    """int64 [n]: every id that the FAISS index holds."""
    import faiss

    if kind != "ivf":
        found: Ids = faiss.vector_to_array(index.id_map)
        return found
    lists = index.invlists
    parts = [np.zeros(0, dtype=np.int64)]
    for number in range(index.nlist):
        size = lists.list_size(number)
        if size:
            parts.append(faiss.rev_swig_ptr(lists.get_ids(number), size).copy())
    return np.concatenate(parts)


def decoded(index: Any, kind: Kind) -> Iterator[tuple[Ids, Vectors]]:
    """(ids, the vectors that their codes stand for) in blocks: of all, or of one vector from each cluster."""
    import faiss

    if kind == "ivf":
        lists, ids, vectors = index.invlists, [], []
        for number in range(index.nlist):
            if lists.list_size(number):
                ids.append(int(lists.get_single_id(number, 0)))
                vector = np.zeros(index.d, dtype=np.float32)
                index.reconstruct_from_offset(number, 0, faiss.swig_ptr(vector))
                vectors.append(vector)
        if ids:
            yield np.array(ids, dtype=np.int64), np.stack(vectors)
        return
    every = ids_in(index, kind)
    inner: Any = faiss.downcast_index(index.index)
    codes: Any = faiss.downcast_index(inner.storage) if kind == "hnsw" else inner
    for start in range(0, len(every), 8192):
        some = every[start : start + 8192]
        yield some, codes.reconstruct_n(start, len(some))


_NONE: Ids = np.zeros(0, dtype=np.int64)


def _empty(store: Store, kind: Kind, count: int) -> Any:
    """Codes of one byte a number serve a graph and clusters: what they find is ranked by the stored vectors."""
    import faiss

    codes = {"float32": "Flat", "float16": "SQfp16", "int8": "SQ8", "binary": "RaBitQ"}[store.storage]
    if kind == "hnsw":
        factory = f"IDMap,HNSW{_GRAPH_LINKS}_SQ8"
    elif kind == "ivf":
        factory = f"IVF{list_count(count)},{'RaBitQ' if store.storage == 'binary' else 'SQ8'}"
    else:
        factory = f"IDMap,{codes}"
    index: Any = faiss.index_factory(store.manifest.dimension, factory, faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        graph: Any = faiss.downcast_index(index.index)
        graph.hnsw.efConstruction = _GRAPH_EFFORT
    return index


def _sample(store: Store, count: int, wanted: int) -> Vectors:
    """float32 [about wanted, dimension]: a random choice of the stored vectors, the same for the same vectors."""
    chance = np.random.default_rng(0)
    parts = [np.zeros((0, store.manifest.dimension), dtype=np.float32)]
    for _, vectors in store.vector_blocks():
        parts.append(vectors if wanted >= count else vectors[chance.random(len(vectors)) < wanted / count])
    sample: Vectors = np.concatenate(parts)
    return sample


def _train(index: Any, sample: Vectors) -> None:
    """On GPUs where FAISS was built for them and there are some."""
    import faiss

    if isinstance(index, faiss.IndexIVF):
        # Tens of thousands of vectors place the codes; all of the sample places the clusters, whose number needs it.
        index.cp.niter = _ROUNDS
        index.cp.max_points_per_centroid = 2 * _TRAINED_ON
        index.cp.min_points_per_centroid = 1
        if faiss.get_num_gpus():
            index.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(index.d))
    index.train(sample)


class _Nearest:
    """The exact nearest neighbours of some vectors, found while all vectors pass by; a vector is not its own."""

    def __init__(self, queries: Vectors) -> None:
        self._queries = queries
        self._cosines = np.full((len(queries), _NEIGHBOURS), -2, dtype=np.float32)
        self.ids = np.full((len(queries), _NEIGHBOURS), -1, dtype=np.int64)

    def look_at(self, ids: Ids, vectors: Vectors) -> None:
        cosines = self._queries @ vectors.T
        cosines[cosines > 1 - 1e-6] = -2
        cosines = np.concatenate([self._cosines, cosines], axis=1)
        both = np.concatenate([self.ids, np.broadcast_to(ids, (len(self._queries), len(ids)))], axis=1)
        best = np.argpartition(-cosines, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
        self._cosines = np.take_along_axis(cosines, best, axis=1)
        self.ids = np.take_along_axis(both, best, axis=1)

    def recall(self, found: Ids) -> float:
        """The share of the neighbours that is among `found`, int64 [queries, any number]."""
        real = self.ids >= 0
        hits = (self.ids[:, :, None] == found[:, None, :]).any(axis=2)
        return float(hits[real].mean()) if real.any() else 1.0


def _tuned(index: Any, layout: Layout, queries: Vectors, truth: _Nearest) -> Layout:
    """The least effort with which the index finds enough."""
    tried = layout
    most_candidates = 32 if layout.storage == "binary" else 4
    candidates = 4 if layout.storage == "binary" else 2
    effort, most = _first_effort(layout)
    while True:
        tried = dataclasses.replace(layout, probes=effort, candidates=candidates)
        found = index.search(queries, candidates * _NEIGHBOURS, params=search_parameters(tried, None, 1.0))[1]
        tried = dataclasses.replace(tried, recall=round(truth.recall(found), 4))
        if tried.recall >= _RECALL or (effort >= most and candidates >= most_candidates):
            return tried
        # Whichever helps: what more candidates find at the same effort tells which of the two is short.
        wider = index.search(queries, 2 * candidates * _NEIGHBOURS, params=search_parameters(tried, None, 1.0))[1]
        if candidates < most_candidates and (
            effort >= most or truth.recall(wider) - tried.recall > (1 - tried.recall) / 3
        ):
            candidates *= 2
        else:
            effort = min(most, math.ceil(effort * 1.5))


def _first_effort(layout: Layout) -> tuple[int, int]:
    """Where to begin, and where to end."""
    if layout.kind == "ivf":
        # Never fewer than a hundredth: the sample may be easier than the questions to come.
        return max(4, layout.lists // 128), layout.lists
    return (96, 1024) if layout.kind == "hnsw" else (0, 0)


def search_parameters(layout: Layout, selector: Any, scale: float) -> Any:
    """What FAISS is told at a search: the selected ids, and the effort times `scale`. The caller holds on to `selector`
    until the search is done: FAISS before 1.15 keeps its address alone."""
    import faiss

    probes = math.ceil(layout.probes * scale)
    parameters: Any
    if layout.kind == "flat":
        parameters = faiss.SearchParameters()
    elif layout.kind == "hnsw":
        parameters = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]  # faiss's own types lack it
        parameters.efSearch = probes
    else:
        parameters = faiss.IVFRaBitQSearchParameters() if layout.storage == "binary" else faiss.SearchParametersIVF()
        parameters.nprobe = min(layout.lists, probes)
    if selector is not None:
        parameters.sel = selector
    return parameters
