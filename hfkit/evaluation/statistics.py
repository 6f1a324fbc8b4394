"""Scores and differences that say how sure they are.

Rows of one group, a document say, are alike; so the group, not the row, is what is drawn at random and what models are
exchanged on. Every comparison is paired: both models see the same draws of the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from hfkit.evaluation.fewest_groups import fewest_groups
from hfkit.evaluation.measuring import Measured
from hfkit.evaluation.metric import Numbers
from hfkit.evaluation.metrics.row_mean import ratio
from hfkit.evaluation.power import rows_needed, smallest_shown
from hfkit.evaluation.resampling import bootstrap, bound_of, group_sums, interval_of, permutation
from hfkit.evaluation.result import Difference, Score
from hfkit.evaluation.significance import effect_size, exact_interval, holm, p_value

FEWEST_GROUPS = 2
"""What any spread takes. An interval from the bootstrap takes more (`fewest_groups`)."""


@dataclass(frozen=True, slots=True)
class Resampled:
    """A metric's values, and what they are over groups drawn again.

    The draws are made once and serve every interval, difference and gate on these rows.

    Attributes:
        values: by model; NaN where there is none.
        draws: by model, [RESAMPLES]; draw i is of the same groups for every model.
    """

    measured: Measured
    values: dict[str, float]
    draws: dict[str, NDArray[np.float64]]
    groups: int
    seed: int

    def lead(self, model: str, reference: str) -> float:
        return self.values[model] - self.values[reference]

    def lead_draws(self, model: str, reference: str) -> NDArray[np.float64]:
        return self.draws[model] - self.draws[reference]


class Pair(NamedTuple):
    """A model, and the one it is compared with."""

    resampled: Resampled
    model: str
    reference: str


def resample(measured: Measured, *, seed: int = 0) -> Resampled:
    """Draw the groups again and again. Without rows no model has a value, and there are no draws."""
    models, groups, value = list(measured.numbers), len(set(measured.groups)), measured.value
    if not measured.ids or not models:
        return Resampled(measured, dict.fromkeys(models, float("nan")), {m: np.empty(0) for m in models}, 0, seed)
    sums = np.stack([group_sums(measured.numbers[model], measured.groups) for model in models], axis=1)
    values, draws = value(sums.sum(axis=0)), bootstrap(value, sums, seed)
    return Resampled(
        measured=measured,
        values={model: float(values[place]) for place, model in enumerate(models)},
        draws={model: draws[:, place] for place, model in enumerate(models)},
        groups=groups,
        seed=seed,
    )


def score(resampled: Resampled, model: str, *, confidence: float = 0.95) -> Score:
    """A model's value. It has no interval where there are fewer groups than `confidence` takes."""
    value, interval = resampled.values[model], None
    if isfinite(value) and resampled.groups >= FEWEST_GROUPS:
        interval = _exact(resampled, model, confidence) or interval_of(
            resampled.draws[model], resampled.groups, confidence
        )
    return Score(
        value=value if isfinite(value) else None,
        interval=interval,
        rows=len(resampled.measured.ids),
        groups=resampled.groups,
    )


def bound(
    resampled: Resampled, model: str, reference: str | None = None, *, confidence: float, upper: bool = False
) -> float | None:
    """What the model's value, or its lead over `reference`, is at least, with one-sided `confidence`; with `upper`,
    what it is at most.

    None where there is no value, or there are fewer groups than `confidence` takes.
    """
    names = (model,) if reference is None else (model, reference)
    if resampled.groups < FEWEST_GROUPS or not all(isfinite(resampled.values[name]) for name in names):
        return None
    if reference is not None:
        return bound_of(resampled.lead_draws(model, reference), resampled.groups, confidence, upper=upper)
    exact = _exact(resampled, model, 2 * confidence - 1) if confidence > 0.5 else None
    if exact is not None:
        return exact[int(upper)]
    return bound_of(resampled.draws[model], resampled.groups, confidence, upper=upper)


def _exact(resampled: Resampled, model: str, confidence: float) -> tuple[float, float] | None:
    """For rows that are all right, or all wrong, an interval that counts each group as one trial; else None.

    No draw of such rows has another value, and a bootstrap would call ten right rows of ten a certain 1.
    """
    value = resampled.values[model]
    if not resampled.measured.metric.is_binary or value not in (0.0, 1.0):
        return None
    return exact_interval(int(value) * resampled.groups, resampled.groups, confidence)


def differences(pairs: Sequence[Pair], *, confidence: float = 0.95) -> list[Difference | None]:
    """All comparisons of an evaluation at once, since Holm's correction is over all of them; in the order of `pairs`.

    None for a pair of which a model has no value.
    """
    there = [pair for pair in pairs if _has_values(pair)]
    tested = [p_value(one.resampled.measured, one.model, one.reference, one.resampled.seed) for one in there]
    adjusted = holm([p for p, _ in tested])
    found: list[Difference] = []
    for pair, (p, test), p_adjusted in zip(there, tested, adjusted, strict=True):
        judged = _judged(pair, p_adjusted, confidence, comparisons=len(there), p=p)
        found.append(
            Difference(
                metric=pair.resampled.measured.metric.name,
                model=pair.model,
                reference=pair.reference,
                difference=judged.difference,
                interval=judged.interval,
                p_value=p,
                p_adjusted=p_adjusted,
                test=test,
                effect_size=effect_size(pair.resampled.measured, pair.model, pair.reference),
                rows_needed=judged.rows_needed,
                in_words=judged.in_words,
            )
        )
    given = iter(found)
    return [next(given) if _has_values(pair) else None for pair in pairs]


def _has_values(pair: Pair) -> bool:
    return isfinite(pair.resampled.lead(pair.model, pair.reference))


class _Judgement(NamedTuple):
    difference: float
    interval: tuple[float, float] | None
    rows_needed: int | None
    in_words: str


def _judged(pair: Pair, p_adjusted: float, confidence: float, *, comparisons: int, p: float) -> _Judgement:
    resampled, level = pair.resampled, 1 - confidence
    rows, groups = len(resampled.measured.ids), resampled.groups
    difference = resampled.lead(pair.model, pair.reference)
    draws = resampled.lead_draws(pair.model, pair.reference)
    interval = interval_of(draws, groups, confidence)
    low, high = interval or (-inf, inf)
    nothing = "no evidence of a difference"
    if (low > 0 or high < 0) and p_adjusted < level:
        better = (low > 0) == resampled.measured.metric.higher_is_better
        return _Judgement(difference, interval, None, f"{pair.model} is {'better' if better else 'worse'}")
    spread = float(np.nanstd(draws)) * sqrt(groups / (groups - 1)) if groups >= FEWEST_GROUPS else 0.0
    # The level that a single one of so many comparisons has to reach.
    needed = rows_needed(rows, difference, spread, level / comparisons)
    if groups < FEWEST_GROUPS:
        return _Judgement(difference, interval, None, f"{nothing}: one group of rows cannot show any")
    few = f"{groups} groups of rows are too few to show any"
    if spread == 0:
        why = "both do the same on every row" if difference == 0 else few
        return _Judgement(difference, interval, None, f"{nothing}: {why}")
    if interval is None:
        least = fewest_groups(confidence, sides=2)
        return _Judgement(difference, interval, needed, f"{nothing}: {few}, which takes at least {least}")
    if (low > 0 or high < 0) and p < level:
        why = f"p = {p:.2g} is not small enough among {comparisons} comparisons"
    else:
        why = f"{rows} rows can show one of about {smallest_shown(spread, level / comparisons):.2g}"
    if needed is not None and needed > rows:
        why += f"; to tell the {abs(difference):.2g} seen here from chance takes about {needed:,} rows"
    return _Judgement(difference, interval, needed, f"{nothing}: {why}")


class Comparison(BaseModel):
    """Two means over the same rows, as `compare` finds them; `p_value` is two-sided, before any correction."""

    model_config = ConfigDict(frozen=True)

    base: float
    tuned: float
    difference: float
    interval: tuple[float, float] | None
    confidence: float
    p_value: float
    rows: int
    documents: int


def compare(
    base: Sequence[float],
    tuned: Sequence[float],
    documents: Sequence[str],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare the means of scores on the same rows. All three sequences have one entry a row, and at least one.

    Raises:
        ValueError: there are no rows, or the sequences differ in length.
    """
    if not base or not len(base) == len(tuned) == len(documents):
        raise ValueError("a comparison needs the same rows, at least one, from both models")
    sums = np.stack([_sums(tuned, documents), _sums(base, documents)], axis=1)
    draws = bootstrap(_lead, sums, seed)
    return Comparison(
        base=float(np.mean(base)),
        tuned=float(np.mean(tuned)),
        difference=float(_lead(sums.sum(axis=0))),
        interval=interval_of(draws, len(sums), confidence),
        confidence=confidence,
        p_value=permutation(_mean, sums[:, 0], sums[:, 1], seed),
        rows=len(base),
        documents=len(sums),
    )


def interval(
    scores: Sequence[float], documents: Sequence[str], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Holds the mean of `scores`, at least one, with `confidence` (two-sided); from the bootstrap over documents.

    None for fewer documents than `confidence` takes.
    """
    sums = _sums(scores, documents)
    return interval_of(bootstrap(_mean, sums, seed), len(sums), confidence)


def lower_bound(scores: Sequence[float], documents: Sequence[str], *, confidence: float, seed: int = 0) -> float | None:
    """What the mean of `scores` is at least, with one-sided `confidence`; from the bootstrap over documents.

    None for fewer documents than `confidence` takes.
    """
    sums = _sums(scores, documents)
    return bound_of(bootstrap(_mean, sums, seed), len(sums), confidence)


def _sums(scores: Sequence[float], documents: Sequence[str]) -> Numbers:
    """The sum of the scores and the number of rows of each document: [documents, 2]."""
    return group_sums(np.stack([np.asarray(scores, np.float64), np.ones(len(scores))], axis=1), documents)


def _mean(sums: Numbers) -> Numbers:
    return ratio(sums[..., 0], sums[..., 1])


def _lead(sums: Numbers) -> Numbers:
    return _mean(sums[..., 0, :]) - _mean(sums[..., 1, :])
