"""Whole groups to one side or the other."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.data.splitting import choose_test_groups, choose_test_rows
from hfkit.errors import RequestError

GROUPS = st.lists(st.text("abcdefgh", min_size=1, max_size=2), min_size=2).filter(lambda groups: len(set(groups)) > 1)
SHARE = st.floats(0.001, 0.999)
SEED = st.integers(0, 2**32 - 1)


@given(GROUPS, SHARE, SEED)
def test_both_sides_hold_whole_groups_and_something(groups: list[str], share: float, seed: int) -> None:
    test = choose_test_groups(groups, share, seed)
    assert test < set(groups), "training must keep a group"
    assert test, "testing must have a group"


@given(GROUPS, SHARE, SEED)
def test_the_share_is_reached_and_not_overshot_by_more_than_a_group(groups: list[str], share: float, seed: int) -> None:
    test = choose_test_groups(groups, share, seed)
    rows = Counter(groups)
    taken = sum(rows[group] for group in test)
    assert taken >= share * len(groups) or len(test) == len(rows) - 1
    assert taken - max(rows[group] for group in test) < share * len(groups)


@given(GROUPS, SHARE, SEED)
def test_the_order_of_the_rows_does_not_matter(groups: list[str], share: float, seed: int) -> None:
    assert choose_test_groups(groups, share, seed) == choose_test_groups(sorted(groups), share, seed)
    assert choose_test_groups(groups, share, seed) == choose_test_groups(groups[::-1], share, seed)


def test_seeds_draw_different_groups() -> None:
    groups = [f"g{number}" for number in range(30)]
    drawn = {choose_test_groups(groups, 0.2, seed) for seed in range(20)}
    assert len(drawn) > 15
    # Over many seeds every group is drawn about as often: nothing hangs on a name's place in the alphabet.
    times = Counter(group for seed in range(500) for group in choose_test_groups(groups, 0.2, seed))
    assert all(60 <= times[group] <= 140 for group in groups)


@pytest.mark.parametrize("groups", [[], ["a"], ["a", "a", "a"]])
def test_one_group_cannot_be_split(groups: list[str]) -> None:
    with pytest.raises(RequestError, match=r"data\.splits: \d group\(s\) of rows cannot be split"):
        choose_test_groups(groups, 0.2, 7)


@given(GROUPS, st.integers(1, 50), SEED)
def test_a_count_is_reached_and_not_overshot_by_more_than_a_group(groups: list[str], count: int, seed: int) -> None:
    if count >= len(groups):
        with pytest.raises(RequestError, match=rf"data\.splits\.test: {count} rows are wanted"):
            choose_test_rows(groups, count, seed)
        return
    test = choose_test_rows(groups, count, seed)
    largest = max(Counter(np.asarray(groups)[test].tolist()).values())
    assert test.sum() >= count or len(set(np.asarray(groups)[~test].tolist())) == 1
    assert test.sum() - largest < count


@given(st.lists(st.integers(0, 2), min_size=40, max_size=200), SEED)
def test_strata_keep_their_shares_on_both_sides(strata: list[int], seed: int) -> None:
    groups = [f"row{number}" for number in range(len(strata))]
    test = choose_test_rows(groups, 0.25, seed, strata=np.array(strata))
    for stratum, rows in Counter(strata).items():
        taken = int(test[np.array(strata) == stratum].sum())
        assert abs(taken - rows * 0.25) <= 0.5
        assert taken < rows, "something of every stratum is trained on"


def test_rare_values_stay_in_training() -> None:
    strata = np.array([0] * 80 + list(range(1, 11)))
    test = choose_test_rows([str(number) for number in range(90)], 0.1, 7, strata=strata)
    assert test.sum() == 8 and not test[80:].any()
    with pytest.raises(RequestError, match=r"data\.splits\.stratify: no value has enough rows"):
        choose_test_rows([str(number) for number in range(20)], 3, 7, strata=np.arange(20))


@pytest.mark.parametrize(("rows", "count"), [(25, 7), (49, 47), (98, 3)])
def test_a_count_of_single_rows_is_met_exactly(rows: int, count: int) -> None:
    assert choose_test_rows([str(number) for number in range(rows)], count, 7).sum() == count


@given(GROUPS, SHARE, SEED, st.data())
def test_by_time_the_newest_rows_are_tested_and_groups_stay_whole(
    groups: list[str], share: float, seed: int, data: st.DataObject
) -> None:
    times = np.array(data.draw(st.lists(st.floats(0, 1e9), min_size=len(groups), max_size=len(groups))))
    test = choose_test_rows(groups, share, seed, times=times)
    names = np.asarray(groups)
    assert set(names[test].tolist()).isdisjoint(names[~test].tolist())
    newest = {name: times[names == name].max() for name in set(groups)}
    assert min(newest[name] for name in names[test]) >= max(newest[name] for name in names[~test])


def test_hashes_are_groups_too() -> None:
    groups = np.array([7, 7, 2**64 - 1, 3, 3, 3], dtype=np.uint64)
    test = choose_test_rows(groups, 0.4, 1)
    assert 0 < test.sum() < 6
    assert set(groups[test].tolist()).isdisjoint(groups[~test].tolist())
