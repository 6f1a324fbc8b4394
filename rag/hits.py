"""Ranked candidates into hits: what a search gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rag.chunking import Chunk
from rag.corpus import Metadata
from rag.diversity import Candidate
from rag.passages import Passage
from rag.store import StoredChunk


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


def ranked(
    rows: Mapping[int, StoredChunk], ids: Sequence[int], scores: Sequence[float], similarities: Sequence[float]
) -> list[Candidate]:
    """Best first; of equals the lower (document id, position)."""
    candidates = [
        Candidate(id, rows[id].chunk.document_id, rows[id].chunk.position, score, similarity)
        for id, score, similarity in zip(ids, scores, similarities, strict=True)
    ]
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.document, candidate.position))


def hits_of(chosen: Sequence[Candidate], stored: Sequence[StoredChunk], shown: Sequence[Passage]) -> list[Hit]:
    """One for each candidate, in order: its row and the passage that is shown of it beside it."""
    return [
        Hit(
            chunk=of.chunk,
            title=of.title,
            score=candidate.score,
            similarity=candidate.similarity,
            rank=rank,
            source=of.source or of.chunk.document_id,
            metadata=of.metadata,
            start=passage.start,
            end=passage.end,
            text=passage.text,
        )
        for rank, (candidate, of, passage) in enumerate(zip(chosen, stored, shown, strict=True), start=1)
    ]
