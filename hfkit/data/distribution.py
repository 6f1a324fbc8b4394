"""How rows are spread: labels that are rare, and rows that are far longer or shorter than the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hfkit.data.examples import Example, LabelledText, RatedReply

# Tukey's fences for what is far out.
_FENCE = 3.0
# Rows of nearly one length have no spread to speak of: half as long again is then nothing unusual.
_LEAST_SPREAD = math.log(1.5)


def label_counts(examples: Iterable[Example]) -> dict[str, int]:
    """How many rows each label has, the most frequent first; empty for examples without labels.

    Wanted and unwanted replies count as `wanted` and `unwanted`.
    """
    counted: Counter[str] = Counter()
    for example in examples:
        if isinstance(example, LabelledText):
            counted[str(example.label)] += 1
        elif isinstance(example, RatedReply):
            counted["wanted" if example.wanted else "unwanted"] += 1
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def imbalance(counts: Mapping[str, int]) -> float:
    """How many rows the most frequent label has for each row of the rarest; 1 where there are fewer than two."""
    return max(counts.values()) / min(counts.values()) if len(counts) > 1 else 1.0


@dataclass(frozen=True, slots=True)
class LengthOutliers:
    """Rows of unusual length.

    Attributes:
        shortest, longest: the lengths between which a row is usual, both included.
        short, long: positions of the rows below and above, in order.
    """

    shortest: float
    longest: float
    short: tuple[int, ...]
    long: tuple[int, ...]


def length_outliers(lengths: Sequence[int]) -> LengthOutliers:
    """The rows whose length is far from that of most others.

    Lengths of text differ by factors, not by amounts, so the fences are set on logarithms: three times the
    interquartile range beyond the quartiles.
    """
    if not lengths:
        return LengthOutliers(0.0, math.inf, (), ())
    logs = sorted(math.log(max(length, 1)) for length in lengths)
    first, third = _quantile(logs, 0.25), _quantile(logs, 0.75)
    reach = _FENCE * max(third - first, _LEAST_SPREAD / _FENCE)
    # A hair of room, so that rounding puts no row that stands on a fence outside of it.
    shortest, longest = math.exp(first - reach) * (1 - 1e-9), math.exp(third + reach) * (1 + 1e-9)
    return LengthOutliers(
        shortest=shortest,
        longest=longest,
        short=tuple(row for row, length in enumerate(lengths) if max(length, 1) < shortest),
        long=tuple(row for row, length in enumerate(lengths) if length > longest),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
