"""The report of an evaluate stage: report.html for people, report.json for programs, report.md for a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pydantic import JsonValue

from hfkit.environment import Environment, describe_environment
from hfkit.evaluation.predictions import predictions_file
from hfkit.evaluation.report import REPORT, REPORT_JSON, REPORT_MARKDOWN
from hfkit.evaluation.report.changes import Changes, changes_of
from hfkit.evaluation.report.html import html_report
from hfkit.evaluation.report.markdown import markdown_report
from hfkit.evaluation.report.verdicts import headlines
from hfkit.evaluation.result import EvaluateResult
from hfkit.recipe import Recipe
from hfkit.training.metrics_log import METRICS, read_metrics


def write_report(folder: Path, result: EvaluateResult, recipe: Recipe, trained: Path | None) -> None:
    """Write the three files into `folder`, which holds the predictions. `trained` is the train stage's folder, for the
    losses of its run.

    Raises:
        WorkError: the predictions cannot be read.
    """
    changes = {
        name: changes_of(folder, name, task, result)
        for name, task in result.tasks.items()
        if predictions_file(folder, name).is_file()
    }
    losses = [] if trained is None else read_metrics(trained / METRICS)
    environment = describe_environment()
    page = html_report(result, changes, losses, recipe, environment)
    # A lone surrogate, which JSON can hold, is no character of UTF-8.
    (folder / REPORT).write_text(page, encoding="utf-8", errors="replace")
    (folder / REPORT_MARKDOWN).write_text(markdown_report(result, heading="#"), encoding="utf-8", errors="replace")
    document = report_document(result, changes, recipe, environment)
    (folder / REPORT_JSON).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def report_document(
    result: EvaluateResult, changes: Mapping[str, list[Changes]], recipe: Recipe, environment: Environment
) -> dict[str, JsonValue]:
    """The document of report.json: what the page shows, unrounded."""
    return {
        "name": recipe.name,
        "headlines": list(headlines(result)),
        "result": result.model_dump(mode="json"),
        "changed_rows": {name: [_changes_document(one) for one in of_task] for name, of_task in changes.items()},
        "recipe": recipe.model_dump(mode="json"),
        "environment": environment.model_dump(mode="json"),
    }


def _changes_document(changes: Changes) -> JsonValue:
    document: dict[str, JsonValue] = asdict(changes) | {"metric": changes.metric.name}
    return document
