"""What a run that goes on must know beside what the Trainer keeps: counts, the guard's losses, the best so far."""

from __future__ import annotations

from pydantic import BaseModel

from hfkit.training.guard import BEFORE, JUDGED


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
        threads: of the process that wrote the checkpoint.
        processes: that shared each step.
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
    threads: int = 0
    processes: int = 1

    def count_step(self, loss: float, tokens: int, seconds: float) -> None:
        self.tokens += tokens
        self.recent_losses = [*self.recent_losses, loss][-(BEFORE + JUDGED) :]
        self.window_loss += loss
        self.window_steps += 1
        self.window_tokens += tokens
        self.window_seconds += seconds

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
