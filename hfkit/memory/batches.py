"""The largest micro-batch that a recipe leads to: from the prepared rows where they are there, else from its limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hfkit.memory.setting import Batch, Devices
from hfkit.recipe import Recipe

# The multiple to which the train stage pads (hfkit/training/microbatches.py, which imports PyTorch).
LENGTH_STEP = 32


def tokens_at_once(kind: Literal["cpu", "gpu"], *, half: bool) -> int:
    """How many tokens one forward and backward pass may hold where train.micro_batch_size is auto: what fills the cores
    or the GPU, and what memory allows. On a CPU, 2,000 tokens of a 135M model take about 3 GiB in bfloat16, and passes
    half as large are a third slower; in float32 a pass of 1,000 is as fast, and 2,000 would take 6 GiB."""
    if kind == "gpu":
        return 16384
    return 2048 if half else 1024


@dataclass(frozen=True, slots=True)
class Rows:
    """The longest row and the most tokens that one trains. `known` is False where nothing but the recipe says so."""

    longest: int
    trained: int
    known: bool


def rows_of(recipe: Recipe, prepared: Path) -> Rows:
    """The training rows that a data stage left in `prepared`; where there are none yet, every row is taken to be as
    long as a row may be and to train all of its tokens."""
    assert recipe.data is not None
    longest, trained = _longest(prepared)
    if longest:
        return Rows(longest, trained, known=True)
    return Rows(recipe.data.max_length, recipe.data.max_length, known=False)


def largest_batch(recipe: Recipe, rows: Rows, devices: Devices, *, half: bool, end_to_end: bool) -> Batch:
    """The micro-batch that takes the most memory on any device.

    Args:
        devices: they share the rows of each step.
        half: whether the computation is in 16 bits.
        end_to_end: whether packed rows are laid end to end without a mask, as FlashAttention takes them.
    """
    assert recipe.data is not None and recipe.train is not None
    packed = recipe.data.packing is True or (recipe.data.packing == "auto" and end_to_end)
    longest = recipe.data.max_length if packed else rows.longest
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP
    micro = recipe.train.micro_batch_size
    lines = max(1, tokens_at_once(devices.kind, half=half) // length) if micro == "auto" else micro
    # A pack holds one row or more, so there are never more lines than a device has rows of a step.
    lines = min(lines, -(-recipe.train.batch_size // devices.count))
    positions = min(length, rows.trained * (-(-length // rows.longest) if packed else 1))
    return Batch(lines, length, positions, masked=not (packed and end_to_end))


def _longest(prepared: Path) -> tuple[int, int]:
    import pyarrow.parquet as pq

    from hfkit.data.prepared import SEQUENCES, shards

    longest = trained = 0
    for path in shards(prepared, SEQUENCES, "train"):
        table = pq.read_table(path, columns=["length", "trained"])
        longest = max([longest, *table.column("length").to_pylist()])
        trained = max([trained, *table.column("trained").to_pylist()])
    return longest, trained
