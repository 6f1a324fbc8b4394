"""Questions into ranked chunks: by meaning (dense), by words (lexical), or by both (hybrid)."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from rag.analysis import terms
from rag.bm25 import Scores
from rag.chunking import Chunk
from rag.corpus import Metadata
from rag.diversity import Candidate, choose
from rag.embedder import Embedder, Vectors
from rag.errors import RagRequestError
from rag.filters import Filter, allowed_chunks, check_filter
from rag.fusion import convex, reciprocal_ranks
from rag.lexical import LexicalIndex
from rag.passages import passages
from rag.rerank import Reranker, checked_scores
from rag.store import Ids, Store, StoredChunk
from rag.vectors import VectorIndex

Mode = Literal["hybrid", "dense", "lexical"]
Fusion = Literal["convex", "rrf"]

# The candidates of either arm; and the most, where caps and thresholds leave too few.
_DEPTH = 100
_DEEPEST = 10_000
_MOST_TERMS = 200


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
        _within("dense_weight", self.dense_weight, 0, 1)
        _within("diversity", self.diversity, 0, 1)
        if self.filter is not None:
            check_filter(self.filter)
        _within("min_similarity", 0 if self.min_similarity is None else self.min_similarity, -1, 1)


@dataclass(frozen=True)
class Hit:
    """One chunk found, and the passage around it that is shown.

    `score` is what the ranking went by: the similarity (dense), BM25 (lexical), the fused score (hybrid) or the
    reranker's score. `similarity` is the cosine to the query, from -1 to 1. Higher is better. `rank` counts from 1.
    `text` is the document's `text[start:end]`: the chunk's own, with its neighbours where they were asked for.
    `source` and `metadata` are the document's.
    """

    chunk: Chunk
    title: str
    score: float
    similarity: float
    rank: int
    source: str
    metadata: Metadata
    start: int
    end: int
    text: str


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RagRequestError(f"search.{name} is {value!r}; it must be {' or '.join(allowed)}{hint}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise RagRequestError(f"search.{name} is {value}; it must be at least {least}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # so for NaN too
        raise RagRequestError(f"search.{name} is {value}; it must be from {low:g} to {high:g}")


def search_store(
    store: Store,
    vectors: VectorIndex,
    lexical: LexicalIndex | None,
    queries: Sequence[str],
    encoded: Vectors,
    settings: SearchSettings,
    documents: Collection[str] | None = None,
) -> list[list[Hit]]:
    """Up to `top_k` hits for each query; call it in a snapshot. `encoded` holds the queries' unit rows, float32
    [q, dimension]; `lexical` is needed but for dense search. A query without any text has no hits, and in lexical mode
    one whose words occur nowhere has none.

    Hybrid takes the union of the best max(100, 5 * top_k) of either arm, knows both scores of each, and fuses them
    (`rag.fusion`). A convex combination is the default: reciprocal rank fusion looks at ranks alone, cannot tell a
    clear winner from a tie, and loses to the better arm where the other is weak. Published nDCG@10 x 100 for BM25 with
    all-MiniLM-L6-v2, rank fusion / convex: SciFact 71.4 / 73.4, NFCorpus 34.4 / 35.6, FiQA 36.9 / 37.1, SCIDOCS 20.1 /
    19.7, ArguAna 39.6 / 40.0. Both arms weigh the same unless a weight is stated: on SciFact's training claims and on
    XQuAD's questions this is within half a point of the best weight, which lies at 0.5 or 0.6.

    The filter and `documents` restrict both arms before they rank. Then, in this order: hits below `min_similarity` go,
    the reranker ranks the best `rerank_candidates` anew and the others go, and of what is left `rag.diversity.choose`
    takes up to `top_k`. Where caps and thresholds leave fewer than `top_k`, both arms are searched deeper, up to 10,000
    candidates each. Of equal scores the lower (document id, position) comes first; where more are equal than there are
    candidates, the older chunks are taken.

    Raises:
        RagRequestError: the filter is wrong, or `documents` names one that the index does not hold.
        RagError: the reranker gave something that is no number.
    """
    among = allowed_chunks(store, settings.filter, documents)
    depth = max(_DEPTH, 5 * settings.top_k, settings.rerank_candidates if settings.reranker else 0)
    asked = [bool(query.strip()) for query in queries]
    nearest: list[list[tuple[int, float]]] = [[] for _ in queries]
    if settings.mode != "lexical" and any(asked) and (among is None or len(among)):
        rows = [place for place, asks in enumerate(asked) if asks]
        for place, found in zip(rows, vectors.search(encoded[rows], depth, _listed(among)), strict=True):
            nearest[place] = found
    hits: list[list[Hit]] = []
    for query, row, dense, asks in zip(queries, encoded, nearest, asked, strict=True):
        if not asks or (among is not None and not len(among)):
            hits.append([])
            continue
        search = _Search(store, vectors, lexical, query, row, settings, among)
        hits.append(search.hits(depth, dense))
    return hits


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

    def hits(self, depth: int, dense: list[tuple[int, float]]) -> list[Hit]:
        """`dense` holds the nearest `depth` chunks, or as many as there are."""
        while True:
            matches = self._matches(depth)
            ids, similarity, score = self._scored(dense, matches)
            chosen, texts = self._chosen(ids, similarity, score)
            if len(chosen) >= self.settings.top_k or depth >= _DEEPEST or self._all_seen(depth, dense, matches):
                return self._shown(chosen, texts)
            depth = min(4 * depth, _DEEPEST)
            if self.settings.mode != "lexical":
                dense = self.vectors.search(self.row[None], depth, _listed(self.among))[0]

    def _matches(self, depth: int) -> list[tuple[int, float]]:
        if self.lexical is None or self.question is None:
            return []
        return self.lexical.best(self.question, depth, self.among)

    def _all_seen(self, depth: int, dense: list[tuple[int, float]], matches: list[tuple[int, float]]) -> bool:
        """Whether looking deeper can find no further hit."""
        if self.settings.reranker is not None:
            return True
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

    def _chosen(self, ids: Ids, similarity: Scores, score: Scores) -> tuple[list[Candidate], dict[int, StoredChunk]]:
        """The hits, best first, and their rows as far as they were read already."""
        settings = self.settings
        if settings.min_similarity is not None:
            close = similarity >= settings.min_similarity
            ids, similarity, score = ids[close], similarity[close], score[close]
        order = np.lexsort((ids, -score))
        picks_all = settings.per_document or settings.neighbours or settings.diversity
        wanted = len(ids) if picks_all else settings.top_k
        if settings.reranker is not None:
            wanted = settings.rerank_candidates
        if wanted < len(order):  # with all that are equal to the last one, whose order is by document
            wanted = int(np.searchsorted(-score[order], -score[order[wanted - 1]], side="right"))
        order = order[:wanted]
        rows = {stored.id: stored for stored in self.store.chunks(ids[order].tolist())}
        ranked = _ranked(rows, ids[order].tolist(), score[order].tolist(), similarity[order].tolist())
        if settings.reranker is not None:
            ranked = ranked[: settings.rerank_candidates]
            passages = [rows[candidate.id].chunk.embedded_text for candidate in ranked]
            anew = checked_scores(settings.reranker.scores(self.query, passages), len(passages))
            cosines = [candidate.similarity for candidate in ranked]
            ranked = _ranked(rows, [candidate.id for candidate in ranked], anew, cosines)
        unit_rows = self.vectors.rows([candidate.id for candidate in ranked]) if settings.diversity else None
        chosen = choose(
            ranked,
            settings.top_k,
            per_document=settings.per_document,
            neighbours=settings.neighbours,
            diversity=settings.diversity,
            vectors=unit_rows,
        )
        return chosen, rows

    def _shown(self, chosen: Sequence[Candidate], rows: Mapping[int, StoredChunk]) -> list[Hit]:
        stored = [rows[candidate.id] for candidate in chosen]
        cosines = [candidate.similarity for candidate in chosen]
        if self.settings.mode == "lexical" and chosen:
            found = self.vectors.rows([candidate.id for candidate in chosen]) @ self.row
            cosines = found.astype(np.float64).clip(-1, 1).round(6).tolist()
        shown = passages(self.store, stored, self.settings.neighbours)
        return [
            Hit(
                chunk=of.chunk,
                title=of.title,
                score=candidate.score,
                similarity=similarity,
                rank=rank,
                source=of.source or of.chunk.document_id,
                metadata=of.metadata,
                start=passage.start,
                end=passage.end,
                text=passage.text,
            )
            for rank, (candidate, similarity, of, passage) in enumerate(
                zip(chosen, cosines, stored, shown, strict=True), start=1
            )
        ]


def encode_queries(embedder: Embedder, queries: Sequence[str]) -> tuple[list[str], Vectors]:
    """(the queries with what UTF-8 cannot say replaced, their unit rows float32 [q, dimension])."""
    cleaned = [query.encode("utf-8", "replace").decode("utf-8") for query in queries]
    return cleaned, embedder.encode_queries(cleaned)


def query_terms(query: str) -> list[str]:
    """The query's first 200 distinct terms."""
    return list(dict.fromkeys(terms(query)))[:_MOST_TERMS]


def _ranked(
    rows: Mapping[int, StoredChunk], ids: Sequence[int], scores: Sequence[float], similarities: Sequence[float]
) -> list[Candidate]:
    """Best first; of equals the lower (document id, position)."""
    candidates = [
        Candidate(id, rows[id].chunk.document_id, rows[id].chunk.position, score, similarity)
        for id, score, similarity in zip(ids, scores, similarities, strict=True)
    ]
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.document, candidate.position))


def _listed(among: Ids | None) -> list[int] | None:
    return None if among is None else among.tolist()
