"""Rows of a dataset on their way to test rows: read with the names of their places, drafted, shown solved examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from hfkit.data.conversation import Turn
from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.sources import read_source
from hfkit.errors import RequestError
from hfkit.evaluation.rows import ChoiceRow, GenerationRow, PreferenceRow, Row, TextRow
from hfkit.recipe.tasks import TaskData

Columns = Mapping[str, Any]
"""One row of a dataset: column names to plain JSON values."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A row before it is decided what stands before its prompt.

    Attributes:
        id: where it stands.
        prompt: what is asked; where it ends with a space, that space belongs to what follows.
        references: of a reply.
        choices, correct: of a choice.
        replies: the better and the worse one, of a preference.
        solution: what a solved example shows as the reply.
        group, slices, facts: as in the rows.
        system: a system prompt.
        shots: whose solved examples it may be shown: those of drafts with the same word.
    """

    id: str
    prompt: str
    solution: str
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    correct: int = 0
    replies: tuple[str, str] | None = None
    group: str | None = None
    slices: dict[str, str | float] = field(default_factory=dict)
    facts: dict[str, JsonValue] = field(default_factory=dict)
    system: str | None = None
    shots: str = ""


Drafting = Callable[[Columns, str], Draft]
"""A row's columns, and its place, to a draft. Raises RowFault where the row is not what it should be."""


def read_drafts(data: TaskData, default_split: str, drafting: Drafting, name: str) -> tuple[list[Draft], list[str]]:
    """All drafts of a task's data, as many as will be asked or shown, and remarks on rows that cannot be used.

    Raises:
        RequestError: the data cannot be read, or none of its rows can be used; the first is named.
    """
    ledger = Ledger()
    drafts: list[Draft] = []
    wanted = None if data.limit is None else data.limit + data.few_shot
    for columns, place in located_rows(data, default_split, ledger):
        try:
            drafts.append(drafting(columns, place))
        except RowFault as fault:
            ledger.drop(fault.reason, place, fault.detail)
        # Examples that are shown may be those of a group of rows, which only all rows tell.
        if wanted is not None and len(drafts) >= wanted and not (data.few_shot and drafts[0].shots):
            break
    if not drafts:
        first = ledger.dropped[0]
        raise RequestError(f"evaluate.tasks: {name}: no row can be used; {first.reason}: {first.first[0]}")
    return drafts, dropped_in_words(ledger)


def located_rows(data: TaskData, default_split: str, ledger: Ledger) -> Iterator[tuple[Columns, str]]:
    """Each row of the data with its place."""
    for batch in read_source(data.source(default_split), ledger):
        for columns, place in zip(batch.rows, batch.places, strict=True):
            if _is_whole(columns):
                yield columns, place
            else:
                ledger.drop("text with half of a surrogate pair, which no tokenizer takes", place)


def _is_whole(value: Any) -> bool:
    """Whether all text in `value` can be kept as UTF-8: JSON can hold halves of surrogate pairs, which cannot."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, Mapping):
        return all(_is_whole(key) and _is_whole(inner) for key, inner in value.items())
    return not isinstance(value, list | tuple) or all(map(_is_whole, value))


def dropped_in_words(ledger: Ledger) -> list[str]:
    return [
        f"{account.rows} row{'s were' if account.rows > 1 else ' was'} not asked: {account.reason}, such as "
        f"{account.first[0]}."
        for account in ledger.dropped
    ]


def finished_rows(drafts: Sequence[Draft], data: TaskData, *, chat: bool) -> list[Row]:
    """The rows that are asked, behind the solved examples that each is shown.

    Raises:
        RequestError: there are not more rows than examples.
    """
    shown: dict[str, list[Draft]] = {}
    asked: list[Draft] = []
    for draft in drafts:
        before = shown.setdefault(draft.shots, [])
        if len(before) < data.few_shot:
            before.append(draft)
        else:
            asked.append(draft)
    if not asked:
        raise RequestError(f"evaluate.tasks: few_shot: all {len(drafts)} rows are shown as examples, none is left")
    return [_row(draft, shown[draft.shots], chat=chat) for draft in asked[: data.limit]]


def _row(draft: Draft, shots: Sequence[Draft], *, chat: bool) -> Row:
    given: dict[str, Any] = {"id": draft.id, "group": draft.group or draft.id, "slices": draft.slices}
    if draft.replies is not None:
        chosen, rejected = draft.replies
        return PreferenceRow(**given, messages=_messages(draft, shots), chosen=chosen, rejected=rejected)
    if draft.choices:
        given |= {"choices": draft.choices, "correct": draft.correct}
        if chat:
            return ChoiceRow(**given, messages=_messages(draft, shots))
        solved = "".join(f"{shot.prompt}{shot.solution}\n\n" for shot in shots)
        start = "" if draft.system is None else f"{draft.system}\n\n"
        return ChoiceRow(**given, context=start + solved + draft.prompt)
    return GenerationRow(**given, messages=_messages(draft, shots), references=draft.references, facts=draft.facts)


def _messages(draft: Draft, shots: Sequence[Draft]) -> tuple[Turn, ...]:
    system = () if draft.system is None else (Turn(role="system", content=draft.system),)
    solved = [turn for shot in shots for turn in (_asks(shot), Turn(role="assistant", content=shot.solution))]
    return (*system, *solved, _asks(draft))


def _asks(draft: Draft) -> Turn:
    return Turn(role="user", content=draft.prompt.rstrip(" "))


def text_row(text: str, place: str, group: str | None, slices: dict[str, str | float]) -> TextRow:
    if not text:
        raise RowFault("an empty text")
    return TextRow(id=place, group=group or place, slices=slices, text=text)


# What columns must hold.


def text_of(columns: Columns, key: str) -> str:
    """Raises RowFault where the column is missing or holds no text."""
    value = value_of(columns, key)
    if not isinstance(value, str):
        raise RowFault(f"the column {key} holds no text", f"{value!r:.60}")
    if not value.strip():
        raise RowFault(f"the column {key} is empty")
    return value


def value_of(columns: Columns, key: str) -> Any:
    """Raises RowFault where the column is missing."""
    if key not in columns:
        raise RowFault(f"the column {key} is missing", f"there are {', '.join(map(str, columns))}"[:200])
    return columns[key]


def texts_of(columns: Columns, key: str, least: int = 1) -> tuple[str, ...]:
    """A list of texts, or one text. Raises RowFault where there are fewer than `least`, or one is no text."""
    value = value_of(columns, key)
    found = [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else value
    if not isinstance(found, list):
        raise RowFault(f"the column {key} holds no list of texts", f"{value!r:.60}")
    texts = tuple(str(one) for one in found if isinstance(one, str | int | float) and not isinstance(one, bool))
    if len(texts) < len(found):
        raise RowFault(f"the column {key} holds what is no text", f"{value!r:.60}")
    if len(texts) < least:
        raise RowFault(f"the column {key} holds {len(texts)} of at least {least} texts")
    return texts


def chosen_number(value: Any, choices: Sequence[str], key: str, labels: Sequence[str] = ()) -> int:
    """Which of `choices` a value means: its text, its number from 0, or its letter. Where choices have `labels`, it is
    the label of one, or else the text, and never a number or a letter of another kind.

    Raises:
        RowFault: it means none of them.
    """
    # Labels come first: with choices that are numbers, "3" may be the text of one and the label of another.
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip() in labels:
        return list(labels).index(str(value).strip())
    if isinstance(value, str) and value in choices:
        return list(choices).index(value)
    number: int | None = value if isinstance(value, int) and not isinstance(value, bool) else None
    if labels:
        number = None
    elif isinstance(value, str):
        word = value.strip()
        if word.isascii() and word.isdigit():
            number = int(word)
        elif len(word) == 1 and "A" <= word.upper() <= "Z":
            number = ord(word.upper()) - ord("A")
    if number is None or not 0 <= number < len(choices):
        raise RowFault(f"the column {key} names none of the {len(choices)} choices", f"{value!r:.60}")
    return number
