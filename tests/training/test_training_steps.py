"""The plan of an epoch: which rows share a step, a pack and a micro-batch. Speed is planned here, never the result."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.training.microbatches import divide, longest_first, micro_batches_needed, padded_length
from hfkit.training.packing import Pack
from hfkit.training.sampling import PlannedSteps, length_grouped_order, planned_sequences

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=70)
CAPACITIES = st.none() | st.integers(300, 900)
MICRO = st.sampled_from(["auto", 1, 2, 4, 8])


def plan(lengths: list[int], **changed: Any) -> PlannedSteps:
    given = {"rows_a_step": 8, "micro_batch_size": "auto", "tokens_at_once": 1024, "capacity": None, "seed": 3}
    return PlannedSteps(lengths, **{**given, **changed})


def rows_of(step: list[list[Pack]]) -> list[int]:
    return [row for micro_batch in step for pack in micro_batch for row in pack]


@given(LENGTHS, CAPACITIES, MICRO, st.integers(0, 3))
def test_a_step_has_the_same_rows_however_it_is_computed(
    lengths: list[int], capacity: int | None, micro: Any, epoch: int
) -> None:
    """The rows that follow each other in the order that seed and epoch give; packing has no say."""
    order = length_grouped_order(lengths, 8, 3, epoch)
    steps = list(plan(lengths, capacity=capacity, micro_batch_size=micro).steps(epoch))
    assert sorted(order) == list(range(len(lengths)))
    expected = [sorted(order[start : start + 8]) for start in range(0, len(order), 8)]
    assert [sorted(rows_of(step)) for step in steps] == expected


@given(LENGTHS, CAPACITIES, MICRO)
def test_a_pack_keeps_to_its_capacity(lengths: list[int], capacity: int | None, micro: Any) -> None:
    for step in plan(lengths, capacity=capacity, micro_batch_size=micro).steps(0):
        for pack in itertools.chain.from_iterable(step):
            assert len(pack) == 1 if capacity is None else sum(lengths[row] for row in pack) <= capacity


@given(LENGTHS, CAPACITIES, MICRO)
def test_each_step_is_as_many_items_and_ends_with_work(lengths: list[int], capacity: int | None, micro: Any) -> None:
    """The Trainer counts the same number of micro-batches for each step and moves the optimiser after the last."""
    planned = plan(lengths, capacity=capacity, micro_batch_size=micro)
    items, size = list(planned), planned.micro_batches_a_step
    assert len(items) == len(planned) == planned.steps_an_epoch * size
    for start, step in zip(range(0, len(items), size), planned.steps(0), strict=True):
        idle = size - len(step)
        assert items[start : start + idle] == [[]] * idle and items[start + idle : start + size] == step
        assert step and all(micro_batch and all(micro_batch) for micro_batch in step)


@given(LENGTHS, CAPACITIES, st.integers(32, 2048))
def test_auto_keeps_to_the_tokens_at_once(lengths: list[int], capacity: int | None, budget: int) -> None:
    """Or to its longest line, and but for packs of an epoch whose luck was worse than any foreseen."""
    planned = plan(lengths, capacity=capacity, tokens_at_once=budget)
    for step in planned.steps(0):
        lines = [[padded_length(sum(lengths[row] for row in pack)) for pack in micro_batch] for micro_batch in step]
        largest = max(len(batch) * max(batch) for batch in lines)
        unforeseen = capacity is not None and len(step) == planned.micro_batches_a_step
        assert largest <= max(budget, max(map(max, lines))) or unforeseen


@given(LENGTHS, st.sampled_from([1, 2, 4, 8]))
def test_a_micro_batch_size_of_the_recipe_is_an_upper_bound_in_memory(lengths: list[int], micro: int) -> None:
    """Cut evenly instead of by rows, a step needs no more than its longest rows would together."""
    for step in plan(lengths, micro_batch_size=micro).steps(0):
        rows = sorted(rows_of(step), key=lambda row: -lengths[row])
        assert len(step) == -(-len(rows) // micro)
        by_rows = max(len(rows[n : n + micro]) * padded_length(lengths[rows[n]]) for n in range(0, len(rows), micro))
        largest = max(len(batch) * max(padded_length(lengths[pack[0]]) for pack in batch) for batch in step)
        assert largest <= by_rows


@given(st.lists(st.integers(1, 300), min_size=1, max_size=9), st.integers(1, 9))
def test_no_division_into_neighbours_is_better(lengths: list[int], count: int) -> None:
    packs = longest_first([(row,) for row in range(len(lengths))], lengths)
    count = min(count, len(packs))
    parts = divide(packs, lengths, count)
    assert len(parts) == count and all(parts)
    assert [pack for part in parts for pack in part] == packs

    def largest(parts: list[list[Pack]]) -> int:
        return max(len(part) * padded_length(lengths[part[0][0]]) for part in parts)

    cuts = itertools.combinations(range(1, len(packs)), count - 1)
    divisions = [[packs[a:b] for a, b in itertools.pairwise((0, *cut, len(packs)))] for cut in cuts]
    assert largest(parts) == min(map(largest, divisions))


def test_micro_batches_needed() -> None:
    assert micro_batches_needed([100, 100, 60, 30], 256) == 2
    assert micro_batches_needed([100, 100, 60, 30], 128) == 3
    assert micro_batches_needed([1000, 30, 30], 128) == 2
    assert micro_batches_needed([], 128) == 0


@given(LENGTHS)
def test_the_order_depends_on_seed_and_epoch_alone(lengths: list[int]) -> None:
    import torch

    torch.manual_seed(0)
    first = length_grouped_order(lengths, 8, 5, 2)
    torch.manual_seed(1)
    assert length_grouped_order(lengths, 8, 5, 2) == first


def test_epochs_and_seeds_differ() -> None:
    lengths = list(range(1, 100))
    orders = {tuple(length_grouped_order(lengths, 8, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4
    planned = plan(lengths)
    first = list(planned)
    planned.set_epoch(1)
    assert list(planned) != first
    planned.set_epoch(0)
    assert list(planned) == first


def test_rows_of_a_step_are_about_as_long() -> None:
    lengths = [length for length in range(1, 801)]
    spread = [max(group) - min(group) for group in grouped(lengths, length_grouped_order(lengths, 8, 1, 0))]
    # The first step holds the longest row of all; sorted(spread)[-2:] leaves it and the row it was exchanged for.
    assert sorted(spread)[-3] < 100


def grouped(lengths: list[int], order: list[int]) -> list[list[int]]:
    return [[lengths[row] for row in order[start : start + 8]] for start in range(0, len(order), 8)]


@given(LENGTHS, MICRO, st.integers(1, 8192))
@settings(max_examples=50)
def test_what_is_previewed_is_what_is_trained_on_any_device(lengths: list[int], micro: Any, budget: int) -> None:
    previewed = planned_sequences(lengths, rows_a_step=8, micro_batch_size=micro, max_length=512, seed=9)
    trained = plan(lengths, micro_batch_size=micro, capacity=512, tokens_at_once=budget, seed=9)
    assert previewed == [list(pack) for micro_batch in trained for pack in micro_batch]
    assert Counter(row for pack in previewed for row in pack) == Counter(range(len(lengths)))


def test_packs_cost_more_only_through_attention() -> None:
    lengths = [64] * 64
    grouped, packed = plan(lengths), plan(lengths, capacity=512)
    assert packed.cost(attention_length=1e9) == pytest.approx(grouped.cost(attention_length=1e9))
    assert packed.cost(attention_length=100) > 2 * grouped.cost(attention_length=100)
    # Rows of very different lengths pad each other, where a step is one micro-batch; packs of them do not.
    uneven = [500, 10, 10, 10, 10, 10, 10, 10] * 8
    wide = {"tokens_at_once": 1 << 20, "rows_a_step": 64}
    assert plan(uneven, capacity=512, **wide).cost(1e9) < 0.2 * plan(uneven, **wide).cost(1e9)
