"""Whether a gate holds: a bound on a metric, or on a lead, against what is asked for."""

from __future__ import annotations

from typing import Literal

from hfkit.evaluation.result import GateResult
from hfkit.evaluation.statistics import Resampled, bound


def held(
    gate: str,
    resampled: Resampled,
    model: str,
    reference: str | None = None,
    *,
    relation: Literal[">=", "<="] = ">=",
    margin: float,
    confidence: float = 0.95,
) -> GateResult:
    """Hold `MODEL.METRIC >= margin`, or with a reference `MODEL.METRIC >= REFERENCE.METRIC + margin`, or either with
    `<=`, against what was measured. `gate` is its text.

    It holds where the bootstrap's one-sided bound does, not only the value: luck alone does not carry it.
    """
    upper = relation == "<="
    found = bound(resampled, model, reference, confidence=confidence, upper=upper)
    holds = found is not None and (found <= margin if upper else found >= margin)
    return GateResult(gate=gate, at_least=found, needed=margin, holds=holds)


def held_not_worse(
    gate: str, resampled: Resampled, model: str, reference: str, *, by: float = 0.0, confidence: float = 0.95
) -> GateResult:
    """Hold `MODEL.METRIC not worse than REFERENCE by n`: with confidence the model loses at most `by`, 0 or more and in
    units of the metric. For a metric of which less is better, losing means to have more."""
    if resampled.measured.metric.higher_is_better:
        return held(gate, resampled, model, reference, relation=">=", margin=-by, confidence=confidence)
    return held(gate, resampled, model, reference, relation="<=", margin=by, confidence=confidence)
