"""What a run came to: a table for people, a document for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import JsonValue

from hfkit.evaluation.result import TITLES, EvaluateResult, GateResult
from hfkit.evaluation.retrieval_table import print_retrieval
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
            if result.comparison:
                console.print(_comparison_table(result))
            if result.retrieval is not None:
                print_retrieval(console, result.retrieval)
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


def _comparison_table(result: EvaluateResult) -> Table:
    from rich.table import Table

    first = next(iter(result.comparison.values()))
    table = Table(
        title=f"base against tuned, {result.rows} questions on documents that training never saw",
        caption=f"intervals: {first.confidence:.0%}, paired bootstrap over documents; p: paired permutation test",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("metric")
    for heading in ("base", "tuned", "difference", "interval", "p", "questions", "documents"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("in words")
    for metric, entry in result.comparison.items():
        table.add_row(
            TITLES[metric],
            f"{entry.base:.3f}",
            f"{entry.tuned:.3f}",
            f"{entry.difference:+.3f}",
            f"{entry.interval[0]:+.3f} … {entry.interval[1]:+.3f}",
            f"{entry.p_value:.4f}",
            str(entry.rows),
            str(entry.documents),
            entry.in_words,
        )
    return table


def _evaluated(outcomes: Outcomes) -> EvaluateResult | None:
    if "evaluate" not in outcomes:
        return None
    return EvaluateResult.model_validate(outcomes["evaluate"].artifact.result)
