"""Gates: comparisons of the tuned model with the base model, or with a bound, that must hold."""

import re
from difflib import get_close_matches
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

MetricName = Literal["token_f1", "citation_accuracy", "abstention_accuracy"]
METRICS: tuple[MetricName, ...] = get_args(MetricName)
EXAMPLE = "tuned.token_f1 >= base.token_f1 + 0.05 with confidence 0.95"

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
GATE_PATTERN = (
    r"^\s*tuned\.(?P<metric>[A-Za-z0-9_]+)\s*>=\s*"
    rf"(?:base\.(?P<base>[A-Za-z0-9_]+)(?:\s*(?P<sign>[+-])\s*(?P<margin>{_NUMBER}))?|(?P<bound>[+-]?{_NUMBER}))"
    rf"(?:\s+with\s+confidence\s+(?P<confidence>{_NUMBER}))?\s*$"
)


class Gate(BaseModel):
    """`tuned.METRIC >= bound`, which must hold with a given confidence.

    Attributes:
        text: the gate as it was written.
        metric: the metric of the tuned model that is compared; a share from 0 to 1.
        reference: "base" where the bound is the base model's metric plus `margin`; None where it is `margin` alone.
        margin: in units of the metric.
        confidence: of the one-sided statement, more than 0 and less than 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    text: str
    metric: MetricName
    reference: Literal["base"] | None
    margin: float
    confidence: float = 0.95

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """The gate that `text` says. Raises ValueError with a message for the user where it says none."""
        found = re.match(GATE_PATTERN, text)
        if found is None:
            raise ValueError(f'not a gate; write one such as "{EXAMPLE}" or "tuned.token_f1 >= 0.5"')
        metric = _metric(found["metric"])
        if found["base"] is not None and _metric(found["base"]) != metric:
            raise ValueError(f"compares {metric} with {found['base']}; both sides must name the same metric")
        margin = float(found["bound"] or (found["sign"] or "") + (found["margin"] or "0"))
        confidence = float(found["confidence"] or 0.95)
        if not 0 < confidence < 1:
            hint = f"; did you mean {confidence / 100:g}?" if 1 < confidence < 100 else ""
            raise ValueError(f"the confidence must be more than 0 and less than 1, got {confidence:g}{hint}")
        reference: Literal["base"] | None = None if found["base"] is None else "base"
        lowest = 0 if reference is None else -1
        if not lowest <= margin <= 1:
            noun = "bound" if reference is None else "margin"
            raise ValueError(f"{metric} is a share from 0 to 1: the {noun} must be from {lowest} to 1, got {margin:g}")
        return cls(text=text.strip(), metric=metric, reference=reference, margin=margin, confidence=confidence)

    def __str__(self) -> str:
        return self.text


def _metric(name: str) -> MetricName:
    for metric in METRICS:
        if metric == name:
            return metric
    near = [metric for metric in METRICS if name in metric] or get_close_matches(name, METRICS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"unknown metric {name}; expected one of {', '.join(METRICS)}{hint}")
