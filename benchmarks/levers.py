"""What each lever of hfkit's training gives: one at a time moved back, against the step as hfkit computes it.

All ways take turns in one process and compute losses and gradients of whole steps of the same rows; medians of the
turns count, and the first turn does not. Moved are: logits at trained positions only, grouping by length, packing,
threads, torch.compile (layer by layer, as `train.compile` does it), and the adapters themselves (the frozen model
alone, with gradients down to its embeddings).

FLOPs are those that PyTorch's own counter finds in a step, less the share that padding had. The machine's peak is that
of one large product of square matrices in the same number format.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from packing import MAX_LENGTH, interleaved, planned, shuffled_steps, some, trainable
from report import Goal, Result

from hfkit.training.collation import IGNORED, CollateTrainedPositions, Layout, TrainingRow
from hfkit.training.kernels import compile_layers
from hfkit.training.loss import TrainedTokenLoss, trained_token_loss
from hfkit.training.microbatches import MicroBatch

Step = list[dict[str, Any]]
"""The micro-batches of an optimiser step, as the model takes them."""

BARE = "the frozen model without adapters"
_PEAK_SIZE = 2048
_OPERATIONS_SHOWN = 8
_QUICK_LENGTH = 48


@dataclass(frozen=True)
class Work:
    """Steps as they were collated. `real` and `padded` are their tokens without and with padding."""

    steps: list[Step]
    real: int
    padded: int


def collated(rows: list[TrainingRow], steps: list[list[MicroBatch]], layout: Layout) -> Work:
    collate = CollateTrainedPositions(0, layout)
    batches = [[collate([[rows[row] for row in pack] for pack in batch]) for batch in step] for step in steps]
    real = sum(len(rows[row]["input_ids"]) for step in steps for batch in step for pack in batch for row in pack)
    padded = sum(int(batch["input_ids"].numel()) for step in batches for batch in step)
    return Work(batches, real, padded)


def at_every_position(work: Work) -> Work:
    """The same steps, with logits at all positions; the loss stays the same."""
    steps = []
    for step in work.steps:
        batches = []
        for batch in step:
            kept = torch.arange(batch["input_ids"].shape[1] - 1)
            labels = torch.full((len(batch["input_ids"]), len(kept)), IGNORED)
            labels[:, batch["logits_to_keep"]] = batch["labels"]
            batches.append({**batch, "logits_to_keep": kept, "labels": labels, "shift_labels": labels})
        steps.append(batches)
    return Work(steps, work.real, work.padded)


def compute(
    model: torch.nn.Module,
    loss_of: TrainedTokenLoss,
    work: Work,
    *,
    half: bool,
    backward: bool = True,
    whole: bool = False,
) -> None:
    """Losses and gradients of each step; `whole` lets the model make its logits and takes the loss of those."""
    for step in work.steps:
        model.zero_grad()
        trained = sum(int(batch["labels"].ne(IGNORED).sum()) for batch in step)
        for batch in step:
            inside_layer = nullcontext(batch) if whole else loss_of.of(batch)
            with (
                torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
                torch.set_grad_enabled(backward),
                inside_layer as given,
            ):
                inputs = {name: value for name, value in given.items() if name not in ("labels", "shift_labels")}
                outputs = model(**inputs)
                loss = (trained_token_loss if whole else loss_of)(outputs, batch["labels"], trained)
            if backward:
                loss.backward()


def inside(context: Callable[[], AbstractContextManager[object]], work: Callable[[], None]) -> None:
    with context():
        work()


def on_threads(count: int, work: Callable[[], None]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        work()
    finally:
        torch.set_num_threads(before)


def move_levers(rows: list[TrainingRow], quick: bool) -> tuple[list[Result], list[Goal]]:
    turns, count = (1, 1) if quick else (3, 2)
    lengths = [len(row["input_ids"]) for row in rows]
    model = trainable("auto")
    half = model.dtype == torch.bfloat16
    loss_of = TrainedTokenLoss(model)
    # So that gradients run down to the embeddings with the adapters and without them.
    model.enable_input_require_grads()
    grouped = collated(rows, some(list(planned(lengths, None, "cpu").steps(0)), count), "padded")
    shuffled = collated(rows, some(shuffled_steps(len(rows)), count), "padded")
    packed = collated(rows, some(list(planned(lengths, MAX_LENGTH, "cpu").steps(0)), count), "blocks")
    every = at_every_position(grouped)
    as_is: Callable[[], None] = partial(compute, model, loss_of, grouped, half=half)
    ways: dict[str, tuple[Callable[[], None], Work]] = {
        "as hfkit computes it, rows not packed": (as_is, grouped),
        "logits at every position": (partial(compute, model, loss_of, every, half=half, whole=True), every),
        "rows not grouped by length": (partial(compute, model, loss_of, shuffled, half=half), shuffled),
        "packed under a block mask": (partial(compute, model, loss_of, packed, half=half), packed),
        "on one thread": (partial(on_threads, 1, as_is), grouped),
        BARE: (partial(inside, model.disable_adapter, as_is), grouped),
        "the forward pass alone": (partial(compute, model, loss_of, grouped, half=half, backward=False), grouped),
    }
    if not quick:
        compiled = trainable("auto")
        compiled.enable_input_require_grads()
        loss_of_compiled = TrainedTokenLoss(compiled)
        compile_layers(compiled)
        ways["layers compiled"] = (partial(compute, compiled, loss_of_compiled, grouped, half=half), grouped)
    seconds = interleaved(turns, {name: work for name, (work, _) in ways.items()})
    speed = {name: work.real / seconds[name] for name, (_, work) in ways.items()}
    ours, *others = ways
    results = [Result(f"lever: {ours}", speed[ours], "tokens/s", turns)]
    results += [Result(f"lever: {name}", speed[name] / speed[ours], f"times {ours}", turns) for name in others]
    precision = "bf16" if half else "fp32"
    peak = peak_flops(model.dtype)
    flops = flops_of(as_is) * grouped.real / grouped.padded
    share = flops / seconds[ours] / peak
    bare = flops_of(ways[BARE][0]) * grouped.real / grouped.padded
    results += [
        Result(f"the machine's peak, products of {_PEAK_SIZE} x {_PEAK_SIZE} in {precision}", peak / 1e9, "GFLOP/s", 7),
        Result("share of that peak, real tokens", share, "of 1"),
        Result("the same without adapters", bare / seconds[BARE] / peak, "of 1"),
        Result("adapters' share of a step's time", 1 - speed[ours] / speed[BARE], "of 1"),
        Result("adapters' share of a step's FLOPs", 1 - bare / flops, "of 1"),
        Result("padding's share of what is computed", 1 - grouped.real / grouped.padded, "of 1"),
    ]
    results += [Result(f"time in {name}", part, "of 1") for name, part in time_by_operation(as_is)]
    return results, [Goal("share of the matmul peak", ">= 0.5", share, share >= 0.5)]


def cut(row: TrainingRow) -> TrainingRow:
    """The end of a row, which holds its answer: enough to see that everything works."""
    start = max(0, len(row["input_ids"]) - _QUICK_LENGTH)
    return {"input_ids": row["input_ids"][start:], "spans": [max(0, place - start) for place in row["spans"]]}


def peak_flops(dtype: torch.dtype) -> float:
    """FLOP/s of one large product of matrices, the median of some."""
    left, right = (torch.randn(_PEAK_SIZE, _PEAK_SIZE).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return 2 * _PEAK_SIZE**3 / statistics.median(seconds[1:])


def flops_of(work: Callable[[], None]) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return float(counter.get_total_flops())


def time_by_operation(work: Callable[[], None]) -> list[tuple[str, float]]:
    """The operations that take the most time of their own, with their shares of all."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    averages = profiled.key_averages()
    whole = sum(event.self_cpu_time_total for event in averages)
    most = sorted(averages, key=lambda event: -event.self_cpu_time_total)[:_OPERATIONS_SHOWN]
    return [(event.key, event.self_cpu_time_total / whole) for event in most]
