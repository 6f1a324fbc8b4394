"""How well the model in training does on the rows that are kept out: its loss, its replies, and samples of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from hfkit.data.examples import Example
from hfkit.errors import RequestError, WorkError
from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.rows import Answer, Failed, Generation, GenerationRow
from hfkit.recipe.train import LOSS, TrainSection, ValidationSection
from hfkit.training.collation import IGNORED, CollateTrainedPositions, TrainingRow
from hfkit.training.metrics_log import Sample
from hfkit.training.microbatches import divide, longest_first, micro_batches_needed
from hfkit.training.validation_rows import hold_out, read_held_out

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedModel

    from hfkit.data.rendering import Renderer
    from hfkit.training.trainer import TrainedPositionsTrainer

# Rows of the rehearsal before the first step.
_REHEARSED = 2
_REPLIES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Validated:
    """What a validation gave. `loss` is None where the loss is not asked for; it is among `metrics` where it is."""

    loss: float | None
    metrics: Mapping[str, float]
    samples: tuple[Sample, ...]


@dataclass(slots=True)
class Validation:
    """Measures the model of a trainer.

    Nothing here moves a generator of random numbers that training draws from, or leaves the model changed: a run with
    validation takes the very steps of one that measures something else on the same rows.

    Args:
        settings: what is measured.
        sequences: the tokens of the rows that are kept out.
        examples: these rows.
        renderer: what prompts are rendered with.
        tokens_at_once: what a forward pass may have, padding counted.

    Attributes:
        found: what the last validation gave.
    """

    settings: ValidationSection
    sequences: Sequence[TrainingRow]
    examples: Sequence[Example]
    renderer: Renderer
    tokens_at_once: int
    found: Validated | None = None
    _questions: list[GenerationRow] = field(init=False)
    _metrics: dict[str, Metric] = field(init=False)

    def __post_init__(self) -> None:
        names = [name for name in self.settings.metrics if name != LOSS]
        self._metrics = {name: metric_named(name) for name in names}
        self._questions = []
        if names or self.settings.samples:
            from hfkit.evaluation.tasks.conversations import conversation_rows

            self._questions = conversation_rows(self.examples)
        if names and not self._questions:
            raise RequestError(
                f"train.validation.metrics: {names[0]} is measured on replies, and none of the rows that are kept out "
                "asks for one; leave loss alone in the list"
            )

    def higher_is_better(self, name: str) -> bool:
        return name != LOSS and self._metrics[name].higher_is_better

    def rehearse(self, trainer: TrainedPositionsTrainer) -> None:
        """Measure everything on a few rows, so that a fault in it shows before the first step and not after many."""
        rehearsal = Validation(
            self.settings, self.sequences[:_REHEARSED], self.examples, self.renderer, self.tokens_at_once
        )
        rehearsal._questions = self._questions[:_REHEARSED]
        rehearsal.measure(trainer)

    def measure(self, trainer: TrainedPositionsTrainer) -> Validated:
        """Raises WorkError for a metric that has no value: nothing could be chosen by it."""
        model = trainer.model
        assert model is not None
        training = model.training
        model.eval()
        try:
            with _generators_kept():
                loss = self._loss(trainer) if LOSS in self.settings.metrics else None
                metrics, samples = self._replies(trainer)
        finally:
            model.train(training)
        if loss is not None:
            metrics[LOSS] = loss
        for name in self.settings.metrics:
            if math.isnan(metrics[name]):
                raise WorkError(f"train.validation.metrics: {name} has no value on the validation rows")
        return Validated(loss, {name: metrics[name] for name in self.settings.metrics}, samples)

    def _loss(self, trainer: TrainedPositionsTrainer) -> float:
        """The mean over all trained tokens of the rows."""
        lengths = [len(row["input_ids"]) for row in self.sequences]
        packs = longest_first([(number,) for number in range(len(lengths))], lengths)
        count = micro_batches_needed([lengths[row] for (row,) in packs], self.tokens_at_once)
        # The rows of validation are never packed, so that the loss is the same however training lays out its own.
        collate = CollateTrainedPositions(int(self.renderer.tokenizer.pad_token_id or 0), "padded")
        total, tokens = 0.0, 0
        for micro_batch in divide(packs, lengths, count):
            batch = collate([[self.sequences[row] for row in pack] for pack in micro_batch])
            tokens += int(batch["labels"].ne(IGNORED).sum())
            total += trainer.summed_loss(batch)
        return total / max(tokens, 1)

    def _replies(self, trainer: TrainedPositionsTrainer) -> tuple[dict[str, float], tuple[Sample, ...]]:
        asked = self._questions if self._metrics else self._questions[: self.settings.samples]
        if not asked:
            return {}, ()
        from hfkit.evaluation.generation import generate

        with trainer.number_format():
            answers = generate(
                cast("PreTrainedModel", trainer.model),
                self.renderer,
                [row.messages for row in asked],
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=_REPLIES_AT_ONCE,
                update=_unwatched,
            )
        metrics = {name: _value(metric, asked, answers) for name, metric in self._metrics.items()}
        shown = zip(asked[: self.settings.samples], answers, strict=False)
        return metrics, tuple(_sample(trainer.state.global_step, row, answer) for row, answer in shown)


def keep_out(
    rows: datasets.Dataset, prepared: Path, settings: TrainSection, seed: int, renderer: Renderer, tokens_at_once: int
) -> tuple[datasets.Dataset, Validation | None]:
    """The rows to train on, and what measures the model on the others; all of them and None without validation."""
    if settings.validation is None:
        return rows, None
    from hfkit.training.trainer import PackedRows

    held_out = hold_out(prepared, settings.validation.share, seed)
    kept: tuple[list[int], list[int]] = ([], [])
    for number, row in enumerate(rows["row"][:]):
        kept[row in held_out].append(number)
    trained, validated = (rows.select(numbers, keep_in_memory=True) for numbers in kept)
    return trained, Validation(
        settings.validation,
        PackedRows(validated)[tuple(range(len(validated)))],
        read_held_out(prepared, held_out),
        renderer,
        tokens_at_once,
    )


def _value(metric: Metric, rows: Sequence[GenerationRow], answers: Sequence[Answer]) -> float:
    import numpy as np

    scored = [numbers for numbers in metric.rows(rows, answers) if numbers is not None]
    if not scored:
        return math.nan
    return float(metric.value(np.asarray(scored, dtype=np.float64).sum(axis=0)))


def _sample(step: int, row: GenerationRow, answer: Generation | Failed) -> Sample:
    said = answer if isinstance(answer, Generation) else None
    return Sample(
        step=step,
        row=row.id,
        prompt=row.messages[-1].content,
        reply=None if said is None else said.text,
        stopped=None if said is None else said.stopped,
        failed=answer.reason if isinstance(answer, Failed) else None,
        references=row.references,
    )


def _unwatched(done: int, total: int) -> None:
    """Nobody looks: training has a bar of its own."""


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Within: what is drawn from the global generators is not drawn for whoever draws from them afterwards."""
    import random

    import numpy as np

    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
