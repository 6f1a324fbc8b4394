"""Where an interrupted run goes on, with everything in its folder as it was at that step."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from hfkit.errors import RequestError
from hfkit.processes import Processes
from hfkit.progress import Progress
from hfkit.training.checkpoints import CHECKPOINTS, PARTIAL, newest_whole_checkpoint, read_state, step_of
from hfkit.training.metrics_log import METRICS, SAMPLES, forget_lines_after
from hfkit.training.state import TrainingState
from hfkit.training.weights import forget_kept_after


def where_to_go_on(folder: Path, progress: Progress, processes: Processes) -> tuple[Path | None, TrainingState]:
    """The newest whole checkpoint below `folder` and what it knows; None and a fresh state where there is none.

    What the interrupted process wrote of later steps is removed by the main process: it is made again.

    Raises:
        RequestError: the checkpoint is divided over another number of processes.
    """
    checkpoint = newest_whole_checkpoint(folder / CHECKPOINTS, progress.say)
    state = TrainingState() if checkpoint is None else read_state(checkpoint)
    step = 0 if checkpoint is None else step_of(checkpoint)
    if checkpoint is not None:
        progress.say(f"  continuing from step {step}")
        if state.threads != torch.get_num_threads():
            progress.say(
                f"  it was trained with {state.threads} threads so far and goes on with {torch.get_num_threads()}, so "
                "the last digits of the weights may differ from those of an uninterrupted run"
            )
        if state.processes != processes.world_size:
            _require_undivided(checkpoint, state.processes)
            progress.say(
                f"  {state.processes} processes shared each step so far, from now on {processes.world_size} do: the "
                "same rows in the same steps, so the weights differ from those of an uninterrupted run by rounding, "
                "and by what dropout draws"
            )
    state.threads, state.processes = torch.get_num_threads(), processes.world_size
    if processes.is_main:
        shutil.rmtree(folder / CHECKPOINTS / PARTIAL, ignore_errors=True)
        forget_kept_after(folder, step)
        for name in (METRICS, SAMPLES):
            forget_lines_after(folder / name, step)
    return checkpoint, state


def _require_undivided(checkpoint: Path, processes: int) -> None:
    """Each process of FSDP and of DeepSpeed ZeRO has written its own part, and only as many can read them again."""
    if any(checkpoint.glob("pytorch_model_fsdp*")) or any(checkpoint.glob("global_step*")):
        raise RequestError(
            f"{checkpoint}: {processes} processes have written its parts, and only as many can go on from it: launch "
            f"them with --processes {processes}, or remove {checkpoint.parent} to start over"
        )
