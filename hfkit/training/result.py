"""What the train stage has to say when it is done. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Stop = Literal["steps", "time", "patience"]
"""What ended training: all of its steps were taken, its time was up, or validation saw no more gain."""


class TrainResult(BaseModel):
    """What training came to.

    Attributes:
        steps: taken. Of `planned_steps`, which fewer than all were taken of where `stopped_by` is not steps.
        loss: mean over the last logged steps, in nats a trained token.
        best_step, best_value: where the recipe asks for the best by a metric: the step whose weights are the result.
        kept_steps: the checkpoints whose weights lie in checkpoints/step-N/.
        validation_rows: kept out of training.
        micro_batches: the most that a process computes a step in.
        continued_from_step: 0 where training was not interrupted, or had to start over.
        deterministic: what the weights are a function of, in words.
        threads: that a process computed with.
    """

    model_config = ConfigDict(frozen=True)

    steps: int
    planned_steps: int
    stopped_by: Stop
    loss: float
    best_metric: str | None
    best_step: int | None
    best_value: float | None
    kept_steps: tuple[int, ...]
    validation_rows: int
    tokens: int
    micro_batches: int
    packed: bool
    packing_reason: str
    precision: str
    precision_reason: str
    trained_parameters: int
    parameters: int
    continued_from_step: int
    deterministic: str
    threads: int
    processes: int
