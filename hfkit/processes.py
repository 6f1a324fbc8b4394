"""The processes that a launcher started for one training run: which of them this is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hfkit.errors import RequestError


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of one launch.

    Attributes:
        rank: its number among all of them, from 0.
        world_size: how many there are, on all machines.
        local_rank: its number on its machine, which is that of its GPU.
    """

    rank: int
    world_size: int
    local_rank: int

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0

    @property
    def are_many(self) -> bool:
        return self.world_size > 1


ALONE = Processes(rank=0, world_size=1, local_rank=0)


def current_processes() -> Processes:
    """What `torchrun` and `accelerate launch` say in RANK, WORLD_SIZE and LOCAL_RANK; one process without them.

    Raises:
        RequestError: they are no numbers, or do not fit each other.
    """
    rank, world_size, local_rank = (
        _number(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if rank >= max(world_size, 1):
        raise RequestError(f"RANK={rank} and WORLD_SIZE={world_size} do not fit; start hfkit through a launcher")
    return Processes(rank, max(world_size, 1), local_rank)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise RequestError(f"{name}={text}: not a number; start hfkit through a launcher, or unset it")
    return int(text)
