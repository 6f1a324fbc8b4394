"""In which order rows are trained: near in length within a step, shuffled otherwise, and always the same for a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nlargest
from typing import Literal

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from hfkit.errors import RequestError
from hfkit.training.microbatches import (
    FILLER,
    MicroBatch,
    divide,
    longest_first,
    micro_batches_needed,
    padded_length,
)
from hfkit.training.packing import Pack, pack_rows, split_packs


def length_grouped_order(lengths: Sequence[int], rows_a_step: int, seed: int, epoch: int) -> list[int]:
    """The rows of an epoch: each `rows_a_step` that follow each other are about equally long.

    The order depends on the seed and the epoch alone, not on a generator that other code draws from too: a run that
    continues in its third epoch must see what the uninterrupted one saw.
    """
    generator = torch.Generator().manual_seed(seed + 1_000_003 * epoch)
    order: list[int] = get_length_grouped_indices(lengths, rows_a_step, generator=generator)
    return order


class PlannedSteps(Sampler[MicroBatch]):
    """Which rows are trained when: optimiser steps of `rows_a_step` rows, packed, and divided into micro-batches.

    Which rows a step has is decided before they are packed and without regard to it, so packing and micro-batches
    change how fast a step is computed and not what it computes.

    Iterating gives what this process computes: `micro_batches_a_step` micro-batches for each step of the epoch, on
    every rank. A step that needs fewer has empty ones before its own, on all ranks alike, so that the last one of a
    step, after which the optimiser moves, always has work. Where there are fewer micro-batches than ranks in the last
    round of a step, the ranks left over get FILLER: FSDP and DDP need all ranks in each forward and backward pass.

    Accelerate must not divide this sampler over ranks once more.

    Args:
        lengths: tokens of each row.
        rows_a_step: of an optimiser step; the last one of an epoch may have fewer.
        micro_batch_size: rows that are computed at once, on the average of a step; auto goes by `tokens_at_once`.
        tokens_at_once: what a micro-batch may have, padding counted, where `micro_batch_size` is auto.
        capacity: tokens that a pack may have; None packs nothing.
        seed: of the order.
        rank: of this process.
        world_size: processes that share each step.

    Raises:
        RequestError: a step has fewer rows than there are processes.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        rows_a_step: int,
        micro_batch_size: int | Literal["auto"],
        tokens_at_once: int,
        capacity: int | None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if rows_a_step < world_size:
            raise RequestError(
                f"train.batch_size: {rows_a_step} rows a step cannot be shared by {world_size} processes; "
                f"set it to {world_size} or more, or launch fewer"
            )
        self.lengths = list(lengths)
        self.rows_a_step = rows_a_step
        self.micro_batch_size = micro_batch_size
        self.tokens_at_once = tokens_at_once
        self.capacity = capacity
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.micro_batches_a_step = self._most_micro_batches()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def steps_an_epoch(self) -> int:
        return -(-len(self.lengths) // self.rows_a_step)

    def __len__(self) -> int:
        return self.steps_an_epoch * self.micro_batches_a_step

    def __iter__(self) -> Iterator[MicroBatch]:
        for step in self.steps(self.epoch):
            # Neighbours are alike, so the ranks need about as long for each round.
            rounds = [step[start : start + self.world_size] for start in range(0, len(step), self.world_size)]
            for _ in range(self.micro_batches_a_step - len(rounds)):
                yield []
            for together in rounds:
                yield together[self.rank] if self.rank < len(together) else FILLER

    def steps(self, epoch: int) -> Iterator[list[MicroBatch]]:
        """The micro-batches of each step of an epoch, those of all ranks, the longest packs first."""
        return map(self._divided, self._rows_of_steps(epoch))

    def cost(self, attention_length: float, steps: int = 64) -> float:
        """What some steps of the first epoch cost, as tokens of a short row: a line of L tokens costs more by the share
        L / attention_length, since each of its tokens looks at all others.
        """
        every = -(-self.steps_an_epoch // steps)
        shapes = [
            (len(micro_batch), max(padded_length(self._tokens(pack)) for pack in micro_batch))
            for rows in self._rows_of_steps(0)[::every]
            for micro_batch in self._divided(rows)
        ]
        return sum(lines * length * (1 + length / attention_length) for lines, length in shapes)

    def _rows_of_steps(self, epoch: int) -> list[list[int]]:
        order = length_grouped_order(self.lengths, self.rows_a_step, self.seed, epoch)
        return [order[start : start + self.rows_a_step] for start in range(0, len(order), self.rows_a_step)]

    def _divided(self, rows: Sequence[int]) -> list[MicroBatch]:
        packs = longest_first(pack_rows(rows, self.lengths, self.capacity), self.lengths)
        if self.micro_batch_size == "auto":
            count = min(self._rounds(self._needed(packs)), self.micro_batches_a_step) * self.world_size
        else:
            count = self._rounds(-(-len(rows) // self.micro_batch_size)) * self.world_size
        packs = longest_first(split_packs(packs, self.lengths, count), self.lengths)
        return divide(packs, self.lengths, min(count, len(packs)))

    def _most_micro_batches(self) -> int:
        """What the step needs, on each rank, that would have the longest rows of all, and so any step of any epoch."""
        if self.micro_batch_size != "auto":
            return self._rounds(-(-self.rows_a_step // self.micro_batch_size))
        longest = nlargest(self.rows_a_step, range(len(self.lengths)), key=self.lengths.__getitem__)
        return self._rounds(self._needed(longest_first(pack_rows(longest, self.lengths, self.capacity), self.lengths)))

    def _rounds(self, micro_batches: int) -> int:
        """How many each rank computes, one after the other, if all share them."""
        return -(-micro_batches // self.world_size)

    def _needed(self, packs: Sequence[Pack]) -> int:
        return micro_batches_needed([self._tokens(pack) for pack in packs], self.tokens_at_once)

    def _tokens(self, pack: Pack) -> int:
        return sum(self.lengths[row] for row in pack)


def planned_sequences(
    lengths: Sequence[int], *, rows_a_step: int, micro_batch_size: int | Literal["auto"], max_length: int, seed: int
) -> list[list[int]]:
    """The packed sequences of the first epoch, in the order in which training sees them, each with its rows.

    The order is the same on every device: what is computed at once is cut out of it. Several processes may have to take
    packs apart, so that each has some.

    Args:
        lengths: tokens of each row, in the order of the prepared dataset.
        rows_a_step: `train.batch_size`.
        micro_batch_size: `train.micro_batch_size`.
        max_length: `data.max_length`.
        seed: the recipe's.
    """
    plan = PlannedSteps(
        lengths,
        rows_a_step=rows_a_step,
        micro_batch_size=micro_batch_size,
        # Cuts the line of packs elsewhere and changes neither the packs nor their order.
        tokens_at_once=max_length,
        capacity=max_length,
        seed=seed,
    )
    return [list(pack) for step in plan.steps(0) for micro_batch in step for pack in micro_batch]
