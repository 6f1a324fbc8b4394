"""Packed rows against rows grouped by length against plain padding: tokens a second of training on this machine.

    python benchmarks/packing.py [--squad FILE] [--quick] [--json]

SmolLM2-135M with a LoRA adapter computes losses and gradients of optimiser steps of eight rows, three ways in turn, in
one process: rows shuffled and padded to the longest of their step; the same rows ordered so that a step's are about as
long; and those steps packed, with a block mask (or end to end, where FlashAttention is installed). Tokens are those of
rows, without padding. The median of the turns counts, after a warm-up. Loss and gradients of one step are then compared
in float32.

Rows are the questions of a file in SQuAD's format, such as XQuAD; without one, random tokens of XQuAD's lengths. Needs
the embedded model in the cache.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from report import Goal, Result, report
from transformers import AutoTokenizer

from hfkit.memory.batches import tokens_at_once
from hfkit.models.embedded import MODELS, fetch
from hfkit.models.loading import load_model
from hfkit.models.precision import resolve_precision
from hfkit.models.tuned import with_new_adapter
from hfkit.quiet import quiet_libraries
from hfkit.recipe import AdapterSection, ModelSection
from hfkit.training.collation import IGNORED, CollateTrainedPositions, Layout, TrainingRow
from hfkit.training.layout import choose_layout
from hfkit.training.loss import trained_token_loss
from hfkit.training.microbatches import MicroBatch
from hfkit.training.sampling import PlannedSteps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_A_STEP = 8
MAX_LENGTH = 1024
# XQuAD in English, as this model's template renders it: tokens of a row at shares of all rows, and of an answer.
XQUAD_LENGTHS = ((0.0, 70), (0.01, 89), (0.1, 149), (0.25, 175), (0.5, 207), (0.75, 258), (0.9, 327), (1.0, 684))
ANSWER_LENGTH = 6


@dataclass(frozen=True)
class Way:
    """One way of computing steps: what is computed at once, and how it is laid out."""

    name: str
    layout: Layout
    steps: list[list[MicroBatch]]

    def tokens(self, lengths: list[int]) -> int:
        return sum(lengths[row] for step in self.steps for batch in step for pack in batch for row in pack)


def squad_rows(file: Path, folder: Path) -> list[TrainingRow]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    document = json.loads(file.read_text(encoding="utf-8"))
    rows: list[TrainingRow] = []
    for paragraph in (paragraph for article in document["data"] for paragraph in article["paragraphs"]):
        for asked in paragraph["qas"]:
            messages = [{"role": "user", "content": f"{paragraph['context']}\n\nQuestion: {asked['question']}"}]
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            answer = tokenizer(f"{asked['answers'][0]['text']}<|im_end|>", add_special_tokens=False)["input_ids"]
            rows.append({"input_ids": ids + answer, "spans": [len(ids), len(ids) + len(answer)]})
    return [row for row in rows if len(row["input_ids"]) <= MAX_LENGTH]


def random_rows(count: int) -> list[TrainingRow]:
    choose = random.Random(0)
    rows: list[TrainingRow] = []
    for number in range(count):
        share = (number + 0.5) / count
        above = next(place for place, (at, _) in enumerate(XQUAD_LENGTHS) if at >= share)
        (low, shortest), (high, longest) = XQUAD_LENGTHS[above - 1 : above + 1]
        length = round(shortest + (longest - shortest) * (share - low) / (high - low))
        ids = [choose.randrange(1000, 40_000) for _ in range(length)]
        rows.append({"input_ids": ids, "spans": [length - ANSWER_LENGTH, length]})
    return rows


def planned(lengths: list[int], capacity: int | None, device: str) -> PlannedSteps:
    return PlannedSteps(
        lengths,
        rows_a_step=ROWS_A_STEP,
        micro_batch_size="auto",
        tokens_at_once=tokens_at_once("gpu" if device == "cuda" else "cpu", half=resolve_precision("auto").is_half),
        capacity=capacity,
        seed=0,
    )


def shuffled_steps(count: int) -> list[list[MicroBatch]]:
    order = list(range(count))
    random.Random(0).shuffle(order)
    return [[[(row,) for row in order[start : start + ROWS_A_STEP]]] for start in range(0, count, ROWS_A_STEP)]


def some(steps: list[list[MicroBatch]], count: int) -> list[list[MicroBatch]]:
    """`count` whole steps, evenly spaced; the first, which has the longest row of all, is left out."""
    return steps[1 : -1 : max(1, (len(steps) - 2) // count)][:count]


def interleaved(turns: int, work: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each piece of work, taking turns; one turn of each first that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(turns + 1):
        for name, piece in work.items():
            started = time.perf_counter()
            piece()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def trainable(precision: str) -> PreTrainedModel:
    settings = ModelSection.model_validate(
        {"base": str(fetch(MODELS["smollm2-135m-instruct"])), "precision": precision}
    )
    torch.manual_seed(0)
    with quiet_libraries():
        model, _ = load_model(settings)
        return with_new_adapter(model, AdapterSection()).train()


def compute(
    model: PreTrainedModel, rows: list[TrainingRow], steps: list[list[MicroBatch]], layout: Layout, half: bool
) -> float:
    """Losses and gradients of whole steps; the sum of their losses. The gradients of the last step stay."""
    collate = CollateTrainedPositions(0, layout)
    summed = 0.0
    for step in steps:
        model.zero_grad()
        batches = [collate([[rows[row] for row in pack] for pack in micro_batch]) for micro_batch in step]
        trained = sum(int(batch["labels"].ne(IGNORED).sum()) for batch in batches)
        for batch in batches:
            inputs = {
                name: value.to(model.device) if isinstance(value, torch.Tensor) else value
                for name, value in batch.items()
                if name not in ("labels", "shift_labels")
            }
            with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=half):
                loss = trained_token_loss(model(**inputs), batch["labels"].to(model.device), trained)
            loss.backward()
            summed += loss.item()
    return summed


def differences(rows: list[TrainingRow], steps: int) -> tuple[float, float]:
    """How far packed and padded rows are apart in float32: the loss, and any number of the gradients."""
    model = trainable("fp32")
    short = sorted(rows, key=lambda row: len(row["input_ids"]))[: steps * ROWS_A_STEP]
    lengths = [len(row["input_ids"]) for row in short]
    losses, gradients = [], []
    ways: tuple[tuple[int | None, Layout], ...] = ((None, "padded"), (MAX_LENGTH, "blocks"))
    for capacity, layout in ways:
        plan = list(planned(lengths, capacity, "cpu").steps(0))
        losses.append(compute(model, short, plan, layout, half=False) / len(plan))
        gradients.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
    furthest = max(float((a - b).abs().max()) for a, b in zip(*gradients, strict=True))
    return abs(losses[0] - losses[1]), furthest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--squad", type=Path, help="questions in SQuAD's format, such as xquad.en.json")
    parser.add_argument("--quick", action="store_true", help="fewer steps and turns; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    arguments = parser.parse_args()
    turns, count = (1, 2) if arguments.quick else (5, 8)
    folder = fetch(MODELS["smollm2-135m-instruct"])
    rows = random_rows(1190) if arguments.squad is None else squad_rows(arguments.squad, folder)
    lengths = [len(row["input_ids"]) for row in rows]
    model = trainable("auto")
    half, device = model.dtype == torch.bfloat16, model.device.type
    chosen = choose_layout(
        "auto",
        model,
        lambda capacity: planned(lengths, capacity, device),
        MAX_LENGTH,
        half_precision=half,
        quantised=False,
    )
    packed_layout: Layout = "end_to_end" if chosen.layout == "end_to_end" else "blocks"
    ways = [
        Way("shuffled and padded", "padded", some(shuffled_steps(len(rows)), count)),
        Way("grouped by length", "padded", some(list(planned(lengths, None, device).steps(0)), count)),
        Way("packed", packed_layout, some(list(planned(lengths, MAX_LENGTH, device).steps(0)), count)),
    ]
    seconds = interleaved(
        turns, {way.name: lambda way=way: compute(model, rows, way.steps, way.layout, half) for way in ways}
    )
    speed = {way.name: way.tokens(lengths) / seconds[way.name] for way in ways}
    loss, gradient = differences(rows, 1 if arguments.quick else 4)
    taken, left = ("packed", "grouped by length") if chosen.is_packed else ("grouped by length", "packed")
    results = [Result(f"training, {name}", value, "tokens/s", turns) for name, value in speed.items()]
    results += [
        Result(f"packing: auto takes rows {taken}, against {left}", speed[taken] / speed[left], "times"),
        Result("float32 loss, packed against padded", loss, "nats apart"),
        Result("float32 gradients, packed against padded", gradient, "apart at most"),
    ]
    gain = speed[taken] / speed["shuffled and padded"]
    goals = [
        Goal("auto takes the faster", ">= 1 times the other", speed[taken] / speed[left], speed[taken] >= speed[left]),
        Goal("faster than plain padding", ">= 1.1 times", gain, gain >= 1.1),
        Goal("same loss", "<= 1e-5", loss, loss <= 1e-5),
        Goal("same gradients", "<= 1e-5", gradient, gradient <= 1e-5),
    ]
    report("packing", results, goals, as_json=arguments.json, keep=not arguments.quick)


if __name__ == "__main__":
    main()
