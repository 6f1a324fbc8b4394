"""The judged queries that a recipe measures search on, and those it tunes on: never the same."""

from __future__ import annotations

from hfkit.errors import RequestError
from hfkit.recipe import RetrievalSection
from rag.qrels import JudgedQueries, read_judged_queries


def read_splits(section: RetrievalSection) -> tuple[JudgedQueries, JudgedQueries | None]:
    """The queries to measure and those to tune on, if any.

    Raises:
        RequestError: a query is in both.
        RagRequestError: as `read_judged_queries`.
    """
    judged = read_judged_queries(section.folder, section.split)
    if section.tune is None:
        return judged, None
    tuning = read_judged_queries(section.folder, section.tune)
    texts = set(judged.queries.values())
    both = [id for id, text in tuning.queries.items() if id in judged.queries or text in texts]
    if both:
        raise RequestError(
            f"evaluate.retrieval.tune: {len(both)} queries of the split {section.tune} are in {section.split} too (the "
            f"first is {both[0]!r}); what was tuned on them would look too good"
        )
    return judged, tuning
