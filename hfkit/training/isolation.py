"""Whether a model keeps packed rows apart: asked of its configuration, then measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from hfkit.training.collation import IGNORED, CollateTrainedPositions, Layout, TrainingRow
from hfkit.training.loss import kept_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Layers that look at other tokens through attention alone, whose mask ends at a row's border. All others (convolutions,
# linear attention, state space models, attention by chunks of fixed places) carry something over it.
_ISOLATED = frozenset({"full_attention", "sliding_attention"})

# Shares of the largest loss by which two computations of one thing may differ. A leak shows as a difference between two
# computations of one shape, which are equal to the bit in plain float32, but for the routing of experts.
_EXACT_LEAK, _EXACT_PLACE = 1e-6, 1e-4
_COARSE = 2e-2

_LENGTHS = (7, 12, 10)


def why_not_packable(
    model: PreTrainedModel, layout: Layout, *, half_precision: bool = False, quantised: bool = False
) -> str | None:
    """Why `model` may not be given packed rows in this layout, in words that follow "since"; None if it may.

    The probe packs three short rows of random tokens. The loss of each token must be the same when the other rows of
    the pack change, and when the row is given alone. It needs three passes over 32 tokens and draws no random numbers
    of the run's own.

    Args:
        model: in the state in which it will be trained; its mode (training or not) is kept.
        layout: `blocks` or `end_to_end`.
        half_precision: the model is trained in bfloat16; then, and where it is `quantised`, small differences do not
            count.
    """
    layers = model.config.get_text_config().to_dict().get("layer_types") or ()
    others = sorted(set(layers) - _ISOLATED)
    if others:
        return f"its layers of the kind {', '.join(others)} would carry something from one row of a pack to the next"
    training = model.training
    model.eval()
    try:
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=half_precision):
            return _probe(model, layout, exact=not half_precision and not quantised)
    finally:
        model.train(training)


def _probe(model: PreTrainedModel, layout: Layout, *, exact: bool) -> str | None:
    choose = random.Random(0)
    rows, others = ([_random_row(model, choose, length) for length in _LENGTHS] for _ in range(2))
    alone = token_losses(model, [[row] for row in rows], "padded")
    packed = token_losses(model, [rows], layout)
    # The row in the middle, between two others than before.
    between = token_losses(model, [[others[0], rows[1], others[2]]], layout)
    middle = slice(_LENGTHS[0] - 1, _LENGTHS[0] - 1 + _LENGTHS[1] - 1)
    largest = 1 + float(alone.abs().max())
    leak = float((packed[middle] - between[middle]).abs().max()) / largest
    place = float((packed - alone).abs().max()) / largest
    if not leak <= (_EXACT_LEAK if exact else _COARSE):
        return "a row's loss changes with the other rows of its pack: this model's attention takes no block mask"
    if not place <= (_EXACT_PLACE if exact else _COARSE):
        return "a row's loss changes with its place in a pack: this model does not follow the positions it is given"
    return None


def token_losses(model: PreTrainedModel, packs: Sequence[Sequence[TrainingRow]], layout: Layout) -> torch.Tensor:
    """The loss of each trained token of `packs`, in their order: float32 [trained tokens]."""
    batch = CollateTrainedPositions(pad_id=0, layout=layout)(packs)
    labels = batch.pop("labels").to(model.device)
    del batch["shift_labels"]
    inputs = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()
    }
    with torch.no_grad():
        logits = kept_logits(model, inputs).float()
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return losses[labels.flatten() != IGNORED].cpu()


def _random_row(model: PreTrainedModel, choose: random.Random, length: int) -> TrainingRow:
    vocabulary = model.config.get_text_config().vocab_size
    return {"input_ids": [choose.randrange(vocabulary) for _ in range(length)], "spans": [0, length]}
