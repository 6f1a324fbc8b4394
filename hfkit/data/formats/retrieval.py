"""`retrieval`: a query, the passages that answer it, and passages that do not.

{"query": "What is BM25?", "positive": "BM25 ranks documents ...", "negatives": ["A fern is a plant ..."]}
"""

from __future__ import annotations

from collections.abc import Mapping

from hfkit.data.examples import RetrievalExample
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.values import is_list, is_text, is_texts, key_of, text_of, texts_in
from hfkit.data.ledger import RowFault


def convert(values: Values, origin: Origin) -> RetrievalExample:
    query = text_of(values["query"], "query")
    positives = texts_in(values["positives"], "positives")
    negatives = texts_in(values["negatives"], "negatives")
    if not positives:
        raise RowFault("a query without a passage that answers it")
    if not set(positives).isdisjoint(negatives):
        raise RowFault("a passage that is both positive and negative")
    return RetrievalExample(
        id=origin.id,
        document=key_of(query, "query") if origin.document is None else origin.document,
        metadata=origin.metadata,
        query=query,
        positives=positives,
        negatives=negatives,
    )


def _looks_like_passages(value: object) -> bool:
    if is_list(value):
        return is_texts(value) or all(isinstance(item, Mapping) and "text" in item for item in value)  # type: ignore[attr-defined]
    return is_text(value)


def _belongs(columns: Mapping[str, str]) -> bool:
    # An anchor and its positive are a pair; a negative makes them a case of retrieval.
    return columns["query"] != "anchor" or "negatives" in columns


_PASSAGES = "text or a list of texts"

RETRIEVAL = Format(
    name="retrieval",
    kind="retrieval",
    fields=(
        FormatField("query", is_text, "text", ("anchor", "question")),
        FormatField(
            "positives", _looks_like_passages, _PASSAGES, ("positive", "pos", "positive_passages", "positive_ctxs")
        ),
        FormatField(
            "negatives",
            _looks_like_passages,
            _PASSAGES,
            ("negative", "neg", "negative_passages", "hard_negatives", "hard_negative_ctxs"),
            required=False,
        ),
    ),
    convert=convert,
    becomes="a query with passages that answer it and passages that do not",
    belongs=_belongs,
)
