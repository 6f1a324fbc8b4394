"""The recipe's `train` section as the arguments of transformers.Trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfkit.launched import fsdp_was_asked_for
from hfkit.models.precision import Resolved
from hfkit.recipe import Recipe, TrainSection
from hfkit.training.kernels import LIGER
from hfkit.training.optimizer import optimizer_name

if TYPE_CHECKING:
    from transformers import TrainingArguments

# Share of the steps over which the schedule wsd lets the rate fall.
_DECAY = 0.2


def total_steps(settings: TrainSection, steps_an_epoch: int) -> int:
    """The optimiser steps of the whole run: those of its epochs, but no more than `max_steps`."""
    steps = math.ceil(settings.epochs * steps_an_epoch)
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def training_arguments(
    recipe: Recipe, folder: Path, *, micro_batches: int, steps: int, precision: Resolved
) -> TrainingArguments:
    """What the Trainer is told. When to validate and to save is not its decision (see callbacks.py).

    Args:
        folder: where the Trainer writes its checkpoints.
        micro_batches: in which a process computes an optimiser step.
        steps: of the whole run.
    """
    import torch
    from transformers import TrainingArguments

    assert recipe.train is not None
    settings = recipe.train
    on_gpu = torch.cuda.is_available()
    schedule, schedule_settings = _schedule(settings, steps)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        # The plan says what a micro-batch has; for the Trainer each is one item.
        per_device_train_batch_size=1,
        gradient_accumulation_steps=micro_batches,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=schedule_settings,
        warmup_steps=settings.warmup,
        max_grad_norm=settings.max_grad_norm,
        weight_decay=settings.weight_decay,
        optim=optimizer_name(settings),
        bf16=precision.precision == "bf16",
        fp16=precision.precision == "fp16",
        gradient_checkpointing=settings.gradient_checkpointing,
        # The reentrant kind loses gradients where the inputs of a layer need none, as with an adapter.
        gradient_checkpointing_kwargs={"use_reentrant": False},
        use_liger_kernel=settings.liger,
        liger_kernel_config=LIGER,
        # FSDP would keep whole gradients on each GPU from one micro-batch to the next, and add them up there.
        accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": True}}
        if fsdp_was_asked_for()
        else None,
        use_cpu=not on_gpu,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        save_strategy="no",
        # The callback is handed the loss of every step.
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=recipe.seed,
        report_to="none",
        disable_tqdm=True,
    )
    # One process uses one GPU: torch's DataParallel would cut the index of kept positions into pieces.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _schedule(settings: TrainSection, steps: int) -> tuple[str, dict[str, Any]]:
    """The schedule as Transformers calls it, and what it is told."""
    if settings.schedule == "constant":
        return "constant_with_warmup", {}
    if settings.schedule == "wsd":
        after_warmup = steps - math.ceil(steps * settings.warmup)
        decay = min(math.ceil(_DECAY * steps), after_warmup)
        return "warmup_stable_decay", {"num_decay_steps": decay, "decay_type": "linear"}
    return settings.schedule, {}
