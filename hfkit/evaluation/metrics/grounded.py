"""Metrics of grounded answers: citations, and knowing when to abstain. Rows without the fact `gold` are not scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hfkit.evaluation.metric import Metric, Numbers
from hfkit.evaluation.metrics.gold import gold_passages
from hfkit.evaluation.metrics.row_mean import RowMean, asked_and_said, ratio, reply_score
from hfkit.evaluation.rows import Answer, GenerationRow, Row
from rag.answer import cited_numbers, is_abstention


def citation_accuracy(reply: str, row: GenerationRow) -> float | None:
    """1 where exactly the passages that answer are cited; over answerable rows alone."""
    gold = gold_passages(row)
    return float(set(cited_numbers(reply)) == gold) if gold else None


def citation_precision(reply: str, row: GenerationRow) -> float | None:
    """The share of the cited passages that answer, 0 where none is cited; over answerable rows alone.

    So a reader that never cites has a precision, as in Gao et al. 2023 (arXiv:2305.14627, section 3).
    """
    gold, cited = gold_passages(row), set(cited_numbers(reply))
    if not gold:
        return None
    return len(cited & gold) / len(cited) if cited else 0.0


def citation_recall(reply: str, row: GenerationRow) -> float | None:
    """The share of the passages that answer that is cited; over answerable rows alone."""
    gold = gold_passages(row)
    return len(set(cited_numbers(reply)) & gold) / len(gold) if gold else None


def abstention_accuracy(reply: str, row: GenerationRow) -> float | None:
    """1 where the reader abstains exactly when no passage answers."""
    gold = gold_passages(row)
    return None if gold is None else float(is_abstention(reply) == (not gold))


@dataclass(frozen=True, slots=True)
class AbstentionShare:
    """Precision or recall of abstaining. The numbers of a row: abstained rightly, abstained, should have abstained.

    Where the reader never abstains and should have, the precision is 0, as scikit-learn has it by default; where no row
    asks for abstention there is no value.
    """

    name: str
    title: str
    of: int
    higher_is_better: bool = True
    is_binary: bool = False

    def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
        return [self._numbers(*asked_and_said(row, answer)) for row, answer in zip(rows, answers, strict=True)]

    def _numbers(self, row: GenerationRow, reply: str | None) -> Sequence[float] | None:
        gold = gold_passages(row)
        if gold is None:
            return None
        asked_for = not gold
        if reply is None:  # wrong either way: an abstention too many, or one that was missed
            return 0.0, 1.0, float(asked_for)
        abstained = is_abstention(reply)
        return float(abstained and asked_for), float(abstained), float(asked_for)

    def value(self, sums: Numbers) -> Numbers:
        found = ratio(sums[..., 0], sums[..., self.of])
        return np.where((sums[..., 1] == 0) & (sums[..., 2] > 0), 0.0, np.where(sums[..., 2] == 0, np.nan, found))


_SCORES: dict[str, tuple[str, Callable[[str, GenerationRow], float | None], bool]] = {
    "citation_accuracy": ("citation accuracy", citation_accuracy, True),
    "citation_precision": ("citation precision", citation_precision, False),
    "citation_recall": ("citation recall", citation_recall, False),
    "abstention_accuracy": ("abstention accuracy", abstention_accuracy, True),
}


def metric(name: str) -> Metric:
    if name == "abstention_precision":
        return AbstentionShare(name, "abstention precision", of=1)
    if name == "abstention_recall":
        return AbstentionShare(name, "abstention recall", of=2)
    title, score, is_binary = _SCORES[name]
    return RowMean(name, title, reply_score(score), is_binary=is_binary)
