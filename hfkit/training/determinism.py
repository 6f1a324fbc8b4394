"""Same seed, same bits: what is switched on for it, and what it holds for, in words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch

from hfkit.environment import describe_hardware, package_versions
from hfkit.training.state import Conditions, Part

# cuBLAS reads it when its first handle is made: with a fixed workspace its sums run in a fixed order.
_CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Within: PyTorch takes deterministic kernels wherever it has them, and warns (in the run's log) where not."""
    os.environ.setdefault(*_CUBLAS)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    # It would write every new tensor twice, to show reads of what was never written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, cudnn
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def conditions_here(*, processes: int, precision: str) -> Conditions:
    """Those of this process."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return Conditions(
        threads=torch.get_num_threads(),
        processes=processes,
        precision=precision,
        device=gpu or describe_hardware().processor,
        versions=package_versions(),
    )


def determinism_in_words(parts: Sequence[Part], *, limited_by_time: bool) -> str:
    """What the weights are a function of.

    Args:
        parts: of the run, each under other conditions than the one before it.
    """
    if limited_by_time:
        return "none: training ended after a time, so the result depends on the speed of the machine"
    if len(parts) > 1:
        changes = [
            f"after step {part.after_step} it went on with {', '.join(before.conditions.changes(part.conditions))}"
            for before, part in pairwise(parts)
        ]
        return f"none: the run was interrupted, and {'; '.join(changes)}, so the last digits are those of no other run"
    own = parts[0].conditions
    where = f"{own.threads} thread{'s' if own.threads > 1 else ''} of one kind of processor"
    if torch.cuda.is_available():
        where = f"one kind of GPU ({own.device}), where its kernels are deterministic"
    if own.processes > 1:
        where += f", in {own.processes} processes"
    return f"the same bits from the same recipe, data and package versions on {where}, however often it is interrupted"
