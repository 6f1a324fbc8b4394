"""Questions into ranked chunks: by meaning (dense), by words (lexical), or by both (hybrid)."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from rag.analysis import terms
from rag.bm25 import Scores
from rag.diversity import Candidate, choose
from rag.embedder import Embedder, Vectors
from rag.errors import RagRequestError
from rag.filters import AllowedChunks, Filter, check_filter
from rag.fusion import convex, reciprocal_ranks
from rag.hits import Hit, hits_of, ranked
from rag.lexical import LexicalIndex
from rag.passages import Passage, passages, read_around
from rag.rerank import Reranker, checked_scores
from rag.store import Ids, Store, StoredChunk
from rag.vectors import VectorIndex

__all__ = ["Fusion", "Hit", "Mode", "SearchSettings", "encode_queries", "query_terms", "search_store"]

Mode = Literal["hybrid", "dense", "lexical"]
Fusion = Literal["convex", "rrf"]
Rows = Mapping[int, StoredChunk]

# The candidates of either arm; and the most, where caps and thresholds leave too few.
_DEPTH = 100
_DEEPEST = 10_000
_MOST_TERMS = 200
_MOST_NEIGHBOURS = 1_000


@dataclass(frozen=True)
class SearchSettings:
    """How to rank, and how many to give. Raises RagRequestError for values that cannot hold."""

    mode: Mode = "hybrid"
    top_k: int = 5
    fusion: Fusion = "convex"
    """How hybrid search merges its two arms: `convex` adds their scores, stretched to 0..1, with a weight; `rrf` adds
    one divided by (60 + rank) of either."""
    dense_weight: float = 0.5
    """What the dense arm counts in the convex combination, from 0 to 1; the lexical arm counts the rest."""
    reranker: Reranker | None = None
    """Reads the query together with each of the best `rerank_candidates` and ranks those anew by its own score."""
    rerank_candidates: int = 50
    diversity: float = 0.0
    """Maximal marginal relevance: 0 ranks by relevance alone, 1 by being unlike what is ranked above alone."""
    filter: Filter | None = None
    """Which documents may be found at all, by id, source, title and metadata: `rag.filters` says the language."""
    per_document: int | None = None
    """The most hits of one document."""
    neighbours: int = 0
    """Chunks before and after a hit's own that its `text` shows as well."""
    min_similarity: float | None = None
    """Hits whose cosine to the query is lower are left out."""

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, get_args(Mode))
        _one_of("fusion", self.fusion, get_args(Fusion))
        _at_least("top_k", self.top_k, 1)
        _at_least("rerank_candidates", self.rerank_candidates, 1)
        _at_least("per_document", 1 if self.per_document is None else self.per_document, 1)
        _at_least("neighbours", self.neighbours, 0)
        if self.neighbours > _MOST_NEIGHBOURS:
            raise RagRequestError(f"search.neighbours is {self.neighbours}; it must be at most {_MOST_NEIGHBOURS}")
        _within("dense_weight", self.dense_weight, 0, 1)
        _within("diversity", self.diversity, 0, 1)
        if self.filter is not None:
            check_filter(self.filter)
        _within("min_similarity", 0 if self.min_similarity is None else self.min_similarity, -1, 1)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RagRequestError(f"search.{name} is {value!r}; it must be {' or '.join(allowed)}{hint}")


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RagRequestError(f"search.{name} is {value!r}; it must be a whole number")
    if value < least:
        raise RagRequestError(f"search.{name} is {value}; it must be at least {least}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise RagRequestError(f"search.{name} is {value!r}; it must be a number")
    if not low <= value <= high:  # so for NaN too
        raise RagRequestError(f"search.{name} is {value}; it must be from {low:g} to {high:g}")


def search_store(
    store: Store,
    vectors: VectorIndex,
    lexical: LexicalIndex | None,
    queries: Sequence[str],
    encoded: Vectors,
    settings: SearchSettings,
    documents: Collection[str] | None,
    allowed: AllowedChunks,
) -> Callable[[], list[list[Hit]]]:
    """Up to `top_k` hits for each query: call this in a snapshot, and what it gives outside, for there the reranker
    reads, which takes its time and needs nothing of the store. `allowed` keeps what filters allow. `encoded` holds the
    queries' unit rows, float32 [q, dimension]; `lexical` is needed but for dense search. A query without any text has
    no hits, and in lexical mode one whose words occur nowhere has none.

    Hybrid takes the union of the best max(100, 5 * top_k) of either arm, knows both scores of each, and fuses them
    (`rag.fusion`). A convex combination is the default: reciprocal rank fusion looks at ranks alone, cannot tell a
    clear winner from a tie, and loses to the better arm where the other is weak. Published nDCG@10 x 100 for BM25 with
    all-MiniLM-L6-v2, rank fusion / convex: SciFact 71.4 / 73.4, NFCorpus 34.4 / 35.6, FiQA 36.9 / 37.1, SCIDOCS 20.1 /
    19.7, ArguAna 39.6 / 40.0. Both arms weigh the same unless a weight is stated: on SciFact's training claims and on
    XQuAD's questions this is within half a point of the best weight, which lies at 0.5 or 0.6.

    The filter and `documents` restrict both arms before they rank. Then, in this order: hits below `min_similarity` go,
    the reranker ranks the best `rerank_candidates` anew and the others go, and of what is left `rag.diversity.choose`
    takes up to `top_k`. Where caps and thresholds leave fewer than `top_k`, both arms are searched deeper, up to 10,000
    candidates each. That is settled before the reranker reads: where `per_document` and `neighbours` let too few of the
    best be shown, the last of them make room for the best of those that can be. Of equal scores the lower (document id,
    position) comes first; where more are equal than there are candidates, the older chunks are taken.

    Raises:
        RagRequestError: the filter is wrong, or `documents` names one that the index does not hold.
        RagError: from what it gives: the reranker gave something that is no number.
    """
    among = allowed.find(store, settings.filter, documents)
    depth = max(_DEPTH, 5 * settings.top_k, settings.rerank_candidates if settings.reranker else 0)
    asked = [bool(query.strip()) for query in queries]
    nearest: list[list[tuple[int, float]]] = [[] for _ in queries]
    if settings.mode != "lexical" and any(asked) and (among is None or len(among)):
        rows = [place for place, asks in enumerate(asked) if asks]
        for place, found in zip(rows, vectors.search(encoded[rows], depth, among), strict=True):
            nearest[place] = found
    hits: list[list[Hit] | _Reranking] = []
    for query, row, dense, asks in zip(queries, encoded, nearest, asked, strict=True):
        if not asks or (among is not None and not len(among)):
            hits.append([])
            continue
        search = _Search(store, vectors, lexical, query, row, settings, among)
        hits.append(search.found(depth, dense))
    return lambda: [found if isinstance(found, list) else found.hits() for found in hits]


class _Search:
    """One query in one snapshot."""

    def __init__(
        self,
        store: Store,
        vectors: VectorIndex,
        lexical: LexicalIndex | None,
        query: str,
        row: Vectors,
        settings: SearchSettings,
        among: Ids | None,
    ) -> None:
        self.store, self.vectors, self.lexical = store, vectors, lexical
        self.query, self.row, self.settings, self.among = query, row, settings, among
        self.question = None if lexical is None else lexical.ask(query_terms(query))
        # A reranker gives no more than it reads.
        self.most = settings.top_k if settings.reranker is None else min(settings.top_k, settings.rerank_candidates)

    def found(self, depth: int, dense: list[tuple[int, float]]) -> list[Hit] | _Reranking:
        """`dense` holds the nearest `depth` chunks, or as many as there are."""
        while True:
            matches = self._matches(depth)
            ids, similarity, score = self._scored(dense, matches)
            candidates, rows = self._candidates(ids, similarity, score)
            chosen = self._chosen(candidates)
            if len(chosen) >= self.most or depth >= _DEEPEST or self._all_seen(depth, dense, matches):
                if self.settings.reranker is None:
                    return self._shown(chosen, rows)
                to_read = _best_with(chosen, candidates, self.settings.rerank_candidates)
                return self._to_rerank(self.settings.reranker, to_read, rows)
            depth = min(4 * depth, _DEEPEST)
            if self.settings.mode != "lexical":
                dense = self.vectors.search(self.row[None], depth, self.among)[0]

    def _matches(self, depth: int) -> list[tuple[int, float]]:
        if self.lexical is None or self.question is None:
            return []
        return self.lexical.best(self.question, depth, self.among)

    def _all_seen(self, depth: int, dense: list[tuple[int, float]], matches: list[tuple[int, float]]) -> bool:
        """Whether looking deeper can find no further hit."""
        least = self.settings.min_similarity
        if self.settings.mode != "lexical" and least is not None and dense and dense[-1][1] < least:
            return True
        return len(matches) < depth and (self.settings.mode == "lexical" or len(dense) < depth)

    def _scored(self, dense: list[tuple[int, float]], matches: list[tuple[int, float]]) -> tuple[Ids, Scores, Scores]:
        """(int64 ids ascending, their cosines, what they are ranked by)."""
        cosines = dict(dense)
        others = sorted(id for id, _ in matches if id not in cosines)
        if self.settings.mode == "lexical" and self.settings.min_similarity is None:
            cosines = dict.fromkeys(others, 0.0)  # only those of the hits are needed: `_shown` reads them
        elif others:
            cosines |= zip(others, (self.vectors.rows(others) @ self.row).tolist(), strict=True)
        ids = np.array(sorted(cosines), dtype=np.int64)
        similarity = np.array([cosines[id] for id in ids.tolist()], dtype=np.float64).clip(-1, 1).round(6)
        if self.settings.mode == "dense":
            return ids, similarity, similarity
        lexical = np.zeros(len(ids), dtype=np.float64)
        if self.lexical is not None and self.question is not None:
            lexical = self.lexical.scores(self.question, ids)
        if self.settings.mode == "lexical":
            return ids, similarity, lexical
        if self.settings.fusion == "rrf":
            return ids, similarity, reciprocal_ranks(similarity, lexical)
        return ids, similarity, convex(similarity, lexical, self.settings.dense_weight).round(6)

    def _candidates(self, ids: Ids, similarity: Scores, score: Scores) -> tuple[list[Candidate], Rows]:
        """What may be shown or is to be reranked, best first, with its rows."""
        settings = self.settings
        if settings.min_similarity is not None:
            close = similarity >= settings.min_similarity
            ids, similarity, score = ids[close], similarity[close], score[close]
        order = np.lexsort((ids, -score))
        reranks = settings.reranker is not None
        picks_all = settings.per_document or settings.neighbours or (settings.diversity and not reranks)
        wanted = len(ids) if picks_all else settings.rerank_candidates if reranks else settings.top_k
        if wanted < len(order):  # with all that are equal to the last one, whose order is by document
            wanted = int(np.searchsorted(-score[order], -score[order[wanted - 1]], side="right"))
        order = order[:wanted]
        rows = {stored.id: stored for stored in self.store.chunks(ids[order].tolist())}
        return ranked(rows, ids[order].tolist(), score[order].tolist(), similarity[order].tolist()), rows

    def _chosen(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """What is shown; before reranking, as many as can be."""
        settings = self.settings
        if settings.reranker is None:
            return _choose(candidates, settings, self._unit_rows(candidates))
        return choose(candidates, self.most, per_document=settings.per_document, neighbours=settings.neighbours)

    def _with_cosines(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """With the cosines to the query, which lexical search has not looked up so far."""
        if self.settings.mode != "lexical" or not candidates:
            return list(candidates)
        found = self.vectors.rows([candidate.id for candidate in candidates]) @ self.row
        cosines = found.astype(np.float64).clip(-1, 1).round(6).tolist()
        return [replace(candidate, similarity=cosine) for candidate, cosine in zip(candidates, cosines, strict=True)]

    def _unit_rows(self, candidates: Sequence[Candidate]) -> Vectors | None:
        return self.vectors.rows([candidate.id for candidate in candidates]) if self.settings.diversity else None

    def _shown(self, chosen: Sequence[Candidate], rows: Rows) -> list[Hit]:
        stored = [rows[candidate.id] for candidate in chosen]
        around = read_around(self.store, stored, self.settings.neighbours)
        return hits_of(self._with_cosines(chosen), stored, passages(stored, around))

    def _to_rerank(self, reranker: Reranker, candidates: Sequence[Candidate], rows: Rows) -> _Reranking:
        read = {candidate.id: rows[candidate.id] for candidate in candidates}
        around = read_around(self.store, list(read.values()), self.settings.neighbours)
        found = self._with_cosines(candidates)
        unit_rows = self._unit_rows(candidates)
        return _Reranking(self.query, self.settings, reranker, found, read, unit_rows, around)


@dataclass(frozen=True)
class _Reranking:
    """The candidates of one query with all that it takes to rank them anew, and to show the best, without the store."""

    query: str
    settings: SearchSettings
    reranker: Reranker
    candidates: Sequence[Candidate]
    rows: Rows
    unit_rows: Vectors | None
    around: Mapping[int, Passage]

    def hits(self) -> list[Hit]:
        before = [candidate.id for candidate in self.candidates]
        texts = [self.rows[id].chunk.embedded_text for id in before]
        scores = checked_scores(self.reranker.scores(self.query, texts), len(texts))
        anew = ranked(self.rows, before, scores, [candidate.similarity for candidate in self.candidates])
        place = {id: number for number, id in enumerate(before)}
        unit_rows = None if self.unit_rows is None else self.unit_rows[[place[candidate.id] for candidate in anew]]
        chosen = _choose(anew, self.settings, unit_rows)
        stored = [self.rows[candidate.id] for candidate in chosen]
        return hits_of(chosen, stored, passages(stored, self.around))


def _best_with(needed: Sequence[Candidate], candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """The `needed` ones and the best others (`candidates` are ranked): up to `most`, best first."""
    kept = {candidate.id for candidate in needed}
    others = (candidate.id for candidate in candidates if candidate.id not in kept)
    kept |= set(itertools.islice(others, most - len(needed)))
    return [candidate for candidate in candidates if candidate.id in kept]


def _choose(candidates: Sequence[Candidate], settings: SearchSettings, unit_rows: Vectors | None) -> list[Candidate]:
    return choose(
        candidates,
        settings.top_k,
        per_document=settings.per_document,
        neighbours=settings.neighbours,
        diversity=settings.diversity,
        vectors=unit_rows,
    )


def encode_queries(embedder: Embedder, queries: Sequence[str]) -> tuple[list[str], Vectors]:
    """(the queries with what UTF-8 cannot say replaced, their unit rows float32 [q, dimension])."""
    cleaned = [query.encode("utf-8", "replace").decode("utf-8") for query in queries]
    return cleaned, embedder.encode_queries(cleaned)


def query_terms(query: str) -> list[str]:
    """The query's first 200 distinct terms."""
    return list(dict.fromkeys(terms(query)))[:_MOST_TERMS]
