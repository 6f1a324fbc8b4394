"""hfkit's train stage against TRL's SFTTrainer: tokens a second, peak memory and loss of the same optimiser steps.

    python benchmarks/train.py [--squad FILE] [--quick] [--levers] [--json]

SmolLM2-135M with a LoRA adapter of rank 16 on all linear layers, eight rows a step, in the number format that `auto`
takes on this machine, on all of its cores. Both sides see the same rows in the same order, grouped by length, train the
same tokens and move the optimiser as often; what they do with a step is their own. TRL is given tokens, so that neither
side prepares data, and in two ways: with a step's rows at once and with two rows at once; after the first round only in
the faster way. The sides take turns, each run in a process of its own; medians of the rounds count, and a run's first
steps do not. Tokens are those of rows, without
padding. Peak memory is the process's, as the kernel counts it, libraries and loading included.

`--levers` leaves TRL out and moves one lever of hfkit's at a time instead (see levers.py), with the share of the
machine's measured peak of matrix products and where the time goes.

Rows are the questions of a file in SQuAD's format; ../shared/data/xquad.en.json where it is there, else random tokens
of XQuAD's lengths. Needs the extra `bench` and the embedded model in the cache.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from own_process import in_a_process
from report import Goal, Result, report
from training_sides import MODEL, ROWS_A_STEP, Run, with_hfkit, with_trl

from hfkit.training.collation import TrainingRow

XQUAD = Path(__file__).resolve().parents[2] / "shared" / "data" / "xquad.en.json"
MEBIBYTE = 2**20


def some_rows(squad: Path | None, count: int) -> list[TrainingRow]:
    """`count` rows of about the lengths that all of them have."""
    from packing import random_rows, squad_rows

    from hfkit.models.embedded import MODELS, fetch

    folder = fetch(MODELS[MODEL.removeprefix("embedded:")])
    rows = random_rows(1190) if squad is None else squad_rows(squad, folder)
    return rows[:: max(1, len(rows) // count)][:count]


def compare(rows: list[TrainingRow], rounds: int, warm_up: int, precision: str) -> dict[str, list[Run]]:
    """The runs of each side, which took turns."""
    runs: dict[str, list[Run]] = {}
    sides = {
        "hfkit": (with_hfkit, ({},)),
        f"TRL, {ROWS_A_STEP} rows at once": (with_trl, (ROWS_A_STEP, precision)),
        "TRL, 2 rows at once": (with_trl, (2, precision)),
    }
    for turn in range(rounds):
        for name, (side, arguments) in sides.items():
            run: Run = in_a_process(side, MODEL, rows, warm_up, *arguments)  # type: ignore[assignment, arg-type]
            print(
                f"round {turn + 1} of {rounds}, {name}: {run.speed:.1f} tokens/s, {run.peak_bytes / MEBIBYTE:.0f} MiB",
                file=sys.stderr,
                flush=True,
            )
            runs.setdefault(name, []).append(run)
        if turn == 0:
            slower = min((name for name in sides if name != "hfkit"), key=lambda name: runs[name][0].speed)
            del sides[slower]
    return runs


def summarised(runs: dict[str, list[Run]]) -> tuple[list[Result], list[Goal]]:
    results = []
    speed, memory, last = {}, {}, {}
    for name, of_side in runs.items():
        speed[name] = statistics.median(run.speed for run in of_side)
        memory[name] = statistics.median(run.peak_bytes for run in of_side)
        # The last quarter of the steps: one step of eight answers alone is mostly noise.
        last[name] = statistics.mean(of_side[0].losses[-max(1, len(of_side[0].losses) // 4) :])
        results += [
            Result(f"{name}, training in {of_side[0].precision}", speed[name], "tokens/s", len(of_side)),
            Result(f"{name}, peak memory", memory[name] / MEBIBYTE, "MiB", len(of_side)),
            Result(f"{name}, loss over the last quarter of the steps", last[name], "nats a trained token"),
        ]
    trl = max((name for name in runs if name != "hfkit"), key=speed.__getitem__)
    faster, share = speed["hfkit"] / speed[trl], memory["hfkit"] / memory[trl]
    apart = abs(last["hfkit"] - last[trl])
    furthest = max(abs(a - b) for a, b in zip(runs["hfkit"][0].losses, runs[trl][0].losses, strict=True))
    results += [
        Result(f"hfkit against {trl}, its fastest", faster, "times as fast"),
        Result(f"hfkit against {trl}, peak memory", share, "times as much"),
        Result("furthest that the losses of one step are apart", furthest, "nats a trained token"),
    ]
    goals = [
        Goal("faster than TRL's fastest", ">= 3 times", faster, faster >= 3),
        Goal("memory of TRL's fastest", "<= 1/3", share, share <= 1 / 3),
        Goal("equal loss", "<= 0.01 nats apart", apart, apart <= 0.01),
    ]
    return results, goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--squad", type=Path, default=XQUAD if XQUAD.is_file() else None, help="xquad.en.json")
    parser.add_argument("--quick", action="store_true", help="one round of a few steps; keeps no result")
    parser.add_argument("--levers", action="store_true", help="move one lever at a time instead")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    arguments = parser.parse_args()
    from levers import cut, move_levers

    from hfkit.models.precision import resolve_precision

    precision = resolve_precision("auto").precision
    steps, rounds, warm_up = (3, 1, 1) if arguments.quick else (8, 3, 2)
    rows = some_rows(arguments.squad, steps * ROWS_A_STEP)
    if arguments.quick:
        rows = [cut(row) for row in rows]
    if arguments.levers:
        results, goals = in_a_process(move_levers, rows, arguments.quick)  # type: ignore[arg-type, misc]
    else:
        results, goals = summarised(compare(rows, rounds, warm_up, precision))
    name = "train-levers" if arguments.levers else "train"
    report(name, results, goals, as_json=arguments.json, keep=not arguments.quick)


if __name__ == "__main__":
    main()
