"""What happens after each optimiser step: the log, the guard, and when to validate, to save and to stop.

The Trainer logs each step, so `on_log` is where a step is known; validating and saving follow it, in this order.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from hfkit.errors import WorkError
from hfkit.progress import Update
from hfkit.training.checkpoints import CHECKPOINTS, PARTIAL, seal_checkpoint
from hfkit.training.course import Course, memory_bytes
from hfkit.training.guard import MOST_SKIPPED, find_divergence, what_is_no_number
from hfkit.training.metrics_log import METRICS, SAMPLES, MetricsLine, append_line, flush_lines
from hfkit.training.sampling import PlannedSteps, length_grouped_order
from hfkit.training.trainer import same_on_every_rank
from hfkit.training.validation import Validation
from hfkit.training.weights import TrainedWeights, rotate_kept

_LOG = logging.getLogger("hfkit")


class WatchSteps(TrainerCallback):
    """Counts, writes metrics.jsonl, moves the bar, and ends a run that went wrong with a WorkError."""

    def __init__(self, course: Course, update: Update, plan: PlannedSteps) -> None:
        self.course, self.update, self.plan = course, update, plan
        self.resumed = time.monotonic()
        self.logged: dict[str, float] = {}
        self.tokens_of_steps: list[int] = []
        self.epoch_of_tokens = -1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.update(state.global_step, state.max_steps)
        self.resumed = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        # The Trainer keeps every line that it logs, and writes all of them into every checkpoint.
        state.log_history.clear()
        if logs is None or "loss" not in logs:
            return
        counted = self.course.state
        counted.count_step(logs["loss"], self._tokens(state.global_step), time.monotonic() - self.resumed)
        self.update(state.global_step, state.max_steps)
        fault = self._fault(state.global_step, logs, scaled=args.fp16)
        self.logged = logs
        is_last = control.should_training_stop or fault is not None
        if state.global_step % self.course.settings.log_steps == 0 or is_last:
            self._write_line(state)
            _LOG.info("step %d of %d: loss %.4f", state.global_step, state.max_steps, logs["loss"])
        if fault is not None:
            raise WorkError(f"train: {fault}")
        self.resumed = time.monotonic()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.resumed = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.resumed = time.monotonic()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.course.state.window_steps:
            self._write_line(state)

    def _fault(self, step: int, logs: dict[str, float], *, scaled: bool) -> str | None:
        # Where a scaler looks for the largest scale that float16 bears, infinite gradients are its way of looking.
        norm = logs.get("grad_norm")
        self.course.state.count_skipped(norm)
        looks = scaled and self.course.state.skipped < MOST_SKIPPED
        no_number = what_is_no_number(logs["loss"], None if looks else norm)
        if no_number is not None:
            return (
                f"{no_number} at step {step}; lower train.learning_rate, or set model.precision=fp32 to see whether "
                f"the number format is at fault. {self.course.last_good_weights(step)}"
            )
        if not self.course.settings.divergence_guard:
            return None
        found = find_divergence(self.course.state.recent_losses, step)
        if found is None:
            return None
        return (
            f"the loss has left its course at step {found.step}: it was about {found.before:.2f} and is now about "
            f"{found.now:.2f} (step {step}); lower train.learning_rate, look at the rows, or set "
            f"train.divergence_guard=false to go on all the same. {self.course.last_good_weights(found.step)}"
        )

    def _write_line(self, state: TrainerState) -> None:
        counted = self.course.state
        counted.last_loss = counted.window_loss / counted.window_steps
        self.course.record(
            MetricsLine(
                split="train",
                step=state.global_step,
                epoch=state.epoch or 0.0,
                loss=counted.last_loss,
                learning_rate=self.logged["learning_rate"],
                grad_norm=self.logged.get("grad_norm"),
                tokens=counted.tokens,
                tokens_per_second=counted.window_tokens / max(counted.window_seconds, 1e-9),
                seconds=self.course.clock(),
                memory_bytes=memory_bytes(),
            )
        )
        counted.empty_window()

    def _tokens(self, step: int) -> int:
        """The tokens of a step's rows, on all ranks."""
        epoch, place = divmod(step - 1, self.plan.steps_an_epoch)
        if epoch != self.epoch_of_tokens:
            rows = length_grouped_order(self.plan.lengths, self.plan.rows_a_step, self.plan.seed, epoch)
            lengths = [self.plan.lengths[row] for row in rows]
            size = self.plan.rows_a_step
            self.tokens_of_steps = [sum(lengths[start : start + size]) for start in range(0, len(lengths), size)]
            self.epoch_of_tokens = epoch
        return self.tokens_of_steps[place]


class EndInTime(TrainerCallback):
    """Ends training when its time is up."""

    def __init__(self, course: Course, minutes: float) -> None:
        self.course, self.seconds = course, 60 * minutes

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not control.should_training_stop and same_on_every_rank(self.course.clock() >= self.seconds):
            control.should_training_stop = True
            self.course.stopped_by = "time"


class Validate(TrainerCallback):
    """Asks for a validation every so many steps and after the last one, keeps what it gave, and stops without gain."""

    def __init__(self, course: Course, validation: Validation) -> None:
        self.course, self.validation = course, validation
        settings = course.settings
        # What is watched, also where no best is asked for: patience needs one.
        self.watched = settings.best or validation.settings.metrics[0]

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_training_stop or state.global_step % self.validation.settings.steps == 0:
            control.should_evaluate = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        found = self.validation.found
        assert found is not None
        settings, counted = self.course.settings, self.course.state
        self.course.record(
            MetricsLine(
                split="validation",
                step=state.global_step,
                epoch=state.epoch or 0.0,
                loss=found.loss,
                tokens=counted.tokens,
                seconds=self.course.clock(),
                memory_bytes=memory_bytes(),
                metrics=dict(found.metrics),
            )
        )
        if self.course.is_main:
            for sample in found.samples:
                append_line(self.course.folder / SAMPLES, sample)
        said = ", ".join(f"{name} {value:.4f}" for name, value in found.metrics.items())
        _LOG.info("validation at step %d: %s", state.global_step, said)
        gained = counted.judge(
            found.metrics[self.watched],
            state.global_step,
            higher_is_better=self.validation.higher_is_better(self.watched),
        )
        if gained and settings.best is not None and not control.should_training_stop:
            # Its weights are needed in the end, however many steps come after it.
            control.should_save = True
        if settings.patience is not None and counted.without_gain >= settings.patience:
            if not control.should_training_stop:
                self.course.stopped_by = "patience"
            control.should_training_stop = True
            # There is nothing to go on with from here.
            control.should_save = False


class SaveCheckpoints(TrainerCallback):
    """Asks for a checkpoint every so many steps but after the last, and keeps what the Trainer has written of it."""

    def __init__(self, course: Course, weights: TrainedWeights) -> None:
        self.course, self.weights = course, weights

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.course.settings.save_steps == 0 and not control.should_training_stop:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        ranks = PartialState()
        ranks.wait_for_everyone()
        whole = self.weights.whole()
        if self.course.is_main:
            self._keep(state.global_step, whole)
        ranks.wait_for_everyone()

    def _keep(self, step: int, whole: dict[str, torch.Tensor] | None) -> None:
        folder, settings, counted = self.course.folder, self.course.settings, self.course.state
        partial = folder / CHECKPOINTS / PARTIAL / f"checkpoint-{step}"
        # Nothing reads it, and it is a pickle.
        (partial / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        self.course.clock()
        for name in (METRICS, SAMPLES):
            flush_lines(folder / name)
        # Before the checkpoint, so that a run that goes on from it has the weights of its step; and older ones go after
        # it, so that one that goes on from an older checkpoint has those that it knows as the best.
        best = counted.best_step if settings.best is not None else None
        if settings.keep_checkpoints != 0 or best == step:
            self.weights.keep(folder, step, whole)
        seal_checkpoint(partial, folder / CHECKPOINTS, step, counted)
        rotate_kept(folder, settings.keep_checkpoints, best, guarded_to=step if settings.divergence_guard else None)
