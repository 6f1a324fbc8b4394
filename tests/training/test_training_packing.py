"""Which rows go into one sequence: the laws of first-fit decreasing."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.training.packing import first_fit_decreasing, pack_rows, split_packs

CAPACITY = 100
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=60)


@given(LENGTHS)
def test_every_item_is_in_one_bin_and_no_bin_is_too_full(lengths: list[int]) -> None:
    bins = first_fit_decreasing(lengths, CAPACITY)
    assert sorted(item for items in bins for item in items) == list(range(len(lengths)))
    assert all(0 < sum(lengths[item] for item in items) <= CAPACITY for items in bins)


@given(LENGTHS)
def test_an_item_stands_in_the_first_bin_that_had_room(lengths: list[int]) -> None:
    """The longest first, and of those as long the first: read off the bins, item by item."""
    bins = first_fit_decreasing(lengths, CAPACITY)
    for number, items in enumerate(bins):
        assert items == sorted(items, key=lambda item: (-lengths[item], item))
        for item in items:
            for earlier in bins[:number]:
                there = sum(lengths[i] for i in earlier if (-lengths[i], i) < (-lengths[item], item))
                assert there + lengths[item] > CAPACITY


@given(st.lists(st.lists(st.integers(1, CAPACITY - 1), max_size=6, unique=True), min_size=1, max_size=12), st.randoms())
def test_the_bins_are_near_the_fewest_possible(cuts: list[list[int]], chance: Random) -> None:
    """Full bins are cut into items and poured out, so that the fewest possible is known."""
    borders = [[0, *sorted(cut), CAPACITY] for cut in cuts]
    lengths = [end - start for border in borders for start, end in pairwise(border)]
    chance.shuffle(lengths)
    assert len(first_fit_decreasing(lengths, CAPACITY)) <= 11 / 9 * len(cuts) + 6 / 9


@given(LENGTHS)
def test_the_same_lengths_give_the_same_bins(lengths: list[int]) -> None:
    assert first_fit_decreasing(lengths, CAPACITY) == first_fit_decreasing(tuple(lengths), CAPACITY)


def test_an_item_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="item 1 of length 101 fits into no bin of 100"):
        first_fit_decreasing([3, 101], CAPACITY)


def test_a_worked_example() -> None:
    assert first_fit_decreasing([30, 60, 50, 40, 20], CAPACITY) == [[1, 3], [2, 0, 4]]
    assert first_fit_decreasing([], CAPACITY) == []


@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=30), st.randoms())
def test_rows_are_packed_by_their_numbers(lengths: list[int], chance: Random) -> None:
    rows = [row for row in range(len(lengths)) if chance.random() < 0.7]
    packs = pack_rows(rows, lengths, CAPACITY)
    assert sorted(row for pack in packs for row in pack) == rows
    assert all(sum(lengths[row] for row in pack) <= CAPACITY for pack in packs)
    assert pack_rows(rows, lengths, None) == [(row,) for row in rows]


@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=30), st.integers(1, 40))
def test_packs_come_apart_until_there_are_enough(lengths: list[int], count: int) -> None:
    packs = pack_rows(range(len(lengths)), lengths, CAPACITY)
    apart = split_packs(packs, lengths, count)
    assert len(apart) == max(len(packs), min(count, len(lengths)))
    assert sorted(row for pack in apart for row in pack) == list(range(len(lengths)))
    # Each is part of one pack: rows that did not stand together do not come together.
    assert all(any(set(pack) <= set(whole) for whole in packs) for pack in apart)


def test_halves_are_about_as_long() -> None:
    lengths = [50, 30, 10, 10]
    assert split_packs([(0, 1, 2, 3)], lengths, 2) == [(0,), (1, 2, 3)]
