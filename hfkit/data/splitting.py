"""Deals groups of rows out to training and test, so that no group is on both sides."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hfkit.errors import RequestError

Groups = Sequence[str] | npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


def choose_test_rows(
    groups: Groups,
    test: float | int,
    seed: int,
    *,
    strata: npt.NDArray[np.int64] | None = None,
    times: npt.NDArray[np.float64] | None = None,
) -> Mask:
    """bool [rows]: the rows that are for testing alone. `groups` names the group of each row.

    Whole groups are drawn at random until at least `test` of the rows (a share below 1, or a count) is reached; the
    last one drawn may overshoot it. With `strata`, a number for each row, each stratum gives its share, rounded to
    whole groups, and one too small for that stays in training; a group counts to the stratum that most of its rows
    have. With `times`, seconds for each row, the groups with the newest rows are taken instead.

    Raises:
        RequestError: there are fewer than two groups, or no more rows than are wanted for testing, or only strata that
            are too small, so that one side would be empty.
    """
    names, group_of, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    rows = len(group_of)
    if len(names) < 2:
        raise RequestError(
            f"data.splits: {len(names)} group(s) of rows cannot be split into training and test; "
            "give more documents, or split with data.splits.by=row"
        )
    if isinstance(test, int) and test >= rows:
        raise RequestError(f"data.splits.test: {test} rows are wanted for testing and there are {rows} in all")
    if times is not None:
        order = _newest_first(group_of, len(names), times)
    else:
        order = list(range(len(names)))
        random.Random(seed).shuffle(order)
    chosen = np.zeros(len(names), dtype=bool)
    if strata is None:
        wanted = test if isinstance(test, int) else test * rows
        taken = 0
        # The last group is never taken: something must be left to train on.
        for group in order[:-1]:
            if taken >= wanted:
                break
            chosen[group] = True
            taken += int(sizes[group])
    else:
        share = test / rows if isinstance(test, int) else test
        _choose_by_stratum(chosen, order, sizes, _strata_of_groups(group_of, strata), share)
        if not chosen.any():
            raise RequestError(
                "data.splits.stratify: no value has enough rows to stand on both sides; test more rows, or leave it out"
            )
    mask: Mask = chosen[group_of]
    return mask


def choose_test_groups(groups: Sequence[str], test: float | int, seed: int) -> frozenset[str]:
    """The names of the groups that `choose_test_rows` takes."""
    return frozenset(np.asarray(groups)[choose_test_rows(groups, test, seed)].tolist())


def _choose_by_stratum(
    chosen: Mask, order: Sequence[int], sizes: npt.NDArray[np.int64], strata: npt.NDArray[np.int64], share: float
) -> None:
    """Take groups as long as that brings their stratum nearer to its share; a stratum's last group is never taken."""
    wanted = {int(one): share * int(sizes[strata == one].sum()) for one in np.unique(strata)}
    left = {int(one): int((strata == one).sum()) for one in np.unique(strata)}
    taken = dict.fromkeys(wanted, 0.0)
    for group in order:
        stratum, size = int(strata[group]), int(sizes[group])
        if left[stratum] > 1 and taken[stratum] + size / 2 <= wanted[stratum]:
            chosen[group] = True
            taken[stratum] += size
            left[stratum] -= 1


def _newest_first(group_of: npt.NDArray[np.int64], groups: int, times: npt.NDArray[np.float64]) -> list[int]:
    newest = np.full(groups, -np.inf)
    np.maximum.at(newest, group_of, times)
    order: list[int] = np.argsort(-newest, kind="stable").tolist()
    return order


def _strata_of_groups(group_of: npt.NDArray[np.int64], strata: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """int64 [groups]: the stratum that most rows of each group have; of equally many the lowest."""
    pairs, counts = np.unique(np.stack([group_of, strata]), axis=1, return_counts=True)
    order = np.lexsort((-pairs[1], counts, pairs[0]))
    chosen = np.zeros(int(group_of.max()) + 1, dtype=np.int64)
    # In ascending order of rows, so that the largest is written last.
    chosen[pairs[0][order]] = pairs[1][order]
    return chosen
