"""What a run came to: a table for people, a document for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import JsonValue

from hfkit.evaluation.report import REPORT
from hfkit.evaluation.report.tables import harness_table
from hfkit.evaluation.result import EvaluateResult, GateResult
from hfkit.evaluation.retrieval_table import print_retrieval
from hfkit.evaluation.task_table import print_table, print_task
from hfkit.output import emit
from hfkit.pipeline import StageOutcome
from hfkit.run import Run
from hfkit.stage import StageName

if TYPE_CHECKING:
    from rich.table import Table

Outcomes = Mapping[StageName, StageOutcome]


def run_document(run: Run, outcomes: Outcomes) -> dict[str, JsonValue]:
    """The document of `hfkit run --json`. `timings` are seconds; both they and the memory are those of the making."""
    stages: dict[str, JsonValue] = {
        name: {
            "made_now": outcome.made_now,
            "fingerprint": outcome.artifact.fingerprint,
            "finished": outcome.artifact.finished,
            "result": outcome.artifact.result,
        }
        for name, outcome in outcomes.items()
    }
    document: dict[str, JsonValue] = {
        "recipe": run.recipe.name,
        "run": run.folder.as_posix(),
        "stages": stages,
        "timings": {name: outcome.artifact.seconds for name, outcome in outcomes.items()},
        "peak_memory_bytes": {name: outcome.artifact.peak_memory_bytes for name, outcome in outcomes.items()},
    }
    if "evaluate" in outcomes:
        document["evaluate"] = outcomes["evaluate"].artifact.result
    return document


def failed_gates(outcomes: Outcomes) -> list[GateResult]:
    result = _evaluated(outcomes)
    return [] if result is None else [gate for gate in result.gates if not gate.holds]


def print_summary(run: Run, outcomes: Outcomes) -> None:
    from rich.console import Console

    console = Console()
    # Off a terminal (a log, CI) there is no width to fit, so nothing need be wrapped or cut.
    if not console.is_terminal:
        console.width = 132
    with console.capture() as captured:
        console.print(_stages_table(run, outcomes))
        if all(not outcome.made_now for outcome in outcomes.values()):
            console.print("Nothing to do: every stage is up to date with the recipe and its inputs.")
        result = _evaluated(outcomes)
        if result is not None:
            for task in result.tasks.values():
                print_task(console, task, result)
            if result.retrieval is not None:
                print_retrieval(console, result.retrieval)
            if result.harness is not None:
                print_table(console, harness_table(result.harness))
            report = run.finished("evaluate") / REPORT
            if report.is_file():
                console.print(f"report: {report.as_posix()}", markup=False, highlight=False)
            for gate in result.gates:
                console.print(f"gate {'met' if gate.holds else 'NOT MET'}: {gate.gate}", markup=False, highlight=False)
    emit(captured.get().rstrip("\n"), styled=True)


def _stages_table(run: Run, outcomes: Outcomes) -> Table:
    from rich.table import Table

    table = Table(title=f"run {run.folder.as_posix()}", title_justify="left")
    table.add_column("stage")
    table.add_column("this time")
    table.add_column("seconds to make", justify="right")
    table.add_column("peak memory", justify="right")
    for name, outcome in outcomes.items():
        artifact = outcome.artifact
        done = "made now" if outcome.made_now else "nothing changed, kept"
        table.add_row(name, done, f"{artifact.seconds:.1f}", f"{artifact.peak_memory_bytes / 2**30:.2f} GiB")
    return table


def _evaluated(outcomes: Outcomes) -> EvaluateResult | None:
    if "evaluate" not in outcomes:
        return None
    return EvaluateResult.model_validate(outcomes["evaluate"].artifact.result)
