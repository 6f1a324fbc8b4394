"""What the evaluate stage found out. Imports nothing heavy: reading a finished run's result must not cost seconds."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from hfkit.evaluation.retrieval_result import RetrievalResult
from hfkit.recipe import MetricName

TITLES: Mapping[MetricName, str] = {
    "token_f1": "token F1",
    "citation_accuracy": "citation accuracy",
    "abstention_accuracy": "abstention accuracy",
}


class Comparison(BaseModel):
    """Base against tuned on the same rows; all figures are means over rows.

    `interval` holds the difference tuned - base with probability `confidence`. `p_value` is two-sided: how often a
    difference this large comes up when the two models are exchangeable.
    """

    model_config = ConfigDict(frozen=True)

    base: float
    tuned: float
    difference: float
    interval: tuple[float, float]
    confidence: float
    p_value: float
    rows: int
    documents: int

    @property
    def in_words(self) -> str:
        if self.interval[0] > 0 and self.p_value < 1 - self.confidence:
            return "tuned is better"
        if self.interval[1] < 0 and self.p_value < 1 - self.confidence:
            return "tuned is worse"
        return "no evidence of a difference"


class GateResult(BaseModel):
    """`at_least` is what the metric, or its lead over what it is compared with, is at least at the gate's confidence
    (one-sided).

    It is None where there are too few test documents, or queries, to say; then the gate does not hold.
    """

    model_config = ConfigDict(frozen=True)

    gate: str
    at_least: float | None
    needed: float
    holds: bool


class EvaluateResult(BaseModel):
    """What the tasks gave. All but `gates` and `retrieval` is that of grounded_answers, and empty without it.

    `cut_off` counts, for base and tuned, answers that did not end by themselves within the token limit.
    """

    model_config = ConfigDict(frozen=True)

    comparison: dict[MetricName, Comparison] = {}
    gates: tuple[GateResult, ...]
    cut_off: dict[str, int] = {}
    rows: int = 0
    unanswerable: int = 0
    retrieval: RetrievalResult | None = None
