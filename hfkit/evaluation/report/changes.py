"""The rows that changed most from one model to another, read from the predictions that an evaluation keeps."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

from hfkit.evaluation.predictions import Prediction, read_predictions
from hfkit.evaluation.report.shown_rows import ShownRow, shown_row
from hfkit.evaluation.result import EvaluateResult, MetricInfo, TaskResult

MOST_ROWS = 5
"""Rows shown that improved, and as many that worsened."""

_MOST_MODELS = 3


@dataclass(frozen=True)
class ChangedRow:
    """A row with the answers of the reference and of the model, and how they score."""

    row: ShownRow
    before: float
    after: float


@dataclass(frozen=True)
class Changes:
    """What changed most from `reference` to `model` in `metric`, the largest change first. The counts are of all rows
    that this metric scores."""

    metric: MetricInfo
    reference: str
    model: str
    improved: tuple[ChangedRow, ...]
    worsened: tuple[ChangedRow, ...]
    rows_improved: int
    rows_worsened: int
    rows_equal: int


def changes_of(folder: Path, name: str, task: TaskResult, result: EvaluateResult) -> list[Changes]:
    """For each model that is compared, checkpoints only where there is nothing else; at most three models.

    `folder` is the evaluate stage's and `name` the task's. A model is left out where no metric scores rows by
    themselves.

    Raises:
        WorkError: the predictions cannot be read.
    """
    pairs = list(dict.fromkeys((one.model, one.reference) for one in task.differences))
    final = [pair for pair in pairs if pair[0] not in result.steps] or pairs[-1:]
    found = []
    for model, reference in final[:_MOST_MODELS]:
        metric = _first_scored(folder, name, task, model, reference)
        if metric is not None:
            found.append(_changes(folder, name, metric, model, reference))
    return found


def _first_scored(folder: Path, name: str, task: TaskResult, model: str, reference: str) -> MetricInfo | None:
    """The first of the task's metrics that scores a row by itself for both models."""
    scored: set[str] = set()
    for prediction in read_predictions(folder, name):
        scored |= set(prediction.scores.get(model, {})) & set(prediction.scores.get(reference, {}))
        if task.metrics[0].name in scored:
            break
    return next((metric for metric in task.metrics if metric.name in scored), None)


def _changes(folder: Path, name: str, metric: MetricInfo, model: str, reference: str) -> Changes:
    improved: list[tuple[float, int, Prediction]] = []
    worsened: list[tuple[float, int, Prediction]] = []
    better = worse = equal = 0
    for place, prediction in enumerate(read_predictions(folder, name)):
        before = prediction.scores.get(reference, {}).get(metric.name)
        after = prediction.scores.get(model, {}).get(metric.name)
        if before is None or after is None:
            continue
        gain = after - before if metric.higher_is_better else before - after
        better, worse, equal = better + (gain > 0), worse + (gain < 0), equal + (gain == 0)
        if gain:
            # Places are all different, so predictions are never compared; of equal changes the first rows are kept.
            _keep(improved if gain > 0 else worsened, (abs(gain), -place, prediction))
    return Changes(
        metric,
        reference,
        model,
        tuple(_changed(prediction, metric, model, reference) for _, _, prediction in sorted(improved, reverse=True)),
        tuple(_changed(prediction, metric, model, reference) for _, _, prediction in sorted(worsened, reverse=True)),
        better,
        worse,
        equal,
    )


def _keep(heap: list[tuple[float, int, Prediction]], entry: tuple[float, int, Prediction]) -> None:
    if len(heap) < MOST_ROWS:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _changed(prediction: Prediction, metric: MetricInfo, model: str, reference: str) -> ChangedRow:
    return ChangedRow(
        shown_row(prediction.row, {one: prediction.answers[one] for one in (reference, model)}),
        prediction.scores[reference][metric.name],
        prediction.scores[model][metric.name],
    )
