"""What the quickstart costs and gains, and how long the verbs that import nothing heavy take.

    python benchmarks/quickstart.py [--quick] [--json]

Runs `recipes/quickstart.yaml` from nothing in a folder of its own, as whole processes; needs the embedded models in the
cache, and about ten minutes. `--quick` trains for a tenth of an epoch and keeps no result.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from report import Goal, Result, report

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "recipes/quickstart.yaml"


@dataclass(frozen=True)
class Cost:
    seconds: float
    peak_gibibytes: float
    output: str


def hfkit(folder: Path, *arguments: str) -> Cost:
    """Run the command line in `folder`; wall seconds, and the peak memory of the process as the kernel counts it."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "hfkit", *arguments], cwd=folder, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise SystemExit(f"hfkit {' '.join(arguments)} ended with exit code {process.returncode}")
    return Cost(seconds, usage.ru_maxrss / 2**20, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of an epoch; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    arguments = parser.parse_args()
    overrides = ["train.epochs=0.1", "evaluate.gates=[]"] if arguments.quick else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("docs", "recipes"):
            (folder / part).symlink_to(ROOT / part)
        whole = hfkit(folder, "run", RECIPE, "--json", *overrides)
        again = [hfkit(folder, "run", RECIPE, "--json", *overrides).seconds for _ in range(5)]
        help_ = [hfkit(folder, "--help").seconds for _ in range(5)]
        check = [hfkit(folder, "check", RECIPE).seconds for _ in range(5)]
        # Last, for it takes the place of the weights: the prepared data stay.
        started = time.time()
        one_step = hfkit(folder, "train", RECIPE, *overrides, "train.max_steps=1")
        # Its line is the last thing that is written there.
        first_step = (folder / "runs/quickstart/train/metrics.jsonl").stat().st_mtime - started
    document = json.loads(whole.output)
    results = [
        Result("quickstart, every stage", whole.seconds, "s"),
        Result("quickstart, peak memory", whole.peak_gibibytes, "GiB"),
        Result("quickstart again, nothing to do", statistics.median(again), "s", 5),
        Result("from the command to the first optimiser step, with the data prepared", first_step, "s"),
        Result("the same until its weights are written and the process has ended", one_step.seconds, "s"),
        Result("hfkit --help", statistics.median(help_), "s", 5),
        Result("hfkit check", statistics.median(check), "s", 5),
    ]
    results += [Result(f"stage {stage}", seconds, "s") for stage, seconds in document["timings"].items()]
    goals = [
        Goal("quickstart seconds", "< 600 s", whole.seconds, whole.seconds < 600),
        Goal("quickstart memory", "< 5 GiB", whole.peak_gibibytes, whole.peak_gibibytes < 5),
        Goal("run again", "< 5 s", statistics.median(again), statistics.median(again) < 5),
        Goal("first optimiser step", "< 20 s", first_step, first_step < 20),
        Goal("--help", "< 0.5 s", statistics.median(help_), statistics.median(help_) < 0.5),
        Goal("check, data probes included", "< 10 s", statistics.median(check), statistics.median(check) < 10),
    ]
    task = document["evaluate"]["tasks"]["grounded_answers"]
    for entry in task["differences"]:
        metric = entry["metric"]
        base, tuned = (task["scores"][model][metric] for model in ("base", "tuned"))
        results += [
            Result(f"{metric}, base", base["value"], f"of 1, {base['rows']} questions"),
            Result(f"{metric}, tuned", tuned["value"], f"of 1, {tuned['rows']} questions"),
            Result(f"{metric}, difference, low end", entry["interval"][0], "95% interval"),
            Result(f"{metric}, difference, high end", entry["interval"][1], "95% interval"),
            Result(f"{metric}, p-value", entry["p_value"], "two-sided"),
        ]
        if metric in ("token_f1", "citation_accuracy"):
            better = entry["difference"] > 0 and entry["p_value"] < 0.01
            goals.append(Goal(f"{metric} better", "p < 0.01", entry["p_value"], better))
    report("quickstart", results, goals, as_json=arguments.json, keep=not arguments.quick)


if __name__ == "__main__":
    main()
