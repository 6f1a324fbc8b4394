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
    last one drawn may overshoot it. With `strata`, a number for each row, that holds for each stratum by itself; a
    group counts to the one that most of its rows have. With `times`, seconds for each row, the groups with the newest
    rows are taken instead.

    Raises:
        RequestError: there are fewer than two groups, or no more rows than are wanted for testing, so that one side
            would be empty.
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
    share = test / rows if isinstance(test, int) else test
    if times is not None:
        order = _newest_first(group_of, len(names), times)
    else:
        order = list(range(len(names)))
        random.Random(seed).shuffle(order)
    stratum_of = np.zeros(len(names), dtype=np.int64) if strata is None else _strata_of_groups(group_of, strata)
    wanted = {int(one): share * int(sizes[stratum_of == one].sum()) for one in np.unique(stratum_of)}
    chosen = np.zeros(len(names), dtype=bool)
    taken = dict.fromkeys(wanted, 0)
    # The last group is never taken: something must be left to train on.
    for group in order[:-1]:
        stratum = int(stratum_of[group])
        if taken[stratum] < wanted[stratum]:
            chosen[group] = True
            taken[stratum] += int(sizes[group])
        elif times is not None:
            break
    mask: Mask = chosen[group_of]
    return mask


def choose_test_groups(groups: Sequence[str], test: float | int, seed: int) -> frozenset[str]:
    """The names of the groups that `choose_test_rows` takes."""
    return frozenset(np.asarray(groups)[choose_test_rows(groups, test, seed)].tolist())


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
