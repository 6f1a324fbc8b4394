"""The task `conversations`: the recipe's own test rows, each reply scored against the one that was written."""

from __future__ import annotations

from collections.abc import Iterable

from hfkit.data.conversation import Conversation, Metadata
from hfkit.data.examples import Example
from hfkit.errors import RequestError
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.rows import GenerationRow
from hfkit.evaluation.tasks.task import Task
from hfkit.recipe.tasks import DEFAULT_METRICS

NAME = "conversations"


def conversations(examples: Iterable[Example]) -> Task:
    """The last reply of each test row.

    Raises:
        RequestError: no row is a conversation that ends with a reply.
    """
    found = list(examples)
    rows = conversation_rows(found)
    if not rows:
        raise RequestError(
            "evaluate.tasks: conversations needs test rows that end with an assistant's reply, and there is none"
        )
    left_out = len(found) - len(rows)
    remarks = (f"{left_out} test rows were not asked: they end with no reply in text.",) if left_out else ()
    return Task(
        name=NAME,
        title="replies to the recipe's test rows",
        kind="generation",
        rows=tuple(rows),
        metrics=tuple(metric_named(name) for name in DEFAULT_METRICS[NAME]),
        remarks=remarks,
    )


def conversation_rows(examples: Iterable[Example]) -> list[GenerationRow]:
    """One row for each conversation that ends with an assistant's words: those are the reference, what stands before
    them is asked. Other examples give none."""
    rows = []
    for example in examples:
        if not isinstance(example, Conversation) or len(example.messages) < 2:
            continue
        *asked, reply = example.messages
        if reply.role != "assistant" or not reply.content.strip():
            continue
        rows.append(
            GenerationRow(
                id=example.id,
                group=example.document,
                slices=metadata_slices(example.metadata),
                messages=tuple(asked),
                references=(reply.content,),
                facts={} if example.grounding is None else {"gold": example.grounding.gold},
                tools=example.tools,
            )
        )
    return rows


def metadata_slices(metadata: Metadata) -> dict[str, str | float]:
    """What a recipe keeps of its columns, as keys to break results down by."""
    return {key: sliced(value) for key, value in metadata.items() if value is not None}


def sliced(value: str | int | float | bool) -> str | float:
    """Truth values are words, numbers stay numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value
