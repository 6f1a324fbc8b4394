"""Metrics that are the mean of a score that each row has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hfkit.evaluation.metric import Numbers
from hfkit.evaluation.rows import Answer, Failed, Generation, GenerationRow, Row

RowScore = Callable[[Row, Answer], float | None]
"""The score of an answer; None for a row that is not scored."""


@dataclass(frozen=True, slots=True)
class RowMean:
    """The mean over rows of `score`. The numbers of a row are its score and 1. Attributes as in `Metric`."""

    name: str
    title: str
    score: RowScore
    higher_is_better: bool = True
    is_binary: bool = False

    def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
        scores = [self.score(row, answer) for row, answer in zip(rows, answers, strict=True)]
        return [None if score is None else (score, 1.0) for score in scores]

    def value(self, sums: Numbers) -> Numbers:
        return ratio(sums[..., 0], sums[..., 1])


def ratio(above: Numbers, below: Numbers) -> Numbers:
    """`above / below`, and NaN where `below` is 0."""
    quotient: Numbers = np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)
    return quotient


def reply_score(score: Callable[[str, GenerationRow], float | None]) -> RowScore:
    """The score of a reply's text; 0 where there is no answer on a row that is scored."""

    def scored(row: Row, answer: Answer) -> float | None:
        asked, reply = asked_and_said(row, answer)
        if reply is not None:
            return score(reply, asked)
        return None if score("", asked) is None else 0.0

    return scored


def reference_score(score: Callable[[str, str], float]) -> RowScore:
    """The best score of a reply's text against any of the row's references. A row without one is not scored."""

    def best(reply: str, row: GenerationRow) -> float | None:
        return max((score(reply, reference) for reference in row.references), default=None)

    return reply_score(best)


def asked_and_said(row: Row, answer: Answer) -> tuple[GenerationRow, str | None]:
    """The row, and the text of the reply; None where there is no answer.

    Raises:
        TypeError: the row asks for something else than a reply.
    """
    if not isinstance(row, GenerationRow):
        raise TypeError(f"scores replies, and {row.id} is a row of kind {row.kind}")
    if isinstance(answer, Failed):
        return row, None
    if not isinstance(answer, Generation):
        raise TypeError(f"scores replies, and the answer to {row.id} is none")
    return row, answer.text
