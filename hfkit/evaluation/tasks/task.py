"""What a task is: rows to ask, and metrics that score the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.rows import Kind, Row


@dataclass(frozen=True, slots=True)
class Task:
    """One task of an evaluation.

    Attributes:
        name: as gates say it, such as `squad`.
        title: as tables say it.
        kind: of all its rows.
        rows: each with an id of its own.
        metrics: the first is the main one.
        labels: of a classification, in the order of every row's choices; else empty.
        max_new_tokens: of a reply, where it is not what the recipe says for all tasks.
        settings: what the rows depend on beside their data: prompt, few-shot examples, source. For the report.
        remarks: what the reader of a table should know; full sentences.
    """

    name: str
    title: str
    kind: Kind
    rows: tuple[Row, ...]
    metrics: tuple[Metric, ...]
    labels: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    settings: Mapping[str, JsonValue] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
