"""The recipe's `rag.search` as what the index takes."""

from __future__ import annotations

from hfkit.quiet import quiet_libraries
from hfkit.recipe import SearchSection
from rag.rerank import CrossEncoderReranker
from rag.search import SearchSettings


def search_settings(section: SearchSection, *, reranked: bool = True) -> SearchSettings:
    """With the reranker loaded, where there is one and `reranked` is true.

    Raises:
        RagRequestError: the filter is wrong, or the reranker cannot be loaded.
    """
    return SearchSettings(
        mode=section.mode,
        top_k=section.top_k,
        fusion=section.fusion,
        dense_weight=section.dense_weight,
        reranker=load_reranker(section.rerank) if reranked and section.rerank is not None else None,
        rerank_candidates=section.rerank_candidates,
        diversity=section.diversity,
        filter=section.filter,
        per_document=section.per_document,
        neighbours=section.neighbours,
        min_similarity=section.min_similarity,
    )


def load_reranker(reference: str) -> CrossEncoderReranker:
    with quiet_libraries():
        return CrossEncoderReranker.load(reference)
