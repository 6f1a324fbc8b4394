"""The optimiser of a run, and the learning rates of LoRA+."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfkit.errors import RequestError
from hfkit.launched import fsdp_was_asked_for
from hfkit.recipe import TrainSection

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# As Transformers calls them; its own AdamW is that of PyTorch.
_NAMES = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}


def optimizer_name(settings: TrainSection) -> str:
    """What the Trainer calls the optimiser of the recipe.

    The averages of the 8-bit ones are held in blocks of one byte a number (Dettmers et al. 2022, arXiv:2110.02861);
    those of paged ones move to the CPU's memory where the GPU's does not suffice.

    Raises:
        RequestError: a paged one is asked for where there is no GPU, or one of bitsandbytes under FSDP.
    """
    import torch

    if settings.optimizer != "adamw" and fsdp_was_asked_for():
        # https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1633: its kernels take a part for the whole.
        raise RequestError(
            f"train.optimizer: {settings.optimizer} does not work on weights that fsdp2 divides; use adamw, or launch "
            "with ddp or a configuration of DeepSpeed"
        )

    if settings.optimizer.startswith("paged") and not torch.cuda.is_available():
        plain = settings.optimizer.removeprefix("paged_")
        raise RequestError(
            f"train.optimizer: {settings.optimizer} pages between a GPU's memory and the CPU's, and there is no GPU; "
            f"use {plain}"
        )
    return _NAMES[settings.optimizer]


def lora_plus(
    model: PreTrainedModel, optimizer: type[torch.optim.Optimizer], ratio: float, decay: float, settings: dict[str, Any]
) -> torch.optim.Optimizer:
    """An optimiser that gives B matrices `ratio` times the learning rate of A matrices (LoRA+, Hayou et al. 2024,
    arXiv:2402.12354).

    Args:
        model: with an adapter.
        decay: weight decay.
        settings: what else `optimizer` is made with, the learning rate `lr` among it.
    """
    from peft import PeftModel
    from peft.optimizers import create_loraplus_optimizer

    assert isinstance(model, PeftModel)
    made: torch.optim.Optimizer = create_loraplus_optimizer(
        model,
        optimizer,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=decay,
        # Adapters of embeddings are trained at the rate of the others.
        loraplus_lr_embedding=settings["lr"],
        **settings,
    )
    # PEFT makes a group of each kind, whether or not the adapter has any of it.
    made.param_groups[:] = [group for group in made.param_groups if group["params"]]
    return made
