"""Reading tokens into a model's key-value cache, in batches that rows can join and leave.

Blocks of several lengths are padded on the left, so that each row's last token stands in the last column; padding is
masked, and positions are counted without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel


@dataclass(slots=True)
class Cached:
    """Sequences that a model has read.

    Attributes:
        cache: their keys and values, [rows, heads, columns, head size] a layer, of `new_cache`.
        mask: int64 [rows, columns]; 0 where there is padding.
        lengths: int64 [rows]; tokens without padding.
    """

    cache: Cache
    mask: torch.Tensor
    lengths: torch.Tensor

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all but these rows."""
        self.cache.batch_select_indices(rows)
        self.mask, self.lengths = self.mask[rows], self.lengths[rows]

    def copied(self, rows: Sequence[int]) -> Cached:
        """These rows, each as often as it is named, in a cache of their own."""
        import torch

        which = torch.tensor(rows, device=self.mask.device)
        cache = new_cache()
        for number, (keys, values) in enumerate(self.layers()):
            cache.update(keys.index_select(0, which), values.index_select(0, which), number)
        return Cached(cache, self.mask[which], self.lengths[which])

    def layers(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The keys and the values of each layer."""
        from hfkit.evaluation.growing_layer import GrowingLayer

        for layer in self.cache.layers:
            assert isinstance(layer, GrowingLayer) and layer.keys is not None and layer.values is not None
            yield layer.keys, layer.values

    def bytes_a_token(self) -> int:
        """What one more token of one row takes."""
        return sum(keys[0, :, 0].nbytes + values[0, :, 0].nbytes for keys, values in self.layers())


def joined(parts: Sequence[Cached]) -> Cached:
    """The rows of all parts, in their order, in one cache. Padding between a row's tokens is left out on the way."""
    import torch

    width = int(max(part.lengths.max() for part in parts))
    # A stable order of 0 before 1 moves each row's tokens, as they stand, to the right.
    orders = [part.mask.argsort(dim=1, stable=True)[:, -width:] for part in parts]
    cache = new_cache()
    for number, layers in enumerate(zip(*(part.layers() for part in parts), strict=True)):
        both = []
        for kind in range(2):
            like = layers[0][kind]
            rows = sum(len(part.lengths) for part in parts)
            # Zeros, since what is masked must still be a number.
            whole = like.new_zeros(rows, like.shape[1], width, like.shape[3])
            begin = 0
            for layer, order in zip(layers, orders, strict=True):
                end = begin + len(order)
                columns = order[:, None, :, None].expand(-1, like.shape[1], -1, like.shape[3])
                whole[begin:end, :, width - order.shape[1] :] = layer[kind].gather(2, columns)
                begin = end
            both.append(whole)
        cache.update(both[0], both[1], number)
    masks = [part.mask.gather(1, order) for part, order in zip(parts, orders, strict=True)]
    masks = [torch.nn.functional.pad(mask, (width - mask.shape[1], 0)) for mask in masks]
    return Cached(cache, torch.cat(masks), torch.cat([part.lengths for part in parts]))


def new_cache() -> Cache:
    """An empty cache whose layers grow in place."""
    from transformers import Cache

    from hfkit.evaluation.growing_layer import GrowingLayer

    return Cache(layer_class_to_replicate=GrowingLayer)


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
    try:
        # Of the part that reads text; under this name also where the configuration's own is another (GPT-2).
        limit = model.config.get_text_config().max_position_embeddings
    except AttributeError:
        return None
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

    ids, new_mask = _padded(blocks, model.device)
    if after is None:
        before = torch.zeros(len(blocks), dtype=torch.long, device=model.device)
        after = Cached(new_cache(), new_mask[:, :0], before)
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
