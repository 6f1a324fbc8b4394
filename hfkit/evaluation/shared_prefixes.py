"""What many prompts begin with (a system prompt, few-shot examples, a paragraph with five questions) is read once.

That is exact: a token's keys and values depend on nothing behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfkit.evaluation.kv_cache import Cached, read

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LEAST_SHARED = 16
"""Fewer tokens in common are not worth a pass of their own."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A batch: rows by number, the beginnings that some of them share, and which of these each row has.

    `prefixes` is empty where the rows share nothing but what all rows of the plan begin with.
    """

    rows: tuple[int, ...]
    prefixes: tuple[tuple[int, ...], ...]
    prefix_of: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All batches, and how many tokens every sequence begins with alike (0 where that is too few to matter)."""

    common: int
    batches: tuple[Shared, ...]


def plan(sequences: Sequence[Sequence[int]], batch_size: int, *, share: bool) -> Plan:
    """Batches of rows that are alike: those with a long beginning in common first, the rest by length.

    The longest come first: should memory not suffice, it shows at once.
    """
    order = sorted(range(len(sequences)), key=lambda row: list(sequences[row]))
    common = _in_common(sequences[order[0]], sequences[order[-1]]) if share and len(order) > 1 else 0
    common = 0 if common < LEAST_SHARED else common
    families = _families(sequences, order, common) if share else [[row] for row in order]
    large = [family for family in families if len(family) > 1]
    large.sort(key=lambda family: -len(sequences[family[0]]))
    single = sorted((family[0] for family in families if len(family) == 1), key=lambda row: -len(sequences[row]))
    batches = _batches_of_families(sequences, large, batch_size, common)
    for start in range(0, len(single), batch_size):
        rows = tuple(single[start : start + batch_size])
        batches.append(Shared(rows, (), ()))
    return Plan(common, tuple(batches))


def _families(sequences: Sequence[Sequence[int]], order: Sequence[int], common: int) -> list[list[int]]:
    """Rows in lexicographic order, cut wherever a row shares less than half of what is its own with the one before."""
    families: list[list[int]] = []
    for row in order:
        if families:
            before = sequences[families[-1][0]]
            own = min(len(before), len(sequences[row])) - common
            shared = _in_common(before, sequences[row]) - common
            if shared >= LEAST_SHARED and 2 * shared >= own:
                families[-1].append(row)
                continue
        families.append([row])
    return families


def _batches_of_families(
    sequences: Sequence[Sequence[int]], families: Sequence[Sequence[int]], batch_size: int, common: int
) -> list[Shared]:
    batches: list[Shared] = []
    rows: list[int] = []
    prefixes: list[tuple[int, ...]] = []
    prefix_of: list[int] = []
    for family in families:
        shared = min(_in_common(sequences[family[0]], sequences[row]) for row in family)
        prefix = tuple(sequences[family[0]][common:shared])
        for start in range(0, len(family), batch_size):
            part = family[start : start + batch_size]
            if len(rows) + len(part) > batch_size:
                batches.append(Shared(tuple(rows), tuple(prefixes), tuple(prefix_of)))
                rows, prefixes, prefix_of = [], [], []
            prefix_of += [len(prefixes)] * len(part)
            prefixes.append(prefix)
            rows += part
    if rows:
        batches.append(Shared(tuple(rows), tuple(prefixes), tuple(prefix_of)))
    return batches


def _in_common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with, one less than either at most: each must have a token left to be read."""
    most = min(len(first), len(second)) - 1
    for place in range(most):
        if first[place] != second[place]:
            return place
    return max(most, 0)


class PrefixReader:
    """Reads the batches of a plan for one model, and what all of them begin with only once."""

    def __init__(self, model: PreTrainedModel, sequences: Sequence[Sequence[int]], plan: Plan) -> None:
        self.model, self.sequences, self.common = model, sequences, plan.common
        self._common: Cached | None = None

    def read(self, batch: Shared) -> tuple[Cached, torch.Tensor]:
        """The whole sequences of a batch: what has been read, and the logits of each one's last token, [rows, V]."""
        after: Cached | None = None
        if self.common:
            if self._common is None:
                self._common, _ = read(self.model, [self.sequences[batch.rows[0]][: self.common]])
            after = self._common.copied([0] * (len(batch.prefixes) or len(batch.rows)))
        starts = [self.common] * len(batch.rows)
        if batch.prefixes:
            after, _ = read(self.model, batch.prefixes, after)
            after = after.copied(batch.prefix_of)
            starts = [self.common + len(batch.prefixes[number]) for number in batch.prefix_of]
        blocks = [self.sequences[row][start:] for row, start in zip(batch.rows, starts, strict=True)]
        cached, logits = read(self.model, blocks, after)
        return cached, logits[:, -1]
