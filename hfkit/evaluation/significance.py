"""Whether a difference could be chance: McNemar's test, Holm's correction, effect sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hfkit.evaluation.measuring import Measured
from hfkit.evaluation.metrics.row_mean import RowMean
from hfkit.evaluation.resampling import group_sums, permutation

Test = Literal["permutation", "mcnemar"]


def p_value(measured: Measured, model: str, reference: str, seed: int) -> tuple[float, Test]:
    """Two-sided, and the test that it is of.

    McNemar's exact test is for rows that are right or wrong, each by itself. Where a group has several rows they are
    alike, the test would take them for more evidence than they are, and the permutation test over groups stands in.
    """
    if measured.metric.is_binary and len(set(measured.groups)) == len(measured.ids):
        gained, lost = discordant(measured, model, reference)
        return mcnemar(gained, lost), "mcnemar"
    first, second = (group_sums(measured.numbers[name], measured.groups) for name in (model, reference))
    return permutation(measured.value, first, second, seed), "permutation"


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value for `gained` rows right in the one model alone, and `lost` in the other alone
    (McNemar 1947; Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91)."""
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue)


def exact_interval(right: int, of: int, confidence: float) -> tuple[float, float]:
    """Holds a share with at least `confidence` (Clopper and Pearson 1934, Biometrika 26)."""
    from scipy.stats import binomtest

    found = binomtest(right, of).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted so that the chance of even one false alarm among all is as low as a p-value says (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def effect_size(measured: Measured, model: str, reference: str) -> float | None:
    """Cohen's d for pairs: the mean of the rows' differences in standard deviations of them. For binary metrics Cohen's
    g: by how much the share of gains among the rows that changed exceeds a half (Cohen 1988, chapters 2 and 5).

    None where rows have no score of their own, or the size is not defined: all differences equal, no row changed.
    """
    if measured.metric.is_binary:
        gained, lost = discordant(measured, model, reference)
        return gained / (gained + lost) - 0.5 if gained + lost else None
    if not isinstance(measured.metric, RowMean) or len(measured.ids) < 2:
        return None
    rows = _row_differences(measured, model, reference)
    spread = float(rows.std(ddof=1))
    return None if spread <= 1e-12 else float(rows.mean()) / spread


def discordant(measured: Measured, model: str, reference: str) -> tuple[int, int]:
    """Rows that `model` alone has right, and rows that `reference` alone has right."""
    rows = _row_differences(measured, model, reference)
    return int((rows > 0).sum()), int((rows < 0).sum())


def _row_differences(measured: Measured, model: str, reference: str) -> NDArray[np.float64]:
    value = measured.value
    return value(measured.numbers[model]) - value(measured.numbers[reference])
