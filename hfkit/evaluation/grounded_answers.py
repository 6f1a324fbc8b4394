"""The task `grounded_answers`: is the quote right, is what answers cited, does the reader know when to abstain?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from hfkit.data.conversation import Conversation
from hfkit.data.examples import Example
from hfkit.errors import RequestError
from hfkit.evaluation.generation import Generation
from hfkit.recipe import MetricName
from rag.answer import Message, cited_numbers, is_abstention, without_citations


class GroundedRow(BaseModel):
    """A test row: the question, what should be said, and the number of the passage that answers (None: none does)."""

    model_config = ConfigDict(frozen=True)

    id: str
    document: str
    question: str
    reference: str
    gold: int | None


def grounded_rows(examples: Iterable[Example]) -> tuple[list[GroundedRow], list[list[Message]]]:
    """The test rows, and the prompt of each: the last message is the answer, what stands before it is what a model is
    asked.

    Raises:
        RequestError: a row does not know which passage answers it.
    """
    rows: list[GroundedRow] = []
    prompts: list[list[Message]] = []
    for example in examples:
        if not isinstance(example, Conversation) or example.grounding is None:
            raise RequestError(
                "evaluate.tasks: grounded_answers needs rows that know which passage answers, as synthesize writes "
                f"them and question_answer rows with a context are; {example.id} is none. Take evaluate out of the "
                "recipe, or that source out of the test rows with use: train"
            )
        *asked, answer = example.as_messages()
        prompts.append(asked)
        rows.append(
            GroundedRow(
                id=example.id,
                document=example.document,
                question=example.grounding.question,
                reference=answer["content"],
                gold=example.grounding.gold,
            )
        )
    return rows, prompts


def score(row: GroundedRow, answer: Generation, f1: float) -> dict[MetricName, float]:
    """The scores of one answer, each from 0 to 1.

    token_f1, citation_accuracy: over answerable rows alone. The first compares wordings with the citations taken out
    (`f1`, see `wordings`); the second is 1 where exactly the passage that answers is cited.
    abstention_accuracy: over all rows; 1 where the reader abstains exactly when no passage answers.
    """
    abstained = is_abstention(answer.text)
    scores: dict[MetricName, float] = {"abstention_accuracy": float(abstained == (row.gold is None))}
    if row.gold is not None:
        scores["token_f1"] = f1
        scores["citation_accuracy"] = float(cited_numbers(answer.text) == (row.gold,))
    return scores


def wordings(rows: Sequence[GroundedRow], answers: Sequence[Generation]) -> list[float]:
    """Token F1 of each answer against its reference, both without citations."""
    from hfkit.evaluation.metrics.token_f1 import TokenF1

    metric = TokenF1(keep_in_memory=True)
    computed = metric.compute(
        predictions=[without_citations(answer.text) for answer in answers],
        references=[without_citations(row.reference) for row in rows],
    )
    return [float(value) for value in computed["rows"]]
