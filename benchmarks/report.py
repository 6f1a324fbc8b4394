"""What every benchmark prints and keeps: the device, the versions, the results, and its goals."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hfkit.environment import describe_hardware, package_versions

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Result:
    """One figure. `unit` says of what; `runs` how many measurements its median comes from."""

    name: str
    value: float
    unit: str
    runs: int = 1


@dataclass(frozen=True)
class Goal:
    """A figure against its aim."""

    name: str
    goal: str
    measured: float
    holds: bool


def report(
    benchmark: str, results: Sequence[Result], goals: Sequence[Goal], *, as_json: bool, keep: bool = True
) -> None:
    """Print the results, and keep them as `results/BENCHMARK-DEVICE.json` unless it was a quick run."""
    hardware = describe_hardware()
    document = {
        "benchmark": benchmark,
        "device": f"{hardware.processor}, {hardware.cores} cores{''.join(f', {gpu}' for gpu in hardware.gpus)}",
        "versions": package_versions(),
        "results": [asdict(result) for result in results],
        "goals": [asdict(goal) for goal in goals],
    }
    text = json.dumps(document, indent=2) + "\n"
    if keep:
        device = re.sub(r"[^a-z0-9]+", "-", f"{hardware.processor} {hardware.cores} cores".lower()).strip("-")
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{benchmark}-{device}.json").write_text(text, encoding="utf-8")
    if as_json:
        print(text, end="")
        return
    print(f"{benchmark} on {document['device']}")
    for result in results:
        print(f"  {result.name}: {result.value:.4g} {result.unit} ({result.runs} runs)")
    for goal in goals:
        print(f"  goal {goal.name}: {goal.goal}; measured {goal.measured:.4g}: {'holds' if goal.holds else 'MISSED'}")
    sys.stdout.flush()
