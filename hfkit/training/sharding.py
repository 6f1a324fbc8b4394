"""What Accelerate has to be told before it divides a model with FSDP2."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Trainer


def keep_sums_in_float32(trainer: Trainer) -> None:
    """In 16 bits, Accelerate has FSDP2 round what each unit gives, which rounds a summed loss too, and add up gradients
    in 16 bits. Weights are gathered in 16 bits still. It reads the policy when it prepares the model."""
    import torch
    from accelerate import DistributedType
    from torch.distributed.fsdp import MixedPrecisionPolicy

    state = trainer.accelerator.state
    if state.distributed_type != DistributedType.FSDP:
        return
    policy = state.fsdp_plugin.mixed_precision_policy
    if policy is not None and policy.param_dtype is not None:
        state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32
        )
