"""The one training core: transformers.Trainer with the loss on trained positions, and its callbacks."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_outputs import CausalLMOutputWithPast

from hfkit.errors import WorkError
from hfkit.progress import Update
from hfkit.training.collation import IGNORED, TrainingRow, is_empty
from hfkit.training.packing import Pack
from hfkit.training.sampling import PlannedSteps

if TYPE_CHECKING:
    import datasets

_LOG = logging.getLogger("hfkit")


class PackedRows(Dataset[list[TrainingRow]]):
    """The prepared rows, by packs: the item of a pack is the list of its rows."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, pack: Pack) -> list[TrainingRow]:
        columns = self.rows[list(pack)]
        return [
            {"input_ids": ids, "spans": spans}
            for ids, spans in zip(columns["input_ids"], columns["spans"], strict=True)
        ]


class TrainedPositionsTrainer(Trainer):
    """A Trainer for the micro-batches of PlannedSteps and the batches of CollateTrainedPositions.

    Logits exist at the positions in `logits_to_keep` only, which is the model's own argument. The loss is the sum over
    the trained tokens divided by how many the whole optimiser step has, on all ranks and micro-batches together, so it
    does not depend on how a step is split up.
    """

    def __init__(self, *, plan: PlannedSteps, **kwargs: Any) -> None:
        self.plan = plan
        super().__init__(**kwargs)

    def get_train_dataloader(self) -> DataLoader[list[TrainingRow]]:
        assert isinstance(self.train_dataset, PackedRows)
        loader: DataLoader[list[TrainingRow]] = DataLoader(
            self.train_dataset,
            batch_sampler=self.plan,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[list[TrainingRow]] = self.accelerator.prepare(loader)
        return prepared

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        if is_empty(inputs):
            return torch.zeros((), device=self.args.device)
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        passed = {name: value for name, value in inputs.items() if name != "shift_labels"}
        loss: torch.Tensor | tuple[torch.Tensor, Any] = super().compute_loss(
            model, passed, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        return loss


def trained_token_loss(
    outputs: CausalLMOutputWithPast, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy of float32 logits [B, K, vocabulary] against labels [B, K], over `num_items_in_batch` tokens."""
    assert outputs.logits is not None
    total = cross_entropy(outputs.logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    trained = labels.ne(IGNORED).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    # A step whose rows train nothing has the loss 0 and not 0 / 0.
    return total / trained.clamp(min=1)


class WatchTraining(TrainerCallback):
    """Shows the step on the bar, keeps `metrics.jsonl`, and stops a run whose loss is no longer a number."""

    def __init__(self, update: Update, metrics: Path) -> None:
        self.update = update
        self.metrics = metrics

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.update(state.global_step, state.max_steps)
        self._forget_after(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.update(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
        _LOG.info("step %d of %d: loss %.4f", state.global_step, state.max_steps, logs["loss"])
        require_finite(logs["loss"], state.global_step)

    def _forget_after(self, step: int) -> None:
        """A run that starts again from a checkpoint repeats the steps after it; their old lines would stand twice."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        self.metrics.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def require_finite(loss: float, step: int) -> None:
    """Raises WorkError for a loss that is NaN or infinite: from there on the weights are worthless."""
    if not math.isfinite(loss):
        raise WorkError(
            f"train: the loss is {loss} at step {step}; lower train.learning_rate, or set model.precision=fp32 to see "
            "whether the number format is at fault"
        )


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        # The line that a kill cut off.
        return math.inf
