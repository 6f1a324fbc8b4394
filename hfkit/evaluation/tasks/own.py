"""Tasks of one's own: columns of a dataset, a prompt over them, and metrics, as a recipe says them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError
from pydantic import JsonValue

from hfkit.data.bounded_templates import BoundedEnvironment, EndlessTemplate, TemplateFault, rendered
from hfkit.data.conversation import Conversation, Turn
from hfkit.data.examples import Example, LabelledText, PlainText, Preference
from hfkit.data.formats import SAMPLE, choose_format
from hfkit.data.ledger import Ledger, RowFault
from hfkit.errors import RequestError
from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.rows import ChoiceRow, Kind, PreferenceRow, Row, TextRow
from hfkit.evaluation.tasks.conversations import conversation_rows, metadata_slices, sliced
from hfkit.evaluation.tasks.drafts import (
    Columns,
    Draft,
    chosen_number,
    dropped_in_words,
    finished_rows,
    located_rows,
    read_drafts,
    text_of,
    text_row,
    texts_of,
    value_of,
)
from hfkit.evaluation.tasks.task import Task
from hfkit.recipe import MetricSection, OwnTask

_SPLIT = "test"


def own_task(entry: OwnTask) -> Task:
    """The task that `entry` says.

    Raises:
        RequestError: a template or a metric's setting is wrong, or the rows cannot be read or used.
    """
    labels: tuple[str, ...] = ()
    if entry.prompt is None and entry.text is None:
        rows, labels, remarks = _rows_of_examples(entry)
    elif entry.kind == "text":
        rows, remarks = _texts(entry)
    else:
        rows, labels, remarks = _rows_of_prompts(entry)
    kind: Kind = "choice" if entry.kind == "classification" else entry.kind
    return Task(
        name=entry.name,
        title=entry.name.replace("_", " "),
        kind=kind,
        rows=tuple(rows),
        metrics=tuple(_metric(entry, metric) for metric in entry.metrics or entry.metric_names),
        labels=labels,
        max_new_tokens=entry.max_new_tokens,
        settings={
            "source": entry.path or f"hub:{entry.hub}",
            "prompt": entry.prompt,
            "system": entry.system,
            "few_shot": entry.few_shot,
        },
        remarks=tuple(remarks),
    )


def _metric(entry: OwnTask, metric: str | MetricSection) -> Metric:
    name = metric.metric if isinstance(metric, MetricSection) else metric
    settings: dict[str, JsonValue] = dict(metric.settings) if isinstance(metric, MetricSection) else {}
    place = f"evaluate.tasks: {entry.name}: metrics"
    if name == "json_schema" and isinstance(settings.get("schema"), str):
        path = Path(str(settings["schema"]))
        try:
            settings["schema"] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(f"{place}: {path}: the schema cannot be read: {error}") from error
    try:
        return metric_named(name, **settings)
    except ValueError as error:
        raise RequestError(f"{place}: {error}") from error


# Rows that a prompt is written over.


def _rows_of_prompts(entry: OwnTask) -> tuple[list[Row], tuple[str, ...], list[str]]:
    labels = _labels(entry) if entry.kind == "classification" else ()
    ask = _template(entry, "prompt", entry.prompt or "")
    system = None if entry.system is None else _template(entry, "system", entry.system)

    def draft(columns: Columns, place: str) -> Draft:
        return _draft(entry, columns, place, ask, system, labels)

    drafts, remarks = read_drafts(entry, _SPLIT, draft, entry.name)
    chat = entry.chat if entry.chat is not None else entry.kind not in ("choice", "classification")
    return finished_rows(drafts, entry, chat=chat), labels, remarks


def _draft(
    entry: OwnTask,
    columns: Columns,
    place: str,
    ask: Callable[[Columns], str],
    system: Callable[[Columns], str] | None,
    labels: tuple[str, ...],
) -> Draft:
    given: dict[str, Any] = {
        "id": place,
        "prompt": ask(columns),
        "system": None if system is None else system(columns),
        "group": None if entry.group is None else str(value_of(columns, entry.group)),
        "slices": _slices(entry, columns),
        "facts": {key: value_of(columns, key) for key in entry.facts},
    }
    if entry.kind == "generation":
        assert entry.references is not None
        references = texts_of(columns, entry.references)
        return Draft(**given, references=references, solution=references[0])
    if entry.kind == "preference":
        assert entry.chosen is not None and entry.rejected is not None
        replies = (text_of(columns, entry.chosen), text_of(columns, entry.rejected))
        return Draft(**given, replies=replies, solution=replies[0])
    assert entry.correct is not None
    choices = labels or _choices(entry, columns)
    correct = chosen_number(value_of(columns, entry.correct), choices, entry.correct)
    return Draft(**given, choices=choices, correct=correct, solution=choices[correct])


def _choices(entry: OwnTask, columns: Columns) -> tuple[str, ...]:
    assert entry.choices is not None
    return texts_of(columns, entry.choices, 2) if isinstance(entry.choices, str) else entry.choices


def _labels(entry: OwnTask) -> tuple[str, ...]:
    """The labels of a classification: those of the recipe, or all that the column holds."""
    if entry.choices is not None and not isinstance(entry.choices, str):
        return entry.choices
    assert entry.correct is not None
    found = {
        str(columns[entry.correct]) for columns, _ in located_rows(entry, _SPLIT, Ledger()) if entry.correct in columns
    }
    if len(found) < 2:
        raise RequestError(
            f"evaluate.tasks: {entry.name}: the column {entry.correct} holds {len(found)} labels, and a choice needs "
            "two; name the column of the labels in correct, or the labels in choices"
        )
    return tuple(sorted(found))


def _slices(entry: OwnTask, columns: Columns) -> dict[str, str | float]:
    found = {}
    for key in entry.slices:
        value = value_of(columns, key)
        if isinstance(value, str | int | float):
            found[key] = sliced(value)
    return found


def _template(entry: OwnTask, key: str, text: str) -> Callable[[Columns], str]:
    """What fills in a template. A column that it names and a row does not have is that row's fault.

    Raises:
        RequestError: its syntax is wrong; so does the filling in where it does not come to an end.
    """
    environment = BoundedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        template = environment.from_string(text)
    except TemplateSyntaxError as error:
        raise RequestError(f"evaluate.tasks: {entry.name}: {key}: line {error.lineno}: {error.message}") from error

    def fill(columns: Columns) -> str:
        try:
            filled = rendered(template, columns)
        except EndlessTemplate as fault:
            # Every row would take as long: the recipe is at fault and not the row.
            raise RequestError(f"evaluate.tasks: {entry.name}: {key}: {fault}") from fault
        except TemplateFault as fault:
            raise RowFault(f"the template {key} cannot be filled in", str(fault)) from fault
        if not filled.strip():
            raise RowFault(f"the template {key} gives nothing")
        return filled

    return fill


def _texts(entry: OwnTask) -> tuple[list[Row], list[str]]:
    ledger = Ledger()
    rows: list[Row] = []
    column = entry.text or "text"
    for columns, place in located_rows(entry, _SPLIT, ledger):
        if entry.limit is not None and len(rows) >= entry.limit:
            break
        try:
            group = None if entry.group is None else str(value_of(columns, entry.group))
            rows.append(text_row(text_of(columns, column), place, group, _slices(entry, columns)))
        except RowFault as fault:
            ledger.drop(fault.reason, place, fault.detail)
    return _some(entry, rows, ledger), dropped_in_words(ledger)


# Rows that are examples already, in any format that training knows.


def _rows_of_examples(entry: OwnTask) -> tuple[list[Row], tuple[str, ...], list[str]]:
    ledger = Ledger()
    located = list(located_rows(entry, _SPLIT, ledger))
    key = f"evaluate.tasks: {entry.name}"
    chosen = choose_format([columns for columns, _ in located[:SAMPLE]], "auto", {}, key)
    examples: list[Example] = []
    for columns, place in located:
        metadata = {name: columns[name] for name in entry.slices if name in columns}
        group = None if entry.group is None else str(columns.get(entry.group))
        try:
            for inner, where in chosen.expand(columns, place):
                examples.append(chosen.convert(inner, id=where, document=group, metadata=metadata, ledger=ledger))
        except RowFault as fault:
            ledger.drop(fault.reason, place, fault.detail)
    labels: tuple[str, ...] = ()
    if entry.kind == "classification":
        labels = tuple(sorted({str(one.label) for one in examples if isinstance(one, LabelledText)}))
        if isinstance(entry.choices, tuple):
            labels = entry.choices
    rows: list[Row] = []
    for example in examples:
        row = _row_of(example, entry, labels)
        if row is None:
            ledger.drop(f"a row of kind {entry.kind} cannot be made of it", example.id, chosen.why)
        else:
            rows.append(row)
    return _some(entry, rows[: entry.limit], ledger), labels, dropped_in_words(ledger)


def _row_of(example: Example, entry: OwnTask, labels: tuple[str, ...]) -> Row | None:
    given: dict[str, Any] = {
        "id": example.id,
        "group": example.document,
        "slices": metadata_slices(example.metadata),
    }
    match entry.kind, example:
        case "generation", Conversation():
            return next(iter(conversation_rows([example])), None)
        case "text", PlainText():
            return TextRow(**given, text=example.text)
        case "preference", Preference():
            if len(example.chosen) == len(example.rejected) == 1:
                chosen, rejected = example.chosen[0].content, example.rejected[0].content
                return PreferenceRow(**given, messages=example.prompt, chosen=chosen, rejected=rejected)
        case "classification", LabelledText():
            both = example.text if example.second_text is None else f"{example.text}\n{example.second_text}"
            correct = labels.index(str(example.label)) if str(example.label) in labels else None
            if correct is not None:
                given |= {"choices": labels, "correct": correct}
                if entry.chat:
                    return ChoiceRow(**given, messages=(Turn(role="user", content=both),))
                return ChoiceRow(**given, context=f"{both}\nLabel: ")
    return None


def _some(entry: OwnTask, rows: list[Row], ledger: Ledger) -> list[Row]:
    if not rows:
        first = ledger.dropped[0] if ledger.dropped else None
        why = "" if first is None else f"; {first.reason}: {first.first[0]}"
        raise RequestError(f"evaluate.tasks: {entry.name}: no row can be used{why}")
    return rows
