"""A training run while it goes on: what its callbacks share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from hfkit.recipe import TrainSection
from hfkit.training.metrics_log import METRICS, MetricsLine, append_line
from hfkit.training.result import Stop
from hfkit.training.state import TrainingState
from hfkit.training.tracking import Tracker
from hfkit.training.weights import kept_steps, kept_weights


@dataclass(slots=True)
class Course:
    """A training run while it goes on.

    Attributes:
        folder: what is written goes below it.
        is_main: this process writes; others only keep step.
        stopped_by: why it ended, once it has.
    """

    settings: TrainSection
    folder: Path
    state: TrainingState
    trackers: Sequence[Tracker]
    is_main: bool
    stopped_by: Stop = "steps"
    _before: float = field(init=False)
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._before, self._started = self.state.seconds, time.monotonic()

    def clock(self) -> float:
        """Seconds since the run began, over all the processes that it took."""
        self.state.seconds = self._before + time.monotonic() - self._started
        return self.state.seconds

    def record(self, line: MetricsLine) -> None:
        if self.is_main:
            append_line(self.folder / METRICS, line)
            for tracker in self.trackers:
                tracker.log(line.step, line.numbers)

    def last_good_weights(self, step: int) -> str:
        """Where the newest weights from before `step` lie, in a sentence."""
        good = [kept for kept in kept_steps(self.folder) if kept < step]
        if not good:
            return "No weights from before it were kept (train.save_steps, train.keep_checkpoints)"
        return (
            f"The weights of step {good[-1]} are kept in {kept_weights(self.folder, good[-1])}; copy them away before "
            "you run a changed recipe, which starts over"
        )


def memory_bytes() -> int:
    """Resident memory of this process; on a GPU the most that PyTorch has allocated there."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)
