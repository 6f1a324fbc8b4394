"""Reading tokens into a model's key-value cache: batches that share what they have in common, and can lose rows.

What many prompts begin with (a system prompt, few-shot examples, a paragraph with five questions) is read once. That is
exact: a token's keys and values depend on nothing behind it. Blocks of several lengths are padded on the left, so that
each row's last token stands in the last column; padding is masked, and positions are counted without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel

LEAST_SHARED = 16
"""Fewer tokens in common are not worth a pass of their own."""


@dataclass(slots=True)
class Cached:
    """Sequences that a model has read.

    Attributes:
        cache: their keys and values, [rows, heads, columns, head size] a layer.
        mask: int64 [rows, columns]; 0 where there is padding.
        lengths: int64 [rows]; tokens without padding.
    """

    cache: DynamicCache
    mask: torch.Tensor
    lengths: torch.Tensor

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all but these rows."""
        self.cache.batch_select_indices(rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]

    def copied(self, rows: Sequence[int]) -> Cached:
        """These rows, each as often as it is named, in a cache of their own."""
        import torch
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        which = torch.tensor(rows, device=self.mask.device)
        cache = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            assert isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None
            cache.update(layer.keys.index_select(0, which), layer.values.index_select(0, which), number)
        return Cached(cache, self.mask[which], self.lengths[which])


def can_share(model: PreTrainedModel) -> bool:
    """Whether the model's cache is nothing but keys and values of all tokens, so that rows can share a beginning.

    False for sliding windows, which count padding, and for recurrent states, which cannot be cut into rows.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers) and "position_ids" in _takes(model)


def context_limit(model: PreTrainedModel) -> int | None:
    """The most tokens that the model can take; None where its architecture names no such limit."""
    limit = model.config.to_dict().get("max_position_embeddings")
    return limit if isinstance(limit, int) else None


def read(
    model: PreTrainedModel,
    blocks: Sequence[Sequence[int]],
    after: Cached | None = None,
    *,
    keep: int = 1,
) -> tuple[Cached, torch.Tensor]:
    """Read one block of tokens a row, behind what the rows of `after` have read already, which this changes.

    Only for models that `can_share`. No block may be empty.

    Returns:
        what has been read, and the float32 logits of the last `keep` columns, [rows, keep, vocabulary].
    """
    import torch
    from transformers import DynamicCache

    ids, new_mask = _padded(blocks, model.device)
    if after is None:
        before = torch.zeros(len(blocks), dtype=torch.long, device=model.device)
        after = Cached(DynamicCache(config=model.config), new_mask[:, :0], before)
    after.mask = torch.cat([after.mask, new_mask], dim=1)
    positions = after.lengths[:, None] + new_mask.cumsum(dim=1) - 1
    after.lengths = after.lengths + new_mask.sum(dim=1)
    logits = _forward(
        model,
        keep,
        input_ids=ids,
        attention_mask=after.mask,
        position_ids=positions.clamp(min=0),
        past_key_values=after.cache,
        use_cache=True,
    )
    return after, logits


def last_logits(model: PreTrainedModel, sequences: Sequence[Sequence[int]], *, keep: int) -> torch.Tensor:
    """The float32 logits at the last `keep` tokens of each sequence, [rows, keep, vocabulary]; for any causal model."""
    ids, mask = _padded(sequences, model.device)
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if "position_ids" in _takes(model):
        given["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return _forward(model, keep, **given)


def _forward(model: PreTrainedModel, keep: int, **given: Any) -> torch.Tensor:
    if "logits_to_keep" in _takes(model):
        given["logits_to_keep"] = keep
    logits: torch.Tensor = model(**given).logits
    return logits[:, -keep:].float()


def _takes(model: PreTrainedModel) -> frozenset[str]:
    """The names of what the model's forward pass takes, below an adapter if there is one."""
    from peft import PeftModel

    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return frozenset(inspect.signature(inner.forward).parameters)


def _padded(blocks: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens, padded on the left with 0, and 1 where there is a token: int64 [rows, longest]."""
    import torch

    longest = max(len(block) for block in blocks)
    ids = [[0] * (longest - len(block)) + list(block) for block in blocks]
    mask = [[0] * (longest - len(block)) + [1] * len(block) for block in blocks]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


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
