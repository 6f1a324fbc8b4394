"""Supervised fine-tuning: the train stage of a recipe with `method: sft`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from hfkit.data.prepared import open_sequences
from hfkit.errors import RequestError
from hfkit.launched import require_as_asked
from hfkit.memory.batches import tokens_at_once
from hfkit.models.loading import load_renderer
from hfkit.models.precision import Resolved
from hfkit.models.trainable import trainable_model
from hfkit.noticeboard import NoticeBoard
from hfkit.processes import current_processes
from hfkit.quiet import quiet_libraries
from hfkit.recipe import TrainSection
from hfkit.stage import StageContext
from hfkit.training.checkpoints import CHECKPOINTS, PARTIAL, require_room, step_of
from hfkit.training.metrics_log import METRICS, read_metrics
from hfkit.training.result import TrainResult
from hfkit.training.weights import TrainedWeights, kept_steps, kept_weights, rotate_kept

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from hfkit.training.course import Course
    from hfkit.training.sampling import PlannedSteps


def train(context: StageContext) -> TrainResult:
    """Train and leave `adapter/` (or `model/`), the kept checkpoints' weights, and what was measured on the way.

    A run that was stopped goes on from its newest whole checkpoint, to the very weights of one that was not.

    Raises:
        RequestError: the batch cannot be split, rows cannot be packed, or none kept out, as the recipe says.
        WorkError: the loss is no longer a number, or has left its course.
    """
    from hfkit.training.determinism import deterministic_algorithms
    from hfkit.training.freed_memory import freed_memory_given_back

    assert context.recipe.train is not None
    # Who asks for checkpointing asks for memory, and has the time.
    saving = freed_memory_given_back() if context.recipe.train.gradient_checkpointing else nullcontext()
    with deterministic_algorithms(), saving:
        return _train(context)


def _train(context: StageContext) -> TrainResult:
    import torch
    from transformers import PrinterCallback, set_seed

    from hfkit.training.arguments import total_steps, training_arguments
    from hfkit.training.callbacks import EndInTime, SaveCheckpoints, Validate, WatchSteps
    from hfkit.training.collation import CollateTrainedPositions
    from hfkit.training.course import Course
    from hfkit.training.determinism import conditions_here, determinism_in_words
    from hfkit.training.kernels import compile_layers, require_liger
    from hfkit.training.layout import choose_layout
    from hfkit.training.loss import TrainedTokenLoss
    from hfkit.training.resuming import where_to_go_on
    from hfkit.training.sharding import keep_sums_in_float32
    from hfkit.training.tracking import start_trackers
    from hfkit.training.trainer import PackedRows, TrainedPositionsTrainer
    from hfkit.training.validation import keep_out

    recipe, folder, progress = context.recipe, context.folder, context.progress
    assert recipe.model is not None and recipe.data is not None and recipe.train is not None
    settings = recipe.train
    processes = current_processes()
    set_seed(recipe.seed)
    # Whether there has to be a chat template was decided when the rows were rendered.
    renderer = load_renderer(recipe.model, chat=False)
    model, precision = trainable_model(recipe.model)
    progress.say(f"  precision: {precision.precision}, since {precision.reason}")
    token_loss = TrainedTokenLoss(model)
    progress.say(f"  loss: computed {token_loss.in_words}")
    if settings.liger:
        require_liger(model)
    trained_parameters, parameters = _counted(model)

    with quiet_libraries():
        rows = open_sequences(context.upstream["data"], "train", folder / ".cache")
        at_once = tokens_at_once("gpu" if torch.cuda.is_available() else "cpu", half=precision.is_half)
        rows, validation = keep_out(rows, context.upstream["data"], settings, recipe.seed, renderer, at_once)
        plan_with = partial(_planned_steps, rows["length"][:], settings, recipe.seed, at_once)
        chosen = choose_layout(
            recipe.data.packing,
            model,
            plan_with,
            recipe.data.max_length,
            half_precision=precision.is_half,
            quantised=recipe.model.quantization is not None,
        )
    progress.say(f"  packing: {'on' if chosen.is_packed else 'off'}, since {chosen.reason}")
    plan = plan_with(recipe.data.max_length if chosen.is_packed else None)
    steps = total_steps(settings, plan.steps_an_epoch)
    partial_checkpoint = folder / CHECKPOINTS / PARTIAL
    with quiet_libraries():
        arguments = training_arguments(
            recipe, partial_checkpoint, micro_batches=plan.micro_batches_a_step, steps=steps, precision=precision
        )

    conditions = conditions_here(processes=processes.world_size, precision=precision.precision)
    board = NoticeBoard.of(processes) if processes.are_many else None
    checkpoint, state = where_to_go_on(folder, progress, processes, conditions, board)
    trackers = start_trackers(recipe, folder, read_metrics(folder / METRICS), progress.say) if processes.is_main else []
    course = Course(settings, folder, state, trackers, processes.is_main)
    weights = TrainedWeights(model, renderer.tokenizer, renderer.stop_ids)
    if settings.compile:
        compile_layers(model)
    with progress.bar("training") as update, quiet_libraries(), _inputs_left_in_half(model, precision):
        trainer = TrainedPositionsTrainer(
            model=model,
            args=arguments,
            plan=plan,
            token_loss=token_loss,
            lora_plus_ratio=settings.lora_plus_ratio,
            validation=validation,
            train_dataset=PackedRows(rows),
            data_collator=CollateTrainedPositions(int(renderer.tokenizer.pad_token_id or 0), chosen.layout),
            callbacks=[
                *([EndInTime(course, settings.max_minutes)] if settings.max_minutes is not None else []),
                WatchSteps(course, update, plan),
                *([Validate(course, validation)] if validation is not None else []),
                SaveCheckpoints(course, weights),
            ],
        )
        # It would print every log line to standard output, which belongs to --json.
        trainer.remove_callback(PrinterCallback)
        require_as_asked(trainer, processes)
        keep_sums_in_float32(trainer)
        if not processes.is_main:
            # Each process drops other numbers out of its rows; the models were initialised alike.
            set_seed(recipe.seed + processes.rank)
        try:
            # Where the weights wait to be divided, nothing can be computed with them before the first step.
            if validation is not None and checkpoint is None and model.device.type == trainer.args.device.type:
                validation.rehearse(trainer)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except BaseException as error:
            # A RuntimeError may come of the writing of a checkpoint; a full disk has no room for halves. Where all went
            # well the folder stays for now: the Trainers of the other processes may be listing it.
            try:
                if isinstance(error, RuntimeError) and any(partial_checkpoint.glob("*")):
                    require_room(partial_checkpoint)
            finally:
                if processes.is_main:
                    shutil.rmtree(partial_checkpoint, ignore_errors=True)
            raise
        finally:
            for tracker in trackers:
                tracker.finish()

    taken = trainer.state.global_step
    whole = weights.whole()
    if processes.is_main:
        _leave(course, weights, whole, taken, title=f"{recipe.name}: {recipe.model.base}")
    assert state.last_loss is not None
    return TrainResult(
        steps=taken,
        planned_steps=steps,
        stopped_by=course.stopped_by,
        loss=state.last_loss,
        best_metric=settings.best,
        best_step=state.best_step if settings.best is not None else None,
        best_value=state.best_value if settings.best is not None else None,
        kept_steps=tuple(kept_steps(folder)) if processes.is_main else (),
        validation_rows=0 if validation is None else len(validation.examples),
        tokens=state.tokens,
        micro_batches=plan.micro_batches_a_step,
        packed=chosen.is_packed,
        packing_reason=chosen.reason,
        precision=precision.precision,
        precision_reason=precision.reason,
        trained_parameters=trained_parameters,
        parameters=parameters,
        continued_from_step=0 if checkpoint is None else step_of(checkpoint),
        deterministic=determinism_in_words(state.parts, limited_by_time=course.stopped_by == "time"),
        threads=conditions.threads,
        processes=processes.world_size,
    )


def _leave(
    course: Course, weights: TrainedWeights, whole: dict[str, torch.Tensor] | None, step: int, title: str
) -> None:
    """Write what the stage leaves: the weights, those of the last step among the kept ones, and the plot."""
    from hfkit.training.loss_plot import LOSS_PLOT, draw_losses

    settings, folder = course.settings, course.folder
    best = course.state.best_step if settings.best is not None else None
    if step % settings.save_steps == 0 and settings.keep_checkpoints != 0:
        weights.keep(folder, step, whole)
    if best is None or best == step:
        weights.save(folder, whole)
    else:
        shutil.copytree(kept_weights(folder, best), folder, dirs_exist_ok=True)
    rotate_kept(folder, settings.keep_checkpoints, None if settings.keep_checkpoints == 0 else best)
    draw_losses(read_metrics(folder / METRICS), folder / LOSS_PLOT, title, best)


def _counted(model: PreTrainedModel) -> tuple[int, int]:
    """How many parameters are trained, and how many there are. Four-bit weights stand two in a byte, which PEFT knows;
    where weights are divided over processes, this must be asked before."""
    from peft import PeftModel

    if isinstance(model, PeftModel):
        trained, every = model.get_nb_trainable_parameters()
        return int(trained), int(every)
    return sum(p.numel() for p in model.parameters() if p.requires_grad), sum(p.numel() for p in model.parameters())


def _inputs_left_in_half(model: PreTrainedModel, precision: Resolved) -> AbstractContextManager[None]:
    """PEFT casts a layer's input to the adapter's float32, which autocast would cast straight back to 16 bits."""
    from peft import PeftModel
    from peft.helpers import disable_input_dtype_casting

    if isinstance(model, PeftModel) and precision.is_half:
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
    processes = current_processes()
    return PlannedSteps(
        lengths,
        rows_a_step=settings.batch_size,
        micro_batch_size=micro,
        tokens_at_once=tokens_at_once,
        capacity=capacity,
        seed=seed,
        rank=processes.rank,
        world_size=processes.world_size,
    )
