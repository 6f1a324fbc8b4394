"""Several rows in one sequence: which go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Pack: TypeAlias = tuple[int, ...]
"""The rows of one sequence, by their numbers, in the order in which they stand in it."""


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack items into bins: the longest item first, each into the first bin that still has room for it.

    Never takes more than 11/9 of the fewest possible bins plus six ninths of a bin (Dósa 2007). Items of one length
    keep their order, so the same lengths always give the same bins.

    Args:
        lengths: of the items, in tokens; none above `capacity`.
        capacity: tokens that a bin holds.

    Returns:
        The bins in the order in which they were opened, each with the indices of its items.

    Raises:
        ValueError: an item is longer than a bin.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        length = lengths[item]
        if length > capacity:
            raise ValueError(f"item {item} of length {length} fits into no bin of {capacity}")
        for number, free in enumerate(room):
            if length <= free:
                bins[number].append(item)
                room[number] -= length
                break
        else:
            bins.append([item])
            room.append(capacity - length)
    return bins


def pack_rows(rows: Sequence[int], lengths: Sequence[int], capacity: int | None) -> list[Pack]:
    """`rows`, each of `lengths[row]` tokens, as packs of at most `capacity` tokens; None leaves each by itself."""
    if capacity is None:
        return [(row,) for row in rows]
    bins = first_fit_decreasing([lengths[row] for row in rows], capacity)
    return [tuple(rows[item] for item in items) for items in bins]


def split_packs(packs: Sequence[Pack], lengths: Sequence[int], count: int) -> list[Pack]:
    """`packs` taken apart, the longest first, until there are `count` of them or each row stands by itself."""
    apart = list(packs)
    while len(apart) < count:
        splittable = [pack for pack in apart if len(pack) > 1]
        if not splittable:
            break
        longest = max(splittable, key=lambda pack: sum(lengths[row] for row in pack))
        place = apart.index(longest)
        apart[place : place + 1] = _halves(longest, lengths)
    return apart


def _halves(pack: Pack, lengths: Sequence[int]) -> tuple[Pack, Pack]:
    """Two packs of about equal length: the longest row first, each to the shorter half."""
    halves: tuple[list[int], list[int]] = ([], [])
    tokens = [0, 0]
    for row in sorted(pack, key=lambda row: -lengths[row]):
        shorter = 0 if tokens[0] <= tokens[1] else 1
        halves[shorter].append(row)
        tokens[shorter] += lengths[row]
    return tuple(halves[0]), tuple(halves[1])
