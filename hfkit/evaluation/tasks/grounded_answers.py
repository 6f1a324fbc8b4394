"""The task `grounded_answers`: is the quote right, is what answers cited, does the reader know when to abstain?"""

from __future__ import annotations

from collections.abc import Iterable

from hfkit.data.conversation import Conversation
from hfkit.data.examples import Example
from hfkit.errors import RequestError
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.rows import GenerationRow
from hfkit.evaluation.tasks.conversations import metadata_slices
from hfkit.evaluation.tasks.task import Task
from hfkit.recipe.tasks import DEFAULT_METRICS

NAME = "grounded_answers"


def grounded_answers(examples: Iterable[Example]) -> Task:
    """The recipe's test rows that know which passage answers.

    Raises:
        RequestError: a row does not.
    """
    rows = grounded_rows(examples)
    unanswerable = sum(row.facts["gold"] is None for row in rows)
    return Task(
        name=NAME,
        title="grounded answers",
        kind="generation",
        rows=tuple(rows),
        metrics=tuple(metric_named(name) for name in DEFAULT_METRICS[NAME]),
        remarks=(f"No passage answers {unanswerable} of the {len(rows)} questions.",) if unanswerable else (),
    )


def grounded_rows(examples: Iterable[Example]) -> list[GenerationRow]:
    """One row an example: the last message is the answer, what stands before it is what a model is asked. The facts are
    the bare question, and the number of the passage that answers, null where none does.

    Raises:
        RequestError: a row does not know which passage answers it.
    """
    rows = []
    for example in examples:
        if not isinstance(example, Conversation) or example.grounding is None:
            raise RequestError(
                "evaluate.tasks: grounded_answers needs rows that know which passage answers, as synthesize writes "
                f"them and question_answer rows with a context are; {example.id} is none. Take evaluate out of the "
                "recipe, or that source out of the test rows with use: train"
            )
        *asked, answer = example.messages
        rows.append(
            GenerationRow(
                id=example.id,
                group=example.document,
                slices=metadata_slices(example.metadata),
                messages=tuple(asked),
                references=(answer.content,),
                facts={"question": example.grounding.question, "gold": example.grounding.gold},
            )
        )
    return rows
