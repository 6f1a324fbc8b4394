"""Runs side by side as tables: for the terminal and for a page."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import JsonValue

from hfkit.evaluation.report.figures import figure, listed, probability, score_with_interval, signed, signed_interval
from hfkit.evaluation.report.html import render_page
from hfkit.evaluation.report.tables import Table
from hfkit.evaluation.run_comparison import ComparedRun, PairedDifference, RunComparison

_LONGEST = 60


def comparison_sentences(comparison: RunComparison) -> list[str]:
    """What the comparison comes to; then what must be known to read it."""
    sentences = [_verdict(one) for one in comparison.paired]
    if comparison.same_data is not None:
        said = "the same" if comparison.same_data else "not the same"
        sentences.append(f"The runs' data is {said}.")
    if not comparison.recipe:
        sentences.append("The recipes say the same.")
    return [*sentences, *comparison.remarks]


def comparison_tables(comparison: RunComparison) -> list[Table]:
    labels = tuple(run.label for run in comparison.runs)
    tables = [_scores_table(comparison, labels)]
    if comparison.paired:
        tables.append(_paired_table(comparison.paired))
    tables.append(_cost_table(comparison.runs))
    rows = tuple((one.key, *(_value(value) for value in one.values)) for one in comparison.recipe)
    if rows:
        tables.append(Table("What differs in the recipes", ("key", *labels), rows, names=len(labels) + 1))
    return tables


def comparison_page(comparison: RunComparison) -> str:
    """A page like the report's: one file that loads nothing."""
    title = f"Comparison of {listed([run.label for run in comparison.runs])}"
    tables = comparison_tables(comparison)
    return render_page("compared.html.j2", title=title, sentences=comparison_sentences(comparison), tables=tables)


def _verdict(one: PairedDifference) -> str:
    return (
        f"{one.task}, {one.model}: {one.in_words} than {one.reference} on {one.metric.title} "
        if one.in_words.endswith(("better", "worse"))
        else f"{one.task}, {one.model}, {one.run} against {one.reference} on {one.metric.title}: {one.in_words} "
    ) + f"({signed(one.difference)}, {signed_interval(one.interval)})."


def _scores_table(comparison: RunComparison, labels: tuple[str, ...]) -> Table:
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for run in comparison.runs:
        for task, models in run.scores.items():
            for model, scores in models.items():
                for metric, score in scores.items():
                    title = comparison.metrics[task][metric].title
                    lines.setdefault((task, model, title), {})[run.label] = score_with_interval(score)
    return Table(
        "Scores",
        ("task", "model", "metric", *labels),
        tuple((*key, *(cells.get(label, "") for label in labels)) for key, cells in lines.items()),
        names=3,
        notes=("Each score with its interval. Intervals that overlap say little; the paired differences say more.",),
    )


def _paired_table(paired: Sequence[PairedDifference]) -> Table:
    rows = tuple(
        (
            one.task,
            one.model,
            one.metric.title,
            f"{one.run} - {one.reference}",
            f"{one.rows:,}",
            signed(one.difference),
            signed_interval(one.interval),
            probability(one.p_value),
            probability(one.p_adjusted),
            one.in_words,
        )
        for one in paired
    )
    return Table(
        "Paired differences, on the rows that both runs answered",
        ("task", "model", "metric", "runs", "rows", "difference", "interval", "p", "adjusted p", "in words"),
        rows,
        names=4,
        wordy=True,
        notes=("Adjusted p is corrected after Holm for all differences of this table.",),
    )


def _cost_table(runs: Sequence[ComparedRun]) -> Table:
    stages = list(dict.fromkeys(stage for run in runs for stage in run.cost))
    lines = [(f"{stage}: seconds, peak memory", *(_cost(run, stage) for run in runs)) for stage in stages]
    lines += [
        ("training loss, nats a token", *("" if run.losses is None else figure(run.losses.training) for run in runs)),
        ("best validation loss, nats a token", *(_validation(run) for run in runs)),
        ("optimiser steps", *("" if run.losses is None else f"{run.losses.steps:,}" for run in runs)),
        ("gates that hold", *("" if run.gates is None else f"{run.gates_held} of {run.gates}" for run in runs)),
    ]
    return Table(
        "Training and cost",
        ("", *(run.label for run in runs)),
        tuple(line for line in lines if any(line[1:])),
        notes=("Seconds and memory are those of the machine that made each run.",),
    )


def _cost(run: ComparedRun, stage: str) -> str:
    cost = run.cost.get(stage)
    return "" if cost is None else f"{cost.seconds:.1f} s, {cost.peak_memory_bytes / 2**30:.2f} GiB"


def _validation(run: ComparedRun) -> str:
    return "" if run.losses is None or run.losses.validation is None else figure(run.losses.validation)


def _value(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
