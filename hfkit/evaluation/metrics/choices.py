"""Whether the right one of several replies is the likeliest."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics.row_mean import RowMean, RowScore
from hfkit.evaluation.rows import Answer, ChoiceRow, Failed, Likelihood, Likelihoods, PreferenceRow, Row

Worth = Callable[[Likelihood], float]
"""What replies are ranked by."""


def raw(likelihood: Likelihood) -> float:
    return likelihood.log_likelihood


def per_byte(likelihood: Likelihood) -> float:
    """So that a long reply is not unlikely for its length alone, whatever the tokenizer."""
    return likelihood.log_likelihood / max(1, likelihood.bytes)


def per_token(likelihood: Likelihood) -> float:
    return likelihood.log_likelihood / max(1, likelihood.tokens)


def likelihoods(row: Row, answer: Answer, count: int) -> tuple[Likelihood, ...] | None:
    """The `count` likelihoods that answer a row; None where there is no answer, or one of them is not a number.

    Raises:
        TypeError: the answer is a reply.
        ValueError: it has another number of likelihoods.
    """
    if isinstance(answer, Failed):
        return None
    if not isinstance(answer, Likelihoods):
        raise TypeError(f"scores likelihoods, and the answer to {row.id} is a reply")
    if len(answer.of) != count:
        raise ValueError(f"{row.id} asks for {count} likelihoods and has {len(answer.of)}")
    return None if any(isnan(one.log_likelihood) for one in answer.of) else answer.of


def likeliest(row: ChoiceRow, answer: Answer, worth: Worth) -> int | None:
    """The number of the choice that is worth most, the first of several; None where there is no answer."""
    found = likelihoods(row, answer, len(row.choices))
    if not found:
        return None
    return max(range(len(found)), key=lambda place: worth(found[place]))


def _chosen(worth: Worth) -> RowScore:
    def score(row: Row, answer: Answer) -> float:
        if not isinstance(row, ChoiceRow):
            raise TypeError(f"scores choices, and {row.id} is a row of kind {row.kind}")
        return float(likeliest(row, answer, worth) == row.correct)

    return score


def _preferred(worth: Worth) -> RowScore:
    def score(row: Row, answer: Answer) -> float:
        if not isinstance(row, PreferenceRow):
            raise TypeError(f"scores preferences, and {row.id} is a row of kind {row.kind}")
        found = likelihoods(row, answer, 2)
        return 0.0 if found is None else float(worth(found[0]) > worth(found[1]))

    return score


_METRICS: dict[str, tuple[str, RowScore]] = {
    "accuracy": ("accuracy", _chosen(raw)),
    "accuracy_norm": ("accuracy, per byte", _chosen(per_byte)),
    "accuracy_per_token": ("accuracy, per token", _chosen(per_token)),
    "preference_accuracy": ("preference accuracy", _preferred(raw)),
    "preference_accuracy_norm": ("preference accuracy, per byte", _preferred(per_byte)),
}


def metric(name: str) -> Metric:
    title, score = _METRICS[name]
    return RowMean(name, title, score, is_binary=True)
