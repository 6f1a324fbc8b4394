"""What is trained how: all that the memory plan takes from a recipe, from the prepared rows, and from the devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hfkit.recipe import AdapterSection

Sharding = Literal["ddp", "zero2", "zero3", "fsdp2"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]

GIBIBYTE = 2**30


@dataclass(frozen=True, slots=True)
class Devices:
    """Where it is trained: `count` devices of one kind with `memory_bytes` each. `ddp` keeps all of the model on each;
    `zero2` spreads gradients and the optimiser's state, `zero3` and `fsdp2` the weights as well."""

    kind: Literal["cpu", "gpu"]
    count: int
    memory_bytes: int
    sharding: Sharding = "ddp"

    @property
    def spreads_weights(self) -> bool:
        return self.count > 1 and self.sharding in ("zero3", "fsdp2")

    @property
    def spreads_state(self) -> bool:
        return self.count > 1 and self.sharding != "ddp"


@dataclass(frozen=True, slots=True)
class Batch:
    """The largest micro-batch: `lines` of `length` tokens, padding counted, with logits at `positions` of each.

    `masked` tells whether the model is handed a mask, as it is for padded rows and for packs under a block mask.
    """

    lines: int
    length: int
    positions: int
    masked: bool

    @property
    def tokens(self) -> int:
        return self.lines * self.length


@dataclass(frozen=True, slots=True)
class Setting:
    """`number_bytes` are those of a number in the computation: 2 in bf16 and fp16, 4 in fp32. `accumulates` tells
    whether a step takes several passes, which leave their gradients for the next one to add to."""

    batch: Batch
    number_bytes: Literal[2, 4]
    adapter: AdapterSection | None
    quantization: Literal["nf4", "int8"] | None = None
    optimizer: Optimizer = "adamw"
    gradient_checkpointing: bool = False
    accumulates: bool = True
