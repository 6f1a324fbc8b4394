"""A step's packs, divided into micro-batches: what is computed at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from hfkit.training.packing import Pack

MicroBatch: TypeAlias = list[Pack]
"""Packs that are computed at once, one a line of the batch; an empty one stands for no work."""

FILLER: MicroBatch = [()]
"""A pack without rows: a pass that trains nothing, for a rank that must keep step with ranks that have work."""

# Batches are as long as a multiple of this. Every new shape makes the matrix library build and keep another kernel:
# with free lengths a run of a hundred steps grew by two GiB and was slower, although it padded less.
LENGTH_STEP = 32


def padded_length(tokens: int) -> int:
    """The length of a batch whose longest line has `tokens` tokens."""
    return -(-tokens // LENGTH_STEP) * LENGTH_STEP


def longest_first(packs: Sequence[Pack], lengths: Sequence[int]) -> list[Pack]:
    return sorted(packs, key=lambda pack: -sum(lengths[row] for row in pack))


def micro_batches_needed(line_lengths: Sequence[int], tokens_at_once: int) -> int:
    """The fewest micro-batches into which lines can be cut so that none has more than `tokens_at_once`, its padding
    counted. A line that is longer has one for itself.

    Args:
        line_lengths: tokens of each line, the longest first.
    """
    return len(_cut(line_lengths, tokens_at_once))


def divide(packs: Sequence[Pack], lengths: Sequence[int], count: int) -> list[MicroBatch]:
    """Divide packs into `count` micro-batches so that the largest, its padding counted, is as small as can be.

    Neighbours in length stay together: with the packs sorted by length, the micro-batches are cut out of one line.

    Args:
        packs: the longest first, at least `count` of them.
        lengths: tokens of each row.

    Returns:
        The micro-batches, the one with the longest packs first.
    """
    line_lengths = [sum(lengths[row] for row in pack) for pack in packs]
    # The smallest budget that `count` micro-batches can keep to lies between these two.
    low, high = padded_length(line_lengths[0]), padded_length(line_lengths[0]) * len(packs)
    while low < high:
        middle = (low + high) // 2
        if micro_batches_needed(line_lengths, middle) <= count:
            high = middle
        else:
            low = middle + 1
    starts = _cut(line_lengths, low)
    ends = [*starts[1:], len(packs)]
    parts = list(zip(starts, ends, strict=True))
    while len(parts) < count:
        # Fewer would have done; halve the largest, which costs nothing.
        start, end = max((part for part in parts if part[1] - part[0] > 1), key=lambda part: part[1] - part[0])
        place, middle = parts.index((start, end)), (start + end) // 2
        parts[place : place + 1] = [(start, middle), (middle, end)]
    return [list(packs[start:end]) for start, end in parts]


def _cut(line_lengths: Sequence[int], tokens_at_once: int) -> list[int]:
    """Where each micro-batch starts if each takes as many lines as fit."""
    starts = []
    start = 0
    while start < len(line_lengths):
        starts.append(start)
        start += max(1, tokens_at_once // padded_length(line_lengths[start]))
    return starts
