"""Measuring search: documents ranked for judged queries, and the fusion weight tuned on queries of another split."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from rag.embedder import Embedder, Progress, Vectors
from rag.errors import RagRequestError
from rag.index import Index
from rag.metrics import mean_scores, score_rankings
from rag.qrels import JudgedQueries
from rag.search import SearchSettings

WEIGHTS = tuple(step / 20 for step in range(21))
_TOGETHER = 64


@dataclass(frozen=True)
class TunedWeight:
    """`curve` says what each weight reached on the tuning queries, as the mean of `metric`."""

    weight: float
    metric: str
    curve: Mapping[float, float]


class RememberedQueries:
    """An embedder that encodes each query once, however many settings are measured with it."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._rows: dict[str, Vectors] = {}
        self.name, self.revision = embedder.name, embedder.revision
        self.dimension, self.max_tokens = embedder.dimension, embedder.max_tokens
        self.query_prompt, self.passage_prompt = embedder.query_prompt, embedder.passage_prompt

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._embedder.count_tokens(texts)

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        return self._embedder.encode_passages(texts, progress)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dimension] unit rows, in the order of `texts`."""
        import numpy as np

        unseen = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if unseen:
            self._rows |= zip(unseen, self._embedder.encode_queries(unseen), strict=True)
        rows: Vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = self._rows[text]
        return rows


def rank_documents(
    index: Index, judged: JudgedQueries, settings: SearchSettings, depth: int, progress: Progress | None = None
) -> dict[str, list[str]]:
    """Query id -> ids of up to `depth` documents, best first. A document's score is that of its best chunk.

    For a metric at k rank k documents and no more: a search for more looks at more candidates, and may fuse the best of
    them in another order.

    Some corpora (ArguAna) ask with their own documents. A query that is such a document, told by an equal id and by its
    text, is not counted as an answer to itself, unless it is judged to be one. `progress` counts queries.
    """
    # One more than is asked for, so that a query that finds itself still has `depth` others.
    asked = replace(settings, top_k=depth + 1, per_document=1, neighbours=0)
    found: dict[str, list[str]] = {}
    ids = list(judged.queries)
    for start in range(0, len(ids), _TOGETHER):
        some = ids[start : start + _TOGETHER]
        for id, hits in zip(some, index.search_many([judged.queries[id] for id in some], asked), strict=True):
            documents = [hit.chunk.document_id for hit in hits]
            if id in documents and id not in judged.relevant[id] and _is_document(index, id, judged.queries[id]):
                documents.remove(id)
            found[id] = documents[:depth]
        if progress is not None:
            progress(len(found), len(ids))
    return found


def unknown_documents(judged: JudgedQueries, known: Collection[str]) -> list[str]:
    """The relevant documents that are not among the document ids `known`, each once, in the order judged.

    Raises:
        RagRequestError: none of them is, so that every figure would be 0.
    """
    held = set(known)
    wanted = list(dict.fromkeys(document for grades in judged.relevant.values() for document in grades))
    unknown = [document for document in wanted if document not in held]
    if len(unknown) == len(wanted):
        example = f", whose ids are such as {min(held)!r}" if held else ""
        raise RagRequestError(
            f"the split {judged.split} judges {len(wanted)} documents relevant (the first is {wanted[0]!r}), and the "
            f"index holds none of them{example}; index the corpus that the judgements were made for"
        )
    return unknown


def tune_dense_weight(
    index: Index, judged: JudgedQueries, settings: SearchSettings, cutoff: int, progress: Progress | None = None
) -> TunedWeight:
    """The weight of WEIGHTS with which convex fusion has the best mean nDCG@`cutoff` on these queries; of equal ones
    the nearest to an even mix. Never give it the queries that the result is then measured on.

    `settings` says all but fusion and weight. `progress` counts searches, queries times weights.
    """
    total = len(WEIGHTS) * len(judged.queries)
    curve: dict[float, float] = {}
    for number, weight in enumerate(WEIGHTS):
        convex = replace(settings, mode="hybrid", fusion="convex", dense_weight=weight)
        rankings = rank_documents(index, judged, convex, cutoff)
        curve[weight] = mean_scores(score_rankings(rankings, judged.relevant, [cutoff]))[f"ndcg@{cutoff}"]
        if progress is not None:
            progress((number + 1) * len(judged.queries), total)
    best = min(curve, key=lambda weight: (-round(curve[weight], 9), abs(weight - 0.5)))
    return TunedWeight(best, f"ndcg@{cutoff}", curve)


def _is_document(index: Index, id: str, query: str) -> bool:
    """Whether `query` is the text of the document `id`, or a part of it, or the other way round."""
    text, end = "", 0
    for chunk in index.chunks([id]):
        text += chunk.text[end - chunk.start :] if chunk.start < end else f" {chunk.text}"  # without what overlaps
        end = chunk.end
    one, other = (" ".join(words.casefold().split()) for words in (query, text))
    return one in other or other in one
