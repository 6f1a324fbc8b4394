"""Whether a gate holds: a bound on a metric, or on a lead, against what is asked for."""

from __future__ import annotations

from typing import Literal

from hfkit.evaluation.fewest_groups import fewest_groups
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
    why = None if found is not None else why_no_bound(resampled.groups, confidence, "test documents (groups of rows)")
    return GateResult(gate=gate, at_least=found, needed=margin, holds=holds, why=why)


def held_not_worse(
    gate: str, resampled: Resampled, model: str, reference: str, *, by: float = 0.0, confidence: float = 0.95
) -> GateResult:
    """Hold `MODEL.METRIC not worse than REFERENCE by n`: with confidence the model loses at most `by`, 0 or more and in
    units of the metric. For a metric of which less is better, losing means to have more."""
    if resampled.measured.metric.higher_is_better:
        return held(gate, resampled, model, reference, relation=">=", margin=-by, confidence=confidence)
    return held(gate, resampled, model, reference, relation="<=", margin=by, confidence=confidence)


def why_no_bound(groups: int, confidence: float, unit: str) -> str:
    """Why a gate has no bound, in words; `unit` is what the groups are, in the plural."""
    least = fewest_groups(confidence, sides=1)
    if groups < least:
        return f"a confidence of {confidence:g} takes at least {least} {unit}, and there are {groups}"
    return f"the metric has no value on too many draws of the {groups} {unit}"
