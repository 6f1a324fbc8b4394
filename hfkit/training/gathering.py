"""Weights that are divided over processes, put together again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.tensor import DTensor
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def whole_state(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """The trained weights of `model` on the CPU, whole; None where each process holds all of them anyway.

    Every process must call it, and each gets the same. One weight after the other is gathered, so a GPU needs room for
    the largest only, while each machine's memory holds what is trained once for each of its processes.
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if is_deepspeed_zero3_enabled():
        import deepspeed

        state = {}
        for name, weight in trained:
            with deepspeed.zero.GatheredParameters([weight]):
                state[name] = weight.detach().cpu().clone()
        return state
    if not any(isinstance(weight, DTensor) for _, weight in trained):
        return None
    return {name: _whole(weight.detach()).cpu() for name, weight in trained}


def _whole(weight: torch.Tensor) -> torch.Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
