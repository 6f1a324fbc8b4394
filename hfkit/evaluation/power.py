"""How many rows a comparison needs: what a test set of this size can show, and what size would show what was seen.

Both take the spread of the difference from the bootstrap, so they hold for any metric and for rows that come in groups;
they assume that further rows would be like these, and that the difference is about normal (Cohen 1988, chapter 2).
"""

from __future__ import annotations

from math import ceil, log10
from statistics import NormalDist

POWER = 0.8


def smallest_shown(spread: float, level: float) -> float:
    """The smallest true difference that a two-sided test at `level` finds with a probability of 0.8.

    `spread` is the standard deviation of the difference over test sets of this size.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(POWER)) * spread


def rows_needed(rows: int, difference: float, spread: float, level: float) -> int | None:
    """About how many rows would show a true difference as large as `difference` with a probability of 0.8, rounded up
    to two digits; at least as many as there are. None where there is no difference, or no spread to judge by."""
    if difference == 0 or spread == 0:
        return None
    needed = rows * (smallest_shown(spread, level) / abs(difference)) ** 2
    digit: int = 10 ** max(0, int(log10(max(needed, 1))) - 1)
    return max(rows, ceil(needed / digit) * digit)
