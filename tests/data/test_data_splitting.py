"""Whole groups to one side or the other."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.data.splitting import choose_test_groups
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
