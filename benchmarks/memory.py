"""The memory plan against what the train stage really takes: the peak of its process, on this machine.

    python benchmarks/memory.py [--quick] [--json]

SmolLM2-135M is trained for two steps by the recipe's own train stage, each way in a process of its own: LoRA, all
weights, NF4 and gradient checkpointing. Peak memory is the process's, as the kernel counts it, so libraries and loading
are in it. Memory does not depend on how busy the machine is. Needs the embedded model in the cache.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from own_process import in_a_process
from report import Goal, Result, report
from training_sides import MODEL, Run, with_hfkit, write_prepared

from hfkit.training.collation import TrainingRow

MEBIBYTE = 2**20
TRAINED = 30

Sections = dict[str, dict[str, object]]
WAYS: dict[str, tuple[int, Sections]] = {
    "LoRA, 4 x 512 tokens at once": (512, {"train": {"batch_size": 4}}),
    "LoRA, 4 x 256 tokens at once": (256, {"train": {"batch_size": 4}}),
    "LoRA, gradient checkpointing, 4 x 512": (512, {"train": {"batch_size": 4, "gradient_checkpointing": True}}),
    "all weights, 4 x 256": (256, {"train": {"batch_size": 4}, "model": {"adapter": None}}),
    "NF4, 4 x 256": (256, {"train": {"batch_size": 4}, "model": {"quantization": "nf4"}}),
}


def rows_of_length(length: int, count: int = 8) -> list[TrainingRow]:
    choose = random.Random(0)
    return [
        {
            "input_ids": [choose.randrange(100, 40_000) for _ in range(length)],
            "spans": [length - TRAINED, length],
        }
        for _ in range(count)
    ]


def planned(rows: list[TrainingRow], sections: Sections, folder: Path) -> int:
    """Bytes of the plan for the same recipe."""
    from training_sides import recipe_with

    from hfkit.memory.checking import devices_of, report_memory

    write_prepared(rows, folder)
    told = report_memory(recipe_with(MODEL, sections), folder, devices_of(None, None, None))
    assert told is not None
    return told.plan.total


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one way alone; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    arguments = parser.parse_args()
    results: list[Result] = []
    goals: list[Goal] = []
    for name, (length, sections) in list(WAYS.items())[: 1 if arguments.quick else None]:
        rows = rows_of_length(length)
        run: Run = in_a_process(with_hfkit, MODEL, rows, 1, sections)  # type: ignore[assignment, arg-type]
        with tempfile.TemporaryDirectory() as folder:
            expected = planned(rows, sections, Path(folder))
        share = expected / run.peak_bytes
        results += [
            Result(f"{name}: measured, {run.precision}", run.peak_bytes / MEBIBYTE, "MiB"),
            Result(f"{name}: planned", expected / MEBIBYTE, "MiB"),
        ]
        goals.append(Goal(f"plan, {name}", "within 15%", share, abs(share - 1) <= 0.15))
    report("memory", results, goals, as_json=arguments.json, keep=not arguments.quick)


if __name__ == "__main__":
    main()
