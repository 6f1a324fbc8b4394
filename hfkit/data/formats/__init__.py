"""The shapes that rows come in, told apart by their columns and values, and made into canonical examples.

chosen = choose_format(first_rows, "auto", {}, "data.sources.0")
chosen.why                      # "prompt_completion, told from the columns prompt and completion"
example = chosen.convert(row, id="chats.jsonl:17")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import ValidationError

from hfkit.data.conversation import Metadata
from hfkit.data.examples import Example, Kind
from hfkit.data.formats.alpaca import ALPACA
from hfkit.data.formats.columns import Columns, Resolved, resolve, spelled_plainly, value_at
from hfkit.data.formats.format import Format, Origin
from hfkit.data.formats.labelled_text import LABELLED_TEXT
from hfkit.data.formats.messages import MESSAGES
from hfkit.data.formats.misfits import (
    ambiguous,
    check_fields,
    in_words,
    nothing_fits,
    open_field,
    stated_lacks,
)
from hfkit.data.formats.preference import PREFERENCE
from hfkit.data.formats.prompt_completion import PROMPT_COMPLETION
from hfkit.data.formats.question_answer import QUESTION_ANSWER, articles_flattened
from hfkit.data.formats.rated_reply import RATED_REPLY
from hfkit.data.formats.retrieval import RETRIEVAL
from hfkit.data.formats.sharegpt import SHAREGPT
from hfkit.data.formats.text import TEXT
from hfkit.data.formats.text_pair import TEXT_PAIR
from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.sources.batch import Row
from hfkit.errors import RequestError
from hfkit.recipe.data import FormatName

FORMATS: Mapping[FormatName, Format] = {
    format.name: format
    for format in (
        MESSAGES,
        SHAREGPT,
        PROMPT_COMPLETION,
        ALPACA,
        TEXT,
        PREFERENCE,
        RATED_REPLY,
        LABELLED_TEXT,
        TEXT_PAIR,
        RETRIEVAL,
        QUESTION_ANSWER,
    )
}

SAMPLE = 200
"""How many of a source's first rows are looked at."""


@dataclass(frozen=True, slots=True)
class ChosenFormat:
    """The format of a source's rows.

    Attributes:
        name: the format.
        kind: the canonical type that its rows become.
        why: what it was told from, in a sentence's words.
        notes: what the user should know about the columns, such as one that looks misspelt.
        columns: the column that holds each field that was found.
    """

    name: FormatName
    kind: Kind
    why: str
    notes: tuple[str, ...]
    columns: Mapping[str, str]
    _paths: tuple[tuple[str, tuple[str, ...]], ...]

    def expand(self, row: Row, place: str) -> Iterator[tuple[Row, str]]:
        """The rows that a row stands for, each with a place of its own: itself, or the questions of one article as
        SQuAD's JSON nests them, at `chats.jsonl:17/0` and on."""
        inner = list(articles_flattened(row)) if self.name == "question_answer" else [row]
        if len(inner) == 1:
            yield inner[0], place
        else:
            yield from ((one, f"{place}/{number}") for number, one in enumerate(inner))

    def convert(
        self,
        row: Row,
        *,
        id: str,
        document: str | None = None,
        metadata: Metadata | None = None,
        system: str | None = None,
        ledger: Ledger | None = None,
    ) -> Example:
        """The example that `row` is.

        Args:
            id: where it stands, such as `chats.jsonl:17`.
            document: what it belongs to; None lets the format decide: an article or a prompt that several rows share
                where the format knows of one, else the row itself.
            metadata: the columns that the recipe keeps.
            system: a system prompt for conversations that have none.
            ledger: where remarks about rows that stay are counted.

        Raises:
            RowFault: the row is not of this format, or an example could not hold all that it says.
        """
        origin = Origin(id, document, metadata or {}, system, Ledger() if ledger is None else ledger)
        try:
            return FORMATS[self.name].convert(self._values(row), origin)
        except ValidationError as error:
            if not any(fault["type"] == "string_unicode" for fault in error.errors()):
                raise _fault_of(error) from None
        except UnicodeEncodeError:
            pass
        except RecursionError:
            raise RowFault("values nested too deep") from None
        # Half of a surrogate pair cannot be kept. As a replacement character it is found by the quality gates.
        try:
            cleaned = Origin(_whole(id), document, _whole(origin.metadata), system, origin.ledger)
            return FORMATS[self.name].convert(_whole(self._values(row)), cleaned)
        except ValidationError as error:
            raise _fault_of(error) from None
        except RecursionError:
            raise RowFault("values nested too deep") from None

    def _values(self, row: Row) -> dict[str, Any]:
        values = {}
        for name, paths in self._paths:
            value = None
            for path in paths:
                value = row.get(path) if path in row else value_at(row, path)
                if value is not None:
                    break
            values[name] = value
        return values


def choose_format(
    rows: Sequence[Row], stated: Literal["auto"] | FormatName, fields: Mapping[str, str], key: str
) -> ChosenFormat:
    """Tell the format of a source from its first rows, or check the one that the recipe states.

    Args:
        rows: the source's first rows; the first SAMPLE of them are looked at.
        stated: the recipe's `format`.
        fields: the recipe's `fields`: field to column, or to a dotted path such as `data.question`.
        key: where the source stands in the recipe, such as `data.sources.0`.

    Raises:
        RequestError: no format fits, or more than one does, or a column is missing; it says the line that settles it.
    """
    if not rows:
        raise RequestError(f"{key}: there are no rows to tell the format from")
    sample = [inner for row in rows[:SAMPLE] for inner in articles_flattened(row)][: 5 * SAMPLE]
    columns = Columns(sample)
    check_fields(fields, list(FORMATS.values()) if stated == "auto" else [FORMATS[stated]], columns, key)
    if stated != "auto":
        format = FORMATS[stated]
        resolved = resolve(format, columns, fields, by_shape=False)
        if resolved.missing:
            raise stated_lacks(format, resolved, columns, fields, key)
        return _chosen(format, resolved, columns, key, "as the recipe says, from")
    # A format that does not know a field which the recipe maps is not meant.
    meant = [format for format in FORMATS.values() if all(format.field_named(name) for name in fields)]
    tried = {format.name: resolve(format, columns, fields, by_shape=True) for format in meant}
    fitting = [name for name, resolved in tried.items() if not resolved.missing]
    best = [name for name in fitting if not any(_says_more(tried[other], tried[name], other) for other in fitting)]
    if not best:
        raise nothing_fits(meant, columns, fields, key)
    if len(best) > 1:
        raise ambiguous({name: tried[name].columns for name in best}, key)
    return _chosen(FORMATS[best[0]], tried[best[0]], columns, key, "told from")


def _says_more(one: Resolved, other: Resolved, name: FormatName) -> bool:
    """Whether `one`, of the format `name`, explains all the columns that `other` does, and more of them."""
    more = set(one.columns.values()) - set(other.columns.values())
    if not more or not set(other.columns.values()) < set(one.columns.values()):
        return False
    loose = {alias for field in FORMATS[name].fields for alias in field.loose}
    return any(spelled_plainly(column) not in loose for column in more)


def _chosen(format: Format, resolved: Resolved, columns: Columns, key: str, how: str) -> ChosenFormat:
    for name, could_be in resolved.open.items():
        raise open_field(format, name, could_be, key)
    used = set(resolved.columns.values())
    unread = [name for name in columns.names if name not in {path.split(".")[0] for path in used} | used]
    absent = [field for field in format.fields if field.name not in resolved.columns]
    notes = []
    for column in unread:
        near = get_close_matches(spelled_plainly(column), [n for field in absent for n in field.names], 1, 0.8)
        if near:
            field = next(field for field in absent if near[0] in field.names)
            notes.append(
                f"{key}: the column {column} is not used; if it is {field.name}, write fields: "
                f"{{{field.name}: {column}}}"
            )
    paths: list[tuple[str, tuple[str, ...]]] = []
    for field in format.fields:
        if field.name in resolved.columns:
            paths.append((field.name, (resolved.columns[field.name],)))
        else:
            # Rows further on may have what the first ones lack.
            paths.append((field.name, tuple(name for name in field.names if name not in columns.names)))
    found = [
        column if spelled_plainly(column) == name else f"{column} ({name})" for name, column in resolved.columns.items()
    ]
    why = f"{format.name}, {how} the column{'s' if len(found) > 1 else ''} {in_words(found)}"
    return ChosenFormat(format.name, format.kind, why, tuple(notes), dict(resolved.columns), tuple(paths))


def _fault_of(error: ValidationError) -> RowFault:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return RowFault("values that an example cannot hold", f"{where}: {first['msg']}" if where else first["msg"])


def _whole(value: Any) -> Any:
    """`value` with U+FFFD in the place of every lone surrogate in its text, keys included."""
    if isinstance(value, str):
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)
    if isinstance(value, Mapping):
        return {_whole(key): _whole(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(inner) for inner in value]
    return value
