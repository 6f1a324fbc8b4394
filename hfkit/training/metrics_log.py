"""metrics.jsonl: a line for every few optimiser steps and for every validation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"


class MetricsLine(BaseModel):
    """A line of metrics.jsonl. The keys are the same in every line; what does not apply is null.

    Attributes:
        split: of a training line, the numbers are of the steps since the line before it.
        loss: mean, in nats a trained token.
        learning_rate, grad_norm: at the line's step; the norm is that before it was cut.
        tokens: trained on so far, padding not counted.
        tokens_per_second: since the line before, validation and saving not counted.
        seconds: since the run began, over all the processes that it took, their starting not counted.
        memory_bytes: resident on a CPU; on a GPU the most that was allocated.
        metrics: of a validation, by name; the loss is among them if it was asked for.
    """

    model_config = ConfigDict(frozen=True)

    split: Literal["train", "validation"]
    step: int
    epoch: float
    loss: float | None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int
    tokens_per_second: float | None = None
    seconds: float
    memory_bytes: int
    metrics: dict[str, float] = {}

    @property
    def numbers(self) -> dict[str, float]:
        """The line as a tracker wants it: flat, `train/loss` or `validation/token_f1`, without what is null."""
        plain = self.model_dump(exclude={"split", "step", "metrics"}, exclude_none=True) | self.metrics
        return {f"{self.split}/{name}": value for name, value in plain.items()}


class Sample(BaseModel):
    """A line of samples.jsonl: what the model in training said to a validation row.

    Attributes:
        prompt: its last message.
        reply, stopped: null where there is none; `stopped` is false where the reply was cut off at the limit.
        failed: why there is none.
    """

    model_config = ConfigDict(frozen=True)

    step: int
    row: str
    prompt: str
    reply: str | None
    stopped: bool | None
    failed: str | None
    references: tuple[str, ...]


def append_line(path: Path, line: BaseModel) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line.model_dump_json() + "\n")


def read_metrics(path: Path) -> list[MetricsLine]:
    """The lines that are whole, in order; none where there is no file."""
    lines = []
    for text in _lines(path):
        try:
            lines.append(MetricsLine.model_validate_json(text))
        except ValidationError:
            # The line that a kill cut off.
            continue
    return lines


def forget_lines_after(path: Path, step: int) -> None:
    """A run that goes on from a checkpoint repeats the steps after it; their old lines would stand twice."""
    if path.is_file():
        kept = [text for text in _lines(path) if _is_of_step(text, step)]
        temporary = path.with_name(f".{path.name}")
        temporary.write_text("".join(text + "\n" for text in kept), encoding="utf-8")
        temporary.replace(path)


def flush_lines(path: Path) -> None:
    """To the disk: a checkpoint must not know of lines that a power cut takes away."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


class _OfStep(BaseModel):
    step: int


def _is_of_step(text: str, last: int) -> bool:
    try:
        return _OfStep.model_validate_json(text).step <= last
    except ValidationError:
        return False


def _lines(path: Path) -> list[str]:
    # Not splitlines(): a reply may hold other signs that Python takes for the end of a line.
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return [line for line in text.split("\n") if line]
