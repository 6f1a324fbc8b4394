"""A row and the answers to it as text for people: cut where it is long, and without control characters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hfkit.evaluation.report.figures import figure
from hfkit.evaluation.rows import Answer, ChoiceRow, Failed, Generation, Likelihood, PreferenceRow, Row
from hfkit.output import harmless, one_line

LONGEST = 2000
"""Characters shown of a message or a reply."""


@dataclass(frozen=True)
class ShownRow:
    """Texts to show. `messages` are (role, text) pairs, `expected` what would have been right, `answers` one text a
    model."""

    id: str
    slices: str
    messages: tuple[tuple[str, str], ...]
    expected: tuple[str, ...]
    answers: dict[str, str]


def shown_row(row: Row, answers: Mapping[str, Answer]) -> ShownRow:
    return ShownRow(
        one_line(row.id),
        ", ".join(f"{one_line(key)}: {one_line(str(value))}" for key, value in row.slices.items()),
        tuple((role, cut(text)) for role, text in _messages(row)),
        tuple(cut(text) for text in _expected(row)),
        {model: cut(_answer(row, answer)) for model, answer in answers.items()},
    )


def cut(text: str) -> str:
    """At most LONGEST characters; what is left out from there on is said."""
    shown = harmless(text[:LONGEST])
    left_out = len(text) - LONGEST
    return shown if left_out <= 0 else f"{shown} … ({left_out:,} more characters are not shown)"


def _messages(row: Row) -> list[tuple[str, str]]:
    if row.kind == "text":
        return [("text", row.text)]
    messages: list[tuple[str, str]] = [(turn.role, turn.content) for turn in row.messages]
    return [("text", row.context)] if isinstance(row, ChoiceRow) and not messages else messages


def _expected(row: Row) -> list[str]:
    if row.kind == "generation":
        return list(row.references)
    if row.kind == "choice":
        return [row.choices[row.correct]]
    return [row.chosen] if row.kind == "preference" else []


def _answer(row: Row, answer: Answer) -> str:
    if isinstance(answer, Failed):
        return f"(no answer: {answer.reason})"
    if isinstance(answer, Generation):
        return answer.text if answer.stopped else f"{answer.text} … (cut off at the limit)"
    if isinstance(row, ChoiceRow):
        return "\n".join(_likely(text, one) for text, one in zip(row.choices, answer.of, strict=True))
    if isinstance(row, PreferenceRow):
        return "\n".join(_likely(text, one) for text, one in zip((row.chosen, row.rejected), answer.of, strict=True))
    return "\n".join(f"log-likelihood {figure(one.log_likelihood)} over {one.tokens} tokens" for one in answer.of)


def _likely(text: str, one: Likelihood) -> str:
    return f"{figure(one.log_likelihood)}: {text}"
