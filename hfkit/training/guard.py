"""When training is stopped because it went wrong: a loss that is no number, or one that left its course for good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

# Of the losses that a judgement looks at: so many steps that are judged, after so many that they are compared with.
JUDGED = 10
BEFORE = 50
# A young run has no course to leave.
_FEWEST_BEFORE = 20
# Far above what an odd batch, a harder part of the data or a restart of the schedule does; a loss that explodes comes
# to stand near the logarithm of the vocabulary's size, 10 nats and more, whatever it was before.
_TIMES, _PLUS = 2.0, 1.0


@dataclass(frozen=True, slots=True)
class Divergence:
    """The loss left its course at `step`, where it had been about `before` nats and is now about `now`."""

    step: int
    before: float
    now: float


def find_divergence(losses: Sequence[float], last_step: int) -> Divergence | None:
    """Whether the loss has left its course.

    It has when the median of the last ten steps is more than twice the median of the fifty before them, and a nat above
    that. Medians, because single batches may be as odd as they like; the nat, because a loss near zero doubles easily.

    Args:
        losses: of steps that follow each other, in nats a trained token; finite.
        last_step: the step of the last of them.
    """
    judged, before = losses[-JUDGED:], losses[-JUDGED - BEFORE : -JUDGED]
    if len(before) < _FEWEST_BEFORE:
        return None
    course = median(before)
    limit = _TIMES * course + _PLUS
    if median(judged) <= limit:
        return None
    first = next(place for place, loss in enumerate(judged) if loss > limit)
    return Divergence(last_step - len(judged) + 1 + first, course, median(judged))


MOST_SKIPPED = 25
"""Steps in a row that float16's scaler may skip. It halves its scale at each, and from 2^16 none is left after 17."""


def what_is_no_number(loss: float, grad_norm: float | None) -> str | None:
    """Which of a step's two numbers is NaN or infinite, in words; None where both are numbers."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if grad_norm is not None and not math.isfinite(grad_norm):
        return f"the gradient's norm is {grad_norm}"
    return None
