"""Tables of an evaluation, written down once: the terminal, the page and Markdown each lay them out their way."""

from __future__ import annotations

from dataclasses import dataclass

from hfkit.evaluation.fewest_groups import fewest_groups
from hfkit.evaluation.report.figures import (
    probability,
    score_interval,
    score_text,
    score_with_interval,
    signed,
    signed_interval,
)
from hfkit.evaluation.result import Difference, EvaluateResult, HarnessResult, MetricInfo, Slice, TaskResult
from hfkit.evaluation.retrieval_result import MeasuredSetting, RetrievalResult
from hfkit.evaluation.retrieval_table import (
    adjustment_note,
    retrieval_interval,
    retrieval_notes,
    search_in_words,
    shown_metrics,
)


@dataclass(frozen=True)
class Table:
    """Text in rows. `names` columns at the left say what a row is about, the others hold figures but the last, which
    is in words where `wordy` is set. `notes` are sentences to be read with it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    wordy: bool = False
    notes: tuple[str, ...] = ()

    def is_figure(self, column: int) -> bool:
        return column >= self.names and not (self.wordy and column == len(self.headings) - 1)


def task_table(task: TaskResult, result: EvaluateResult) -> Table:
    """A line for each metric and model: its score, and its lead over the model that it is compared with."""
    differences = {(one.metric, one.model): one for one in task.differences}
    rows = [
        (metric.title, model, *_score_cells(task, model, metric), *_difference_cells(differences, metric, model))
        for metric in task.metrics
        for model, scores in task.scores.items()
        if metric.name in scores
    ]
    headings = ("metric", "model", "score", "interval", "rows")
    explained = f"Intervals hold the value with {result.confidence:.0%} confidence (bootstrap over groups of rows)."
    if _lacks_intervals(task):
        least = fewest_groups(result.confidence, sides=2)
        explained += f" Where there are fewer than {least} groups, none can be that sure."
    if not task.differences:
        return Table(f"{task.title}: {_counted(task)}", headings, tuple(row[:5] for row in rows), 2, notes=(explained,))
    return Table(
        f"{task.title}: {_counted(task)}",
        (*headings, "difference", "its interval", "p", "adjusted p", "effect size", "in words"),
        tuple(rows),
        names=2,
        wordy=True,
        notes=(
            f"{explained} Differences are paired: both models answered the same rows. Adjusted p is corrected after "
            "Holm for all differences of this evaluation.",
        ),
    )


def slice_table(task: TaskResult, key: str, metric: MetricInfo) -> Table:
    """How every model does on the parts that `key` cuts the rows into."""
    parts = slices_of(task, key)
    models = [model for model in task.scores if any(model in part.scores for part in parts)]
    return Table(
        f"{metric.title} by {key}",
        (key, "rows", *models),
        tuple((part.value, str(part.rows), *(_slice_cell(part, model, metric) for model in models)) for part in parts),
    )


def slices_of(task: TaskResult, key: str) -> list[Slice]:
    return [one for one in task.slices if one.key == key]


def task_notes(task: TaskResult) -> list[str]:
    """Sentences: replies that were cut off, rows that got no answer, and what the task remarks itself."""
    lines = [f"{model}: {rows} of {task.rows} replies were cut off." for model, rows in task.cut_off.items() if rows]
    for model, reasons in task.failed.items():
        lines += [
            f"{model}: {rows} of {task.rows} rows got no answer and count as wrong: {reason}"
            for reason, rows in reasons.items()
        ]
    return [*lines, *task.remarks]


def metric_named(task: TaskResult, name: str) -> MetricInfo:
    """The metric `name` of a task. Raises KeyError where it has none."""
    return {metric.name: metric for metric in task.metrics}[name]


def retrieval_table(result: RetrievalResult) -> Table:
    """A line for each way of searching: its figures, and its lead over dense search."""
    main = result.metrics[0]
    shown = shown_metrics(result)
    rows = []
    for name, setting in result.settings.items():
        figures = [f"{setting.scores[m].mean:.3f} ({retrieval_interval(setting.scores[m])})" for m in shown]
        mark = " (the recipe's)" if name == result.recipe else ""
        rows.append((f"{name}{mark}", search_in_words(setting), *figures, *_lead_cells(setting, main)))
    asked = f"{result.queries} judged queries ({result.folder}, split {result.split})"
    return Table(
        f"Search: {asked}, {result.documents} documents",
        ("setting", "search", *shown, f"lead over dense, {main}", "p", "adjusted p"),
        tuple(rows),
        names=2,
        notes=(
            f"Intervals hold the value with {result.confidence:.0%} confidence (bootstrap over queries). The lead is "
            f"over dense search on the same queries. {adjustment_note(result)}",
            *retrieval_notes(result),
        ),
    )


def harness_table(harness: HarnessResult) -> Table:
    """A line for each task and metric, a column for each model; the figure behind ± is the standard error."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for model, tasks in harness.scores.items():
        for task, metrics in tasks.items():
            for metric, (value, error) in metrics.items():
                text = f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"
                lines.setdefault((task, metric), {})[model] = text
    models = tuple(harness.scores)
    return Table(
        f"lm-evaluation-harness {harness.version}",
        ("task", "metric", *models),
        tuple((*key, *(cells.get(model, "") for model in models)) for key, cells in lines.items()),
        names=2,
        notes=("The figure behind ± is the standard error that the harness states.",),
    )


def gate_table(result: EvaluateResult) -> Table:
    return Table(
        "Gates",
        ("gate", "holds", "at least", "needed"),
        tuple(
            (
                gate.gate,
                "yes" if gate.holds else "NO",
                gate.why or "too few rows to say" if gate.at_least is None else signed(gate.at_least),
                signed(gate.needed),
            )
            for gate in result.gates
        ),
    )


def _lacks_intervals(task: TaskResult) -> bool:
    scores = (score for of_model in task.scores.values() for score in of_model.values())
    return any(one.interval is None and one.value is not None for one in scores)


def _counted(task: TaskResult) -> str:
    return f"{task.rows:,} rows in {task.groups:,} groups" if task.groups != task.rows else f"{task.rows:,} rows"


def _score_cells(task: TaskResult, model: str, metric: MetricInfo) -> tuple[str, str, str]:
    score = task.scores[model][metric.name]
    return score_text(score), score_interval(score), f"{score.rows:,}"


def _difference_cells(
    differences: dict[tuple[str, str], Difference], metric: MetricInfo, model: str
) -> tuple[str, ...]:
    one = differences.get((metric.name, model))
    if one is None:
        return ("",) * 6
    return (
        signed(one.difference),
        signed_interval(one.interval),
        probability(one.p_value),
        probability(one.p_adjusted),
        "" if one.effect_size is None else f"{one.effect_size:+.2f}",
        one.in_words,
    )


def _slice_cell(part: Slice, model: str, metric: MetricInfo) -> str:
    score = part.scores.get(model, {}).get(metric.name)
    return "" if score is None else score_with_interval(score)


def _lead_cells(setting: MeasuredSetting, metric: str) -> tuple[str, ...]:
    if metric not in setting.leads:
        return "", "", ""
    lead = setting.leads[metric]
    said = f"{signed(lead.difference)} ({signed_interval(lead.interval, 'queries')})"
    return said, probability(lead.p_value), probability(lead.p_adjusted)
