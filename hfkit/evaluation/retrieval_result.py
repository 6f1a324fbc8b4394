"""What measuring search found out. Imports nothing heavy: reading a finished run's result must not cost seconds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue


class RetrievalScore(BaseModel):
    """A metric's mean over the queries; `interval` holds it with the result's `confidence`, and is None where there are
    too few queries for that."""

    model_config = ConfigDict(frozen=True)

    mean: float
    interval: tuple[float, float] | None


class RetrievalLead(BaseModel):
    """A setting's lead over dense search on the same queries: mean difference, its interval (None where there are too
    few queries), two-sided p-value. `p_adjusted` is corrected after Holm over all metrics of all settings."""

    model_config = ConfigDict(frozen=True)

    difference: float
    interval: tuple[float, float] | None
    p_value: float
    p_adjusted: float


class MeasuredSetting(BaseModel):
    """One way of searching. `search` says it as `rag.search` would; `leads` is empty for dense search itself."""

    model_config = ConfigDict(frozen=True)

    search: dict[str, JsonValue]
    scores: dict[str, RetrievalScore]
    leads: dict[str, RetrievalLead]


class TunedOn(BaseModel):
    """Where the weight of the setting `tuned` comes from: the split, its queries, and what each weight reached there.

    `curve` has (weight, mean of `metric`) pairs.
    """

    model_config = ConfigDict(frozen=True)

    split: str
    queries: int
    metric: str
    weight: float
    curve: tuple[tuple[float, float], ...]


class LeftOut(BaseModel):
    """How many, and the first few of them by id."""

    model_config = ConfigDict(frozen=True)

    count: int
    first: tuple[str, ...]


class RetrievalResult(BaseModel):
    """Search, measured on the judged queries of one split.

    Attributes:
        documents: how many the index holds.
        metrics: such as `ndcg@10`; the first is the main one.
        settings: by name. `recipe` names the one that `rag.search` says.
        unknown_documents: relevant, and not in the index: counted as not found.
        unknown_queries: judged, and not in queries.jsonl: not asked.
        unanswered_queries: without a relevant document: not asked.
    """

    model_config = ConfigDict(frozen=True)

    folder: str
    split: str
    queries: int
    documents: int
    confidence: float
    metrics: tuple[str, ...]
    recipe: str
    tuned: TunedOn | None
    settings: dict[str, MeasuredSetting]
    unknown_documents: LeftOut
    unknown_queries: LeftOut
    unanswered_queries: LeftOut
