"""Several sources in one order: what is drawn, how often, and always the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.data.mixing import mixed, sampled
from hfkit.errors import RequestError
from hfkit.recipe import MixSection

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=4)
SEED = st.integers(0, 2**32 - 1)


def rows_of(sizes: list[int]) -> list[np.ndarray]:
    """Row numbers with gaps, as gates leave them."""
    return [np.arange(size, dtype=np.int64) * 3 + 1 for size in sizes]


@given(SIZES, SEED, st.data())
def test_concatenated_each_row_comes_as_often_as_its_weight_says(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    weights = data.draw(
        st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.0]), min_size=len(sizes), max_size=len(sizes))
    )
    sources = rows_of(sizes)
    order = list(mixed(sources, weights, MixSection(), seed))
    times = Counter(order)
    for at, (numbers, weight) in enumerate(zip(sources, weights, strict=True)):
        part = (
            round(weight % 1 * len(numbers)) if weight >= 1 else max(round(weight * len(numbers)), min(1, len(numbers)))
        )
        assert sum(times[at, int(n)] for n in numbers) == int(weight) * len(numbers) + part
        assert all(int(weight) <= times[at, int(n)] <= int(weight) + 1 for n in numbers)
    assert [at for at, _ in order] == sorted(at for at, _ in order), "sources follow one another"
    assert set(times) <= {(at, int(n)) for at, numbers in enumerate(sources) for n in numbers}


@given(SIZES.filter(any), SEED)
def test_interleaving_until_all_uses_every_row_and_until_first_ends_with_a_whole_source(
    sizes: list[int], seed: int
) -> None:
    sources = rows_of(sizes)
    weights = [1.0] * len(sizes)
    every = {(at, int(n)) for at, numbers in enumerate(sources) for n in numbers}
    assert set(mixed(sources, weights, MixSection(how="interleave", until="all"), seed)) == every
    first = list(mixed(sources, weights, MixSection(how="interleave", until="first"), seed))
    assert len(set(first)) == len(first), "until the first is used up nothing comes twice"
    assert any(len(numbers) and {(at, int(n)) for n in numbers} <= set(first) for at, numbers in enumerate(sources))
    for at, numbers in enumerate(sources):
        seen = [n for source, n in first if source == at]
        assert seen == numbers[: len(seen)].tolist(), "within a source rows keep their order"


def test_interleaving_draws_in_proportion_to_the_weights() -> None:
    sources = rows_of([5000, 5000])
    order = list(mixed(sources, [3.0, 1.0], MixSection(how="interleave", until="first"), 7))
    drawn = Counter(at for at, _ in order)
    assert 2.7 < drawn[0] / drawn[1] < 3.3


@given(SIZES.filter(any), SEED, st.sampled_from(["concatenate", "interleave"]))
def test_the_same_seed_gives_the_same_order(sizes: list[int], seed: int, how: str) -> None:
    mix = MixSection.model_validate({"how": how})
    weights = [0.5] * len(sizes)
    assert list(mixed(rows_of(sizes), weights, mix, seed)) == list(mixed(rows_of(sizes), weights, mix, seed))


@given(st.integers(0, 100), st.integers(1, 120), SEED)
def test_a_sample_is_a_subset_in_the_old_order(size: int, rows: int, seed: int) -> None:
    numbers = np.arange(size, dtype=np.int64) * 2
    drawn = sampled(numbers, rows, seed)
    assert len(drawn) == min(size, rows)
    assert (np.diff(drawn) > 0).all() and set(drawn.tolist()) <= set(numbers.tolist())


def test_weights_that_would_draw_for_ever_are_refused() -> None:
    mix = MixSection(how="interleave", until="all")
    with pytest.raises(RequestError, match=r"data\.mix: with a weight of 0\.001 it takes about .* data\.sources\.0"):
        next(mixed(rows_of([16, 16]), [0.001, 100.0], mix, 7))
    assert len(list(mixed(rows_of([16, 16]), [0.001, 100.0], MixSection(how="interleave", until="first"), 7))) >= 16
