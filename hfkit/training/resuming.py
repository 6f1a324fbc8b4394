"""Where an interrupted run goes on, with everything in its folder as it was at that step."""

from __future__ import annotations

import shutil
from pathlib import Path

from hfkit.errors import RequestError, WorkError
from hfkit.noticeboard import NoticeBoard
from hfkit.processes import Processes
from hfkit.progress import Progress
from hfkit.training.checkpoints import (
    CHECKPOINTS,
    PARTIAL,
    newest_whole_checkpoint,
    read_state,
    set_aside_after,
    step_of,
    what_is_damaged,
)
from hfkit.training.metrics_log import METRICS, SAMPLES, forget_lines_after
from hfkit.training.state import Conditions, TrainingState
from hfkit.training.weights import forget_kept_after, set_kept_aside

_CHOSEN, _VERIFIED = "train/checkpoint", "train/checkpoint-verified"


def where_to_go_on(
    folder: Path, progress: Progress, processes: Processes, conditions: Conditions, board: NoticeBoard | None = None
) -> tuple[Path | None, TrainingState]:
    """The newest whole checkpoint below `folder` and what it knows; None and a fresh state where there is none.

    What the interrupted process wrote of later steps is removed by the main process: it is made again. Where there were
    checkpoints and none is whole, the weights that were kept are moved aside instead.

    Args:
        conditions: under which the run goes on.
        board: of the launch, where `processes` are many: the main process chooses, and the others verify its choice.

    Raises:
        RequestError: the checkpoint is divided over another number of processes.
        WorkError: this process does not find whole what the main process chose.
        FailedElsewhere: another process does not.
    """
    checkpoint = _agreed_on(folder / CHECKPOINTS, progress, processes, board)
    state = TrainingState() if checkpoint is None else read_state(checkpoint)
    step = 0 if checkpoint is None else step_of(checkpoint)
    if checkpoint is not None:
        progress.say(f"  continuing from step {step}")
        _compare(checkpoint, state, conditions, progress)
    state.go_on(step, conditions)
    if processes.is_main:
        shutil.rmtree(folder / CHECKPOINTS / PARTIAL, ignore_errors=True)
        if checkpoint is None and any((folder / CHECKPOINTS).glob("checkpoint-*")):
            aside = set_kept_aside(folder)
            kept = "" if aside is None else f"; the weights that the interrupted run kept are now in {aside}"
            progress.say(f"  training starts over{kept}")
        set_aside_after(folder / CHECKPOINTS, step)
        forget_kept_after(folder, step)
        for name in (METRICS, SAMPLES):
            forget_lines_after(folder / name, step)
    return checkpoint, state


def _agreed_on(folder: Path, progress: Progress, processes: Processes, board: NoticeBoard | None) -> Path | None:
    """What the main process chooses; each process for itself could choose another one, and train something else."""
    if processes.is_main:
        chosen = newest_whole_checkpoint(folder, progress.say)
        if board is not None:
            board.post(_CHOSEN, "" if chosen is None else chosen.name)
    else:
        assert board is not None
        name = board.wait_for(_CHOSEN)
        chosen = folder / name if name else None
        fault = None if chosen is None else what_is_damaged(chosen)
        if fault is not None:
            raise WorkError(
                f"process {processes.rank} cannot go on from {chosen}, as process 0 does: {fault}; all machines must "
                "see the same files in the folder that hfkit is started in"
            )
    if board is not None:
        # Before anyone waits in a collective operation for one that has failed.
        board.post_mine(_VERIFIED)
        board.wait_for_all(_VERIFIED)
    return chosen


def _compare(checkpoint: Path, state: TrainingState, conditions: Conditions, progress: Progress) -> None:
    """Says in which way the run goes on under other conditions than before."""
    if not state.parts:
        return
    before = state.parts[-1].conditions
    if before.processes != conditions.processes:
        _require_undivided(checkpoint, before.processes)
        progress.say(
            f"  {before.processes} processes shared each step so far, from now on {conditions.processes} do: the "
            "same rows in the same steps, so the weights differ from those of an uninterrupted run by rounding, "
            "and by what dropout draws"
        )
    others = before.changes(conditions.model_copy(update={"processes": before.processes}))
    if others:
        progress.say(
            f"  it goes on with {', '.join(others)}, so the last digits of the weights may differ from those of an "
            "uninterrupted run"
        )


def _require_undivided(checkpoint: Path, processes: int) -> None:
    """Each process of FSDP and of DeepSpeed ZeRO has written its own part, and only as many can read them again."""
    if any(checkpoint.glob("pytorch_model_fsdp*")) or any(checkpoint.glob("global_step*")):
        raise RequestError(
            f"{checkpoint}: {processes} processes have written its parts, and only as many can go on from it: launch "
            f"them with --processes {processes}, or remove {checkpoint.parent} to start over"
        )
