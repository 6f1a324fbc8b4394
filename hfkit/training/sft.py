"""Supervised fine-tuning: the train stage of a recipe with `method: sft`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from hfkit.data.prepared import open_sequences
from hfkit.errors import RequestError
from hfkit.models.loading import load_model, load_renderer
from hfkit.models.precision import Resolved
from hfkit.models.tuned import save_tuned, with_new_adapter
from hfkit.quiet import quiet_libraries
from hfkit.recipe import ModelSection, Recipe, TrainSection
from hfkit.stage import StageContext
from hfkit.training.checkpoints import CHECKPOINTS, newest_whole_checkpoint, step_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

    from hfkit.training.sampling import PlannedSteps

METRICS = "metrics.jsonl"

# Tokens that one forward and backward pass may hold: what fills the cores or the GPU, and what memory allows. On a CPU,
# 2,000 tokens of a 135M model take about 3 GiB and passes half as large are a third slower.
_TOKENS_AT_ONCE_CPU = 2048
_TOKENS_AT_ONCE_GPU = 16384


class TrainResult(BaseModel):
    """`loss` is the mean over the last logged steps, in nats a trained token; `micro_batches` the most that a step is
    computed in."""

    model_config = ConfigDict(frozen=True)

    steps: int
    loss: float
    micro_batches: int
    packed: bool
    packing_reason: str
    precision: str
    precision_reason: str
    trained_parameters: int
    parameters: int
    continued_from_step: int


def train(context: StageContext) -> TrainResult:
    """Train and leave `adapter/` (or `model/`) with the tokenizer, and `metrics.jsonl`.

    A run that was stopped goes on from its newest whole checkpoint.

    Raises:
        RequestError: the batch cannot be split, or rows cannot be packed, as the recipe says.
        WorkError: the loss is no longer a number.
    """
    import torch
    from transformers import PrinterCallback, set_seed

    from hfkit.training.collation import CollateTrainedPositions
    from hfkit.training.layout import choose_layout
    from hfkit.training.trainer import (
        PackedRows,
        TrainedPositionsTrainer,
        WatchTraining,
        require_finite,
        trained_token_loss,
    )

    recipe = context.recipe
    assert recipe.model is not None and recipe.data is not None and recipe.train is not None
    settings = recipe.train
    set_seed(recipe.seed)
    # Whether there has to be a chat template was decided when the rows were rendered.
    renderer = load_renderer(recipe.model, chat=False)
    tokenizer, stop_ids = renderer.tokenizer, renderer.stop_ids
    model, precision = _trainable_model(recipe.model)
    _require_logits_to_keep(model, recipe.model.base)
    context.progress.say(f"  precision: {precision.precision}, since {precision.reason}")

    with quiet_libraries():
        dataset = open_sequences(context.upstream["data"], "train", context.folder / ".cache")
        tokens_at_once = _TOKENS_AT_ONCE_GPU if torch.cuda.is_available() else _TOKENS_AT_ONCE_CPU
        plan_with = partial(_planned_steps, dataset["length"][:], settings, recipe.seed, tokens_at_once)
        chosen = choose_layout(
            recipe.data.packing,
            model,
            plan_with,
            recipe.data.max_length,
            half_precision=precision.precision == "bf16",
            quantised=recipe.model.quantization is not None,
        )
    context.progress.say(f"  packing: {'on' if chosen.is_packed else 'off'}, since {chosen.reason}")
    plan = plan_with(recipe.data.max_length if chosen.is_packed else None)
    arguments = _arguments(recipe, context.folder, plan.micro_batches_a_step, precision)
    with context.progress.bar("training") as update, quiet_libraries(), _inputs_left_in_bf16(model, precision):
        trainer = TrainedPositionsTrainer(
            model=model,
            args=arguments,
            plan=plan,
            train_dataset=PackedRows(dataset),
            data_collator=CollateTrainedPositions(int(tokenizer.pad_token_id or 0), chosen.layout),
            compute_loss_func=trained_token_loss,
            callbacks=[WatchTraining(update, context.folder / METRICS)],
        )
        # It would print every log line to standard output, which belongs to --json.
        trainer.remove_callback(PrinterCallback)
        checkpoint = newest_whole_checkpoint(context.folder / CHECKPOINTS)
        if checkpoint is not None:
            context.progress.say(f"  continuing from step {step_of(checkpoint)}")
        output = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    # Steps after the last line of the log have been seen by nobody yet.
    require_finite(output.training_loss, trainer.state.global_step)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = TrainResult(
        steps=trainer.state.global_step,
        loss=losses[-1] if losses else output.training_loss,
        micro_batches=plan.micro_batches_a_step,
        packed=chosen.is_packed,
        packing_reason=chosen.reason,
        precision=precision.precision,
        precision_reason=precision.reason,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in model.parameters()),
        continued_from_step=0 if checkpoint is None else step_of(checkpoint),
    )
    tuned = save_tuned(model, context.folder)
    tokenizer.save_pretrained(tuned)
    _save_stops(model, tokenizer, stop_ids, tuned)
    return result


def _arguments(recipe: Recipe, folder: Path, micro_batches: int, precision: Resolved) -> TrainingArguments:
    import torch
    from transformers import TrainingArguments

    assert recipe.train is not None
    settings = recipe.train
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=settings.epochs,
        # The plan says what a micro-batch has; for the Trainer each is one item.
        per_device_train_batch_size=1,
        gradient_accumulation_steps=micro_batches,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        warmup_steps=settings.warmup,
        max_grad_norm=settings.max_grad_norm,
        weight_decay=0.0,
        bf16=precision.precision == "bf16",
        use_cpu=not on_gpu,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_steps=settings.log_steps,
        logging_nan_inf_filter=False,
        seed=recipe.seed,
        report_to="none",
        disable_tqdm=True,
    )
    # One process uses one GPU: torch's DataParallel would cut the index of kept positions into pieces.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _trainable_model(settings: ModelSection) -> tuple[PreTrainedModel, Resolved]:
    if settings.adapter is None:
        if settings.quantization is not None:
            raise RequestError("model.quantization: quantised weights cannot be trained themselves; give model.adapter")
        return load_model(settings, master_weights=True)
    model, precision = load_model(settings)
    return with_new_adapter(model, settings.adapter, quantised=settings.quantization is not None), precision


def _require_logits_to_keep(model: PreTrainedModel, name: str) -> None:
    from peft import PeftModel

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if "logits_to_keep" not in inspect.signature(base.forward).parameters:
        raise RequestError(
            f"model.base: {name} ({type(base).__name__}) cannot compute logits at chosen positions "
            "(its forward takes no logits_to_keep); use a causal model of Transformers that can"
        )


def _inputs_left_in_bf16(model: PreTrainedModel, precision: Resolved) -> AbstractContextManager[None]:
    """PEFT casts a layer's input to the adapter's float32, which autocast would cast straight back to bfloat16."""
    from peft import PeftModel
    from peft.helpers import disable_input_dtype_casting

    if isinstance(model, PeftModel) and precision.precision == "bf16":
        return disable_input_dtype_casting(model)
    return nullcontext()


def _planned_steps(
    lengths: Sequence[int], settings: TrainSection, seed: int, tokens_at_once: int, capacity: int | None
) -> PlannedSteps:
    from hfkit.training.sampling import PlannedSteps

    micro = settings.micro_batch_size
    if micro != "auto" and settings.batch_size % micro:
        raise RequestError(
            f"train.micro_batch_size: {settings.batch_size} rows a step cannot be cut into batches of {micro}"
        )
    return PlannedSteps(
        lengths,
        rows_a_step=settings.batch_size,
        micro_batch_size=micro,
        tokens_at_once=tokens_at_once,
        capacity=capacity,
        seed=seed,
    )


def _save_stops(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int], folder: Path
) -> None:
    """Beside the weights: whoever generates with them, through whatever library, stops where training stopped."""
    from transformers import GenerationConfig

    known = model.generation_config
    GenerationConfig(
        bos_token_id=None if known is None else known.bos_token_id,
        eos_token_id=stop_ids[0] if len(stop_ids) == 1 else list(stop_ids) or None,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
