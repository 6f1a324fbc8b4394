"""Many processes in one run: the main one makes the stages, and the others join it in those that all of them run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hfkit.errors import RequestError
from hfkit.noticeboard import NoticeBoard
from hfkit.processes import Processes
from hfkit.progress import Progress
from hfkit.recipe import Recipe, dump_recipe
from hfkit.run import Run
from hfkit.stage import Stage, StageName
from hfkit.stages import STAGES, closure

_SKIPPED = ""
_LEFT = "left"


@dataclass(frozen=True, slots=True)
class Followers:
    """The other processes of the launch, as the main one sees them. Where it is alone, nobody is told anything."""

    processes: Processes
    board: NoticeBoard | None

    @classmethod
    def of(cls, processes: Processes) -> Followers:
        return cls(processes, NoticeBoard.of(processes) if processes.are_many else None)

    def skip(self, stage: Stage) -> None:
        """Nobody need run `stage`: its artifact is there."""
        if self.board is not None and stage.on_all_ranks:
            self.board.post(stage.name, _SKIPPED)

    @contextmanager
    def joining(self, stage: Stage, recipe: Recipe) -> Iterator[None]:
        """Calls the others into a stage that all run, and at the end waits until each has finished it.

        Raises:
            FailedElsewhere: one of them failed; what the stage left here is no artifact then.
        """
        if self.board is None or not stage.on_all_ranks:
            yield
            return
        use_own_gpu(self.processes)
        self.board.post(stage.name, dump_recipe(recipe))
        # Whoever cannot join says so now, and not while the others wait in a collective operation.
        self.board.post_mine(_ready(stage))
        self.board.wait_for_all(_ready(stage))
        yield
        self.board.post_mine(_finished(stage))
        self.board.wait_for_all(_finished(stage))

    def dismiss(self) -> None:
        """All is done. Waits until each has read so: the main process may be the one that keeps the board."""
        if self.board is not None:
            self.board.post(_LEFT)
            self.board.post_mine(_LEFT)
            self.board.wait_for_all(_LEFT)


def follow(recipe: Recipe, wanted: Sequence[StageName], processes: Processes) -> None:
    """What every process but the main one does while that makes `wanted`: joins it where it is called, writes nothing
    but its log, and says nothing.

    Raises:
        RequestError: this process read another recipe than the main one.
        FailedElsewhere: another process failed.
    """
    run, board = Run(recipe), NoticeBoard.of(processes)
    for name in closure(list(wanted), recipe):
        stage = STAGES[name]
        if not stage.on_all_ranks:
            continue
        said = board.wait_for(name)
        if said == _SKIPPED:
            continue
        if said != dump_recipe(recipe):
            raise RequestError(
                f"process {processes.rank} read another recipe than process 0; all must see the same files"
            )
        if not run.workshop(stage).is_dir():
            raise RequestError(
                f"process {processes.rank} does not see {run.workshop(stage).absolute()}, which process 0 made; "
                "all machines must share the folder that hfkit is started in"
            )
        use_own_gpu(processes)
        board.post_mine(_ready(stage))
        with run.logging_to(name, processes.rank):
            stage.run(run.context(stage, Progress(quiet=True)))
        board.post_mine(_finished(stage))
    board.wait_for(_LEFT)
    board.post_mine(_LEFT)


def use_own_gpu(processes: Processes) -> None:
    """The GPU with the number of this process on its machine becomes PyTorch's current one.

    Raises:
        RequestError: the machine has GPUs, and fewer than processes.
    """
    import torch

    if not torch.cuda.is_available():
        return
    if processes.local_rank >= torch.cuda.device_count():
        raise RequestError(
            f"{processes.local_rank + 1} or more processes were launched on a machine with {torch.cuda.device_count()} "
            "GPUs; launch one for each GPU"
        )
    torch.cuda.set_device(processes.local_rank)


def _ready(stage: Stage) -> str:
    return f"{stage.name}/ready"


def _finished(stage: Stage) -> str:
    return f"{stage.name}/finished"
