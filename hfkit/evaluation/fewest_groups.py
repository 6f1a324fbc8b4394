"""How many groups of rows it takes to be sure. Imports nothing heavy: tables say it too."""

from __future__ import annotations

from math import ceil, log2


def fewest_groups(confidence: float, *, sides: int) -> int:
    """How many groups it takes for a bound on one side, or an interval with two, to be that sure.

    By chance alone all n groups lie on the same side of the truth, each side in a share 0.5 ** n of test sets where a
    value is as often above as below it. No draw of those groups reaches the truth then, so a bound from them misses at
    least that often.
    """
    return max(2, ceil(-log2((1 - confidence) / sides)))
