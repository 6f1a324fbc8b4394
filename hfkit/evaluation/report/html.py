"""report.html: one file that loads nothing, for a person who did not run the evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader, StrictUndefined
from pydantic import JsonValue

from hfkit.environment import Environment
from hfkit.evaluation.report.changes import Changes
from hfkit.evaluation.report.confusion import Confusion, confusions
from hfkit.evaluation.report.figures import figure
from hfkit.evaluation.report.plots import Plot, calibration_plot, curve_plot, scores_plot, slices_plot
from hfkit.evaluation.report.tables import (
    Table,
    gate_table,
    harness_table,
    retrieval_table,
    slice_table,
    task_notes,
    task_table,
)
from hfkit.evaluation.report.verdicts import headlines
from hfkit.evaluation.result import Classes, EvaluateResult, TaskResult
from hfkit.output import harmless
from hfkit.recipe import Recipe, dump_recipe
from hfkit.training.metrics_log import MetricsLine


@dataclass(frozen=True)
class _SlicePart:
    key: str
    table: Table
    plot: Plot


@dataclass(frozen=True)
class _ClassesPart:
    confusions: list[Confusion]
    calibration: Plot | None
    errors: Table


@dataclass(frozen=True)
class _TaskPart:
    title: str
    table: Table
    notes: list[str]
    scores: Plot | None
    curve: Plot | None
    slices: list[_SlicePart]
    classes: _ClassesPart | None
    changes: Sequence[Changes]
    settings: str


def html_report(
    result: EvaluateResult,
    changes: Mapping[str, Sequence[Changes]],
    losses: Sequence[MetricsLine],
    recipe: Recipe,
    environment: Environment,
) -> str:
    """The page. `changes` are those of each task by its name; `losses` are the lines of the run's metrics.jsonl, none
    where it did not train."""
    return render_page(
        "page.html.j2",
        name=recipe.name,
        headlines=headlines(result),
        models=result.models,
        tasks=[_task(name, task, result, changes.get(name, ()), losses) for name, task in result.tasks.items()],
        confidence=f"{result.confidence:.0%}",
        retrieval=None if result.retrieval is None else retrieval_table(result.retrieval),
        harness=None if result.harness is None else harness_table(result.harness),
        gates=result.gates,
        gates_table=gate_table(result),
        recipe=dump_recipe(recipe),
        environment=_yaml(environment.model_dump(mode="json")),
        figure=figure,
    )


def render_page(template: str, **values: object) -> str:
    """One of the templates beside this file. Everything that is put in is escaped."""
    templates = Templates(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, finalize=_shown
    )
    page: str = templates.get_template(template).render(**values)
    return page + "\n"


def _shown(value: object) -> object:
    """Control characters and marks that turn the direction of text would change what a reader sees."""
    return harmless(value) if type(value) is str else value


def _task(
    name: str, task: TaskResult, result: EvaluateResult, changes: Sequence[Changes], losses: Sequence[MetricsLine]
) -> _TaskPart:
    on_curve = sum(model in result.steps for model in task.scores) > 1
    return _TaskPart(
        title=task.title,
        table=task_table(task, result),
        notes=task_notes(task),
        scores=scores_plot(task) if task.metrics else None,
        curve=curve_plot(task, result.steps, losses) if on_curve and task.metrics else None,
        slices=[
            _SlicePart(key, slice_table(task, key, task.metrics[0]), slices_plot(task, key, task.metrics[0]))
            for key in dict.fromkeys(one.key for one in task.slices)
        ],
        classes=None if task.classes is None else _classes(task.classes),
        changes=changes,
        settings=_yaml(task.settings) if task.settings else "",
    )


def _classes(classes: Classes) -> _ClassesPart:
    errors = Table(
        "Expected calibration error: how far confidence and share of right answers are apart",
        ("model", "error"),
        tuple((model, figure(error)) for model, error in classes.calibration_error.items()),
    )
    drawn = any(rows for bins in classes.calibration.values() for _, _, rows in bins)
    return _ClassesPart(confusions(classes), calibration_plot(classes) if drawn else None, errors)


class _ReportDumper(yaml.SafeDumper):
    """Shows texts of several lines as they are: a reader takes folded ones for other texts."""


def _text(dumper: _ReportDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_ReportDumper.add_representer(str, _text)


def _yaml(value: Mapping[str, JsonValue]) -> str:
    # As wide as texts are: the page wraps them.
    text: str = yaml.dump(dict(value), Dumper=_ReportDumper, sort_keys=False, allow_unicode=True, width=10_000)
    return text
