"""The two ways in which chance is imitated: groups drawn again (bootstrap), and models exchanged (permutation).

Both work on sums over groups, since a metric is a value of sums. A draw of groups is a row of weights, how often each
group was drawn, so all sums of a block of draws are one matrix product: neither rows nor their copies are gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hfkit.evaluation.fewest_groups import fewest_groups
from hfkit.evaluation.metric import Numbers

RESAMPLES = 10_000
# Weights held at a time: 4 MB of them, and as much again twice while they are counted; about what a cache holds.
_HELD = 500_000

Value = Callable[[Numbers], Numbers]


def group_sums(numbers: Numbers, groups: Sequence[str]) -> Numbers:
    """Sums over the rows of each group, groups in the order of their names: [rows, …] to [groups, …]."""
    places = {name: place for place, name in enumerate(sorted(set(groups)))}
    sums = np.zeros((len(places), *numbers.shape[1:]))
    np.add.at(sums, [places[group] for group in groups], numbers)
    return sums


def bootstrap(value: Value, sums: Numbers, seed: int) -> Numbers:
    """The value for groups drawn with replacement, as many as there are (Efron and Tibshirani 1993, chapter 8).

    `sums` is [groups, …, numbers], and what comes back [RESAMPLES, …]. Everything between the first and the last axis,
    models say, sees the same draws.
    """
    random = np.random.default_rng(seed)
    groups = len(sums)
    flat = sums.reshape(groups, -1)
    found = []
    for size in _blocks(groups):
        drawn = random.integers(0, groups, size=(size, groups), dtype=np.int32)
        # Counted for all draws at once: each has a range of places of its own.
        places = np.add(drawn, np.arange(size)[:, None] * groups, dtype=np.intp)
        weights = np.bincount(places.ravel(), minlength=size * groups).reshape(size, groups)
        found.append(value((weights.astype(np.float64) @ flat).reshape(size, *sums.shape[1:])))
    return np.concatenate(found)


def permutation(value: Value, first: Numbers, second: Numbers, seed: int) -> float:
    """The two-sided p-value of the difference of two models' values, where both are exchanged group by group at random
    (Good 2005, Permutation, Parametric and Bootstrap Tests, chapter 3). Both are sums, [groups, numbers].

    For a mean, that is the sign-flip test. What was observed counts as one of the permutations, so p is never 0
    (Phipson and Smyth 2010). A permutation without a value counts as one that is as large.
    """
    random = np.random.default_rng(seed)
    totals, leads = (first.sum(axis=0), second.sum(axis=0)), second - first
    observed = abs(float(value(totals[0]) - value(totals[1])))
    as_large = 0
    for size in _blocks(len(first)):
        moved = random.integers(0, 2, size=(size, len(first)), dtype=np.bool_).astype(np.float64) @ leads
        differences = np.abs(value(totals[0] + moved) - value(totals[1] - moved))
        as_large += int((~(differences < observed - 1e-12)).sum())
    return (as_large + 1) / (RESAMPLES + 1)


def interval_of(draws: NDArray[np.float64], groups: int, confidence: float) -> tuple[float, float] | None:
    """The two-sided interval from the bootstrap's draws that have a value, at least one of them; None where there are
    fewer groups than it takes to be that sure."""
    if groups < fewest_groups(confidence, sides=2):
        return None
    level = _level((1 - confidence) / 2, groups)
    low, high = np.nanquantile(draws, [level, 1 - level])
    return float(low), float(high)


def bound_of(draws: NDArray[np.float64], groups: int, confidence: float, *, upper: bool = False) -> float | None:
    """What the value is at least, or with `upper` at most, with one-sided confidence.

    A draw without a value could have been any, so it is taken for the worst. None where there are so many of them that
    nothing can be said, or fewer groups than it takes to be that sure.
    """
    if groups < fewest_groups(confidence, sides=1):
        return None
    level = _level(1 - confidence, groups)
    lost = np.isnan(draws)
    if lost.sum() > level * (len(draws) - 1):
        return None
    filled = np.where(lost, np.nanmax(draws) if upper else np.nanmin(draws), draws)
    return float(np.quantile(filled, 1 - level if upper else level))


@lru_cache(maxsize=256)
def _level(share: float, groups: int) -> float:
    """The share of draws that is cut off an end, so that a share `share` of intervals misses at that end.

    Percentiles as they are miss too often where groups are few: they know neither that the spread is estimated nor that
    resampling n groups gives a spread too small by sqrt((n - 1) / n). Hesterberg 2015 (The American Statistician 69(4),
    section 4.4) widens them by what the t-distribution with n - 1 degrees of freedom says for a mean.
    """
    from scipy.stats import t

    return NormalDist().cdf(sqrt(groups / (groups - 1)) * float(t.ppf(share, groups - 1)))


def _blocks(groups: int) -> Iterator[int]:
    """How many draws to make at a time."""
    size = max(1, min(1000, _HELD // max(1, groups)))
    for start in range(0, RESAMPLES, size):
        yield min(size, RESAMPLES - start)
