"""What a run that goes on must know beside what the Trainer keeps: counts, the guard's losses, the best so far."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from hfkit.training.guard import BEFORE, JUDGED


class Conditions(BaseModel):
    """What the last digits of the weights depend on beside the recipe and the data.

    Attributes:
        threads: that each process computes with.
        processes: that share each step.
        precision: that of the computation.
        device: the kind of GPU or processor.
        versions: of the packages that results depend on.
    """

    model_config = ConfigDict(frozen=True)

    threads: int
    processes: int
    precision: str
    device: str
    versions: dict[str, str]

    def changes(self, later: Conditions) -> list[str]:
        """In which way `later` is another, in words that follow "with"."""
        pairs = {
            "threads": (self.threads, later.threads),
            "processes": (self.processes, later.processes),
            "precision": (self.precision, later.precision),
            "device": (self.device, later.device),
            **{
                name: (self.versions.get(name, "none"), later.versions.get(name, "none"))
                for name in sorted(self.versions.keys() | later.versions.keys())
            },
        }
        return [f"{name} {now} instead of {was}" for name, (was, now) in pairs.items() if was != now]


class Part(BaseModel):
    """What one process, or those of one launch, did of a run: the steps after `after_step`."""

    model_config = ConfigDict(frozen=True)

    after_step: int
    conditions: Conditions


class TrainingState(BaseModel):
    """Counted from the first step of the run, over all the processes that it took; a checkpoint holds it as JSON.

    Attributes:
        seconds: of training, validation and saving.
        tokens: real ones, without padding.
        recent_losses: of the last steps, as the guard wants them.
        last_loss: of the last line of metrics.jsonl.
        window_loss, window_steps, window_tokens, window_seconds: summed up since the last line of metrics.jsonl.
        best_value, best_step: of the validation metric that is watched.
        without_gain: validations since the best one.
        skipped: steps in a row, up to the last, whose gradients were no numbers, so that float16's scaler skipped them.
        parts: of the run, a new one where it went on under other conditions.
    """

    seconds: float = 0.0
    tokens: int = 0
    recent_losses: list[float] = []
    last_loss: float | None = None
    window_loss: float = 0.0
    window_steps: int = 0
    window_tokens: int = 0
    window_seconds: float = 0.0
    best_value: float | None = None
    best_step: int | None = None
    without_gain: int = 0
    skipped: int = 0
    parts: list[Part] = []

    def count_step(self, loss: float, tokens: int, seconds: float) -> None:
        self.tokens += tokens
        self.recent_losses = [*self.recent_losses, loss][-(BEFORE + JUDGED) :]
        self.window_loss += loss
        self.window_steps += 1
        self.window_tokens += tokens
        self.window_seconds += seconds

    def count_skipped(self, grad_norm: float | None) -> None:
        self.skipped = self.skipped + 1 if grad_norm is not None and not math.isfinite(grad_norm) else 0

    def go_on(self, step: int, conditions: Conditions) -> list[str]:
        """From `step` on these conditions hold. In which way they are others than before, in words."""
        changed = self.parts[-1].conditions.changes(conditions) if self.parts else []
        if changed or not self.parts:
            self.parts = [*self.parts, Part(after_step=step, conditions=conditions)]
        return changed

    def empty_window(self) -> None:
        self.window_loss, self.window_steps, self.window_tokens, self.window_seconds = 0.0, 0, 0, 0.0

    def judge(self, value: float, step: int, *, higher_is_better: bool) -> bool:
        """Takes in a validation's value; whether it is the best so far. Equal is no gain."""
        better = self.best_value is None or (value > self.best_value if higher_is_better else value < self.best_value)
        if better:
            self.best_value, self.best_step, self.without_gain = value, step, 0
        else:
            self.without_gain += 1
        return better
