"""Where the processes of one launch leave word for each other, and wait without a limit on time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from hfkit.errors import HfkitError, WorkError
from hfkit.processes import Processes, current_processes

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_FAILED = "failed"
_SECONDS_BETWEEN = 0.1
# To reach the launcher, which is there before any process is, or the main process, which may be importing.
_SECONDS_TO_CONNECT = 60


class FailedElsewhere(HfkitError):
    """Another process of the launch failed and has said why."""


@dataclass(frozen=True, slots=True)
class NoticeBoard:
    """Keys and texts that all processes of one launch see, in the store that their launcher keeps for them.

    Waiting polls. A collective operation of PyTorch would do for this too, but ends a process that waits for longer
    than minutes, and the data of a run can take hours to prepare.
    """

    processes: Processes
    store: Store

    @classmethod
    def of(cls, processes: Processes, seconds: float = _SECONDS_TO_CONNECT) -> NoticeBoard:
        """The board of this launch, which MASTER_ADDR and MASTER_PORT name.

        Raises:
            WorkError: nobody answers there.
        """
        from torch.distributed import DistError
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        limit = timedelta(seconds=seconds)
        try:
            store, _, _ = next(rendezvous("env://", processes.rank, processes.world_size, timeout=limit))
        except (ValueError, DistError) as error:
            reason = str(error).splitlines()[0]
            raise WorkError(
                f"process {processes.rank} of {processes.world_size} finds no other ({reason}); start hfkit through a "
                "launcher, such as `hfkit train RECIPE --launch ddp --processes 2`"
            ) from error
        return cls(processes, PrefixStore("hfkit", store))

    def post(self, key: str, text: str = "") -> None:
        self.store.set(key, text)

    def wait_for(self, key: str) -> str:
        """The text under `key`, once somebody has posted it.

        Raises:
            FailedElsewhere: a process failed meanwhile, and this one need wait no longer.
        """
        while not self.store.check([key]):
            if self.store.check([_FAILED]):
                raise FailedElsewhere(f"process {self.store.get(_FAILED).decode()} failed")
            time.sleep(_SECONDS_BETWEEN)
        return bytes(self.store.get(key)).decode()

    def post_mine(self, key: str) -> None:
        """As `post`, of this process alone; `wait_for_all` waits until each has done so."""
        self.post(f"{key}/{self.processes.rank}")

    def wait_for_all(self, key: str) -> None:
        """Until every process has posted its own `key`. Raises FailedElsewhere."""
        for rank in range(self.processes.world_size):
            self.wait_for(f"{key}/{rank}")

    def first_to_fail(self) -> bool:
        """Whether this process is the first of all to say that it failed, and so the one to tell the user why."""
        if self.store.add("failures", 1) > 1:
            return False
        self.post(_FAILED, str(self.processes.rank))
        return True


def speaks_to_user() -> bool:
    """Whether a failure of this process is to be told: of many processes that fail, only the first one tells it."""
    try:
        processes = current_processes()
        return not processes.are_many or NoticeBoard.of(processes, seconds=5).first_to_fail()
    except (HfkitError, RuntimeError):
        # The store went away with its launcher. Said twice is better than not at all.
        return True
