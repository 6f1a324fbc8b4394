"""Supervised fine-tuning: the train stage of a recipe with `method: sft`."""

from __future__ import annotations

import inspect
import json
import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from hfkit.data.prepared import TRAIN, open_dataset
from hfkit.errors import RequestError, WorkError
from hfkit.models.loading import load_model, load_tokenizer
from hfkit.models.precision import Resolved
from hfkit.models.tuned import save_tuned, with_new_adapter
from hfkit.quiet import quiet_libraries
from hfkit.recipe import ModelSection, TrainSection
from hfkit.stage import StageContext

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Hidden, so that what is only needed to continue is no part of the artifact.
CHECKPOINTS = ".checkpoints"
METRICS = "metrics.jsonl"

# Tokens that one forward and backward pass may hold: what fills the cores or the GPU, and what memory allows. On a CPU,
# 2,000 tokens of a 135M model take about 3 GiB and passes half as large are a third slower.
_TOKENS_AT_ONCE_CPU = 2048
_TOKENS_AT_ONCE_GPU = 16384


class TrainResult(BaseModel):
    """`loss` is the mean over the last logged steps, in nats a trained token."""

    model_config = ConfigDict(frozen=True)

    steps: int
    loss: float
    micro_batch_size: int
    precision: str
    precision_reason: str
    trained_parameters: int
    parameters: int
    continued_from_step: int


def train(context: StageContext) -> TrainResult:
    """Train and leave `adapter/` (or `model/`) with the tokenizer, and `metrics.jsonl`.

    A run that was stopped goes on from its newest whole checkpoint.

    Raises:
        RequestError: the batch cannot be split as the recipe says.
        WorkError: the loss is no longer a number.
    """
    import torch
    from transformers import PrinterCallback, TrainingArguments, set_seed

    from hfkit.training.collation import CollateTrainedPositions
    from hfkit.training.trainer import TrainedPositionsTrainer, WatchTraining, require_finite, trained_token_loss

    recipe = context.recipe
    assert recipe.model is not None and recipe.train is not None
    settings = recipe.train
    set_seed(recipe.seed)
    tokenizer = load_tokenizer(recipe.model)
    model, precision = _trainable_model(recipe.model)
    _require_logits_to_keep(model, recipe.model.base)
    context.progress.say(f"  precision: {precision.precision}, since {precision.reason}")

    with quiet_libraries():
        dataset = open_dataset(context.upstream["data"] / TRAIN, context.folder / ".cache")
    on_gpu = torch.cuda.is_available()
    micro_batch = micro_batch_size(settings, max(dataset["length"]), on_gpu=on_gpu)
    arguments = TrainingArguments(
        output_dir=str(context.folder / CHECKPOINTS),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=settings.batch_size // micro_batch,
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
    with context.progress.bar("training") as update, quiet_libraries(), _inputs_left_in_bf16(model, precision):
        trainer = TrainedPositionsTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            data_collator=CollateTrainedPositions(pad_id=int(tokenizer.pad_token_id)),
            compute_loss_func=trained_token_loss,
            callbacks=[WatchTraining(update, context.folder / METRICS)],
        )
        # It would print every log line to standard output, which belongs to --json.
        trainer.remove_callback(PrinterCallback)
        checkpoint = newest_whole_checkpoint(context.folder / CHECKPOINTS)
        if checkpoint is not None:
            context.progress.say(f"  continuing from step {_step(checkpoint)}")
        output = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    # Steps after the last line of the log have been seen by nobody yet.
    require_finite(output.training_loss, trainer.state.global_step)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = TrainResult(
        steps=trainer.state.global_step,
        loss=losses[-1] if losses else output.training_loss,
        micro_batch_size=micro_batch,
        precision=precision.precision,
        precision_reason=precision.reason,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in model.parameters()),
        continued_from_step=0 if checkpoint is None else _step(checkpoint),
    )
    tokenizer.save_pretrained(save_tuned(model, context.folder))
    return result


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


def micro_batch_size(settings: TrainSection, longest: int, *, on_gpu: bool) -> int:
    """Rows that are computed at once: the recipe's, or the largest divisor of a step whose tokens fit the budget above.

    Raises:
        RequestError: `micro_batch_size` does not divide `batch_size`.
    """
    if settings.micro_batch_size != "auto":
        if settings.batch_size % settings.micro_batch_size:
            raise RequestError(
                f"train.micro_batch_size: {settings.batch_size} rows a step cannot be cut into batches of "
                f"{settings.micro_batch_size}"
            )
        return settings.micro_batch_size
    budget = _TOKENS_AT_ONCE_GPU if on_gpu else _TOKENS_AT_ONCE_CPU
    largest = min(settings.batch_size, budget)
    divisors = (size for size in range(1, largest + 1) if settings.batch_size % size == 0)
    return max(size for size in divisors if size == 1 or size * longest <= budget)


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end and that training can go on from.

    The Trainer writes `trainer_state.json` last; after a power cut it may stand beside files whose content never
    reached the disk, so those are looked at too. The checkpoint of the very last step is passed over: the Trainer would
    take one more step after it.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
            last = bool(state["global_step"] >= state["max_steps"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        states = [path for path in checkpoint.glob("*.pt*") if not zipfile.is_zipfile(path)]
        weights = list(checkpoint.glob("*.safetensors"))
        if not last and not states and weights and all(_readable(path) for path in weights):
            return checkpoint
    return None


def _readable(weights: Path) -> bool:
    """Whether the file's header fits its size."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _step(checkpoint: Path) -> int:
    try:
        return int(checkpoint.name.removeprefix("checkpoint-"))
    except ValueError as error:
        raise WorkError(f"{checkpoint}: not a checkpoint that hfkit wrote; move it away") from error
