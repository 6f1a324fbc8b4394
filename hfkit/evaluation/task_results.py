"""What the tasks of an evaluation gave: scores, comparisons, slices and classes from the answers of all models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from hfkit.evaluation.classes import classes_of
from hfkit.evaluation.report.slices import cuts
from hfkit.evaluation.result import MetricInfo, Slice, TaskResult
from hfkit.evaluation.rows import Answer, Failed, Generation
from hfkit.evaluation.statistics import Pair, Resampled, differences, resample, score
from hfkit.evaluation.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Answered:
    """A task, what each model that could be asked answered, and each metric over those answers.

    `asked` says how the rows were asked; `remarks` are full sentences.
    """

    task: Task
    answers: Mapping[str, Sequence[Answer]]
    metrics: Mapping[str, Resampled]
    asked: Mapping[str, JsonValue]
    remarks: tuple[str, ...]


def task_results(answered: Sequence[Answered], *, confidence: float, seed: int) -> dict[str, TaskResult]:
    """The result of every task; all at once, since the correction of p-values is over all comparisons together."""
    pairs = [(one.task.name, pair) for one in answered for pair in _pairs(one)]
    compared = differences([pair for _, pair in pairs], confidence=confidence)
    results = {}
    for one in answered:
        found = [
            difference
            for (name, _), difference in zip(pairs, compared, strict=True)
            if name == one.task.name and difference is not None
        ]
        results[one.task.name] = TaskResult(
            kind=one.task.kind,
            title=one.task.title,
            rows=len(one.task.rows),
            groups=len({row.group for row in one.task.rows}),
            metrics=tuple(
                MetricInfo(
                    name=metric.name,
                    title=metric.title,
                    higher_is_better=metric.higher_is_better,
                    is_binary=metric.is_binary,
                )
                for metric in (of.measured.metric for of in one.metrics.values())
            ),
            scores={
                label: {name: score(of, label, confidence=confidence) for name, of in one.metrics.items()}
                for label in one.answers
            },
            differences=tuple(found),
            slices=_slices(one, confidence, seed),
            classes=classes_of(one.task, one.answers),
            cut_off=_cut_off(one),
            failed={label: reasons for label, given in one.answers.items() if (reasons := _failed(given))},
            settings={**one.task.settings, **one.asked},
            remarks=one.remarks,
        )
    return results


def _pairs(one: Answered) -> list[Pair]:
    """Every model against the first, metric by metric."""
    reference, *others = one.answers
    return [Pair(resampled, label, reference) for resampled in one.metrics.values() for label in others]


def _cut_off(one: Answered) -> dict[str, int]:
    if one.task.kind != "generation":
        return {}
    return {
        label: sum(isinstance(answer, Generation) and not answer.stopped for answer in given)
        for label, given in one.answers.items()
    }


def _failed(answers: Sequence[Answer]) -> dict[str, int]:
    return dict(Counter(answer.reason for answer in answers if isinstance(answer, Failed)))


def _slices(one: Answered, confidence: float, seed: int) -> tuple[Slice, ...]:
    found = []
    for cut in cuts(one.task.rows):
        ids = {one.task.rows[place].id for place in cut.rows}
        within = {name: resample(of.measured.only(ids), seed=seed) for name, of in one.metrics.items()}
        scores = {
            label: {name: score(of, label, confidence=confidence) for name, of in within.items()}
            for label in one.answers
        }
        found.append(Slice(key=cut.key, value=cut.value, rows=len(cut.rows), scores=scores))
    return tuple(found)
