"""Deals groups of rows out to training and test, so that no group is on both sides."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from hfkit.errors import RequestError


def choose_test_groups(groups: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """The groups whose rows are for testing alone. `groups` names the group of each row.

    Whole groups are drawn at random until at least `share` of the rows is reached; the last one drawn may overshoot it.

    Raises:
        RequestError: there are fewer than two groups, so that one side would be empty.
    """
    rows = Counter(groups)
    if len(rows) < 2:
        raise RequestError(
            f"data.splits: {len(rows)} group(s) of rows cannot be split into training and test; "
            "give more documents, or split with data.splits.by=row"
        )
    order = sorted(rows)
    random.Random(seed).shuffle(order)
    chosen: set[str] = set()
    taken = 0
    for group in order[:-1]:
        if taken >= share * len(groups):
            break
        chosen.add(group)
        taken += rows[group]
    return frozenset(chosen)
