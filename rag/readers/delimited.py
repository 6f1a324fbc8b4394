"""CSV and TSV into text: a section a row, each value behind its column's name."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from rag.corpus import Document
from rag.limits import Limits
from rag.readers.decoding import decode
from rag.readers.draft import Draft, one_line
from rag.readers.unreadable import Unreadable

_COLUMNS = 1_000


def read_csv(id: str, data: bytes, limits: Limits) -> Document:
    """Comma-separated values, or semicolon-separated where the head has more of those.

    Raises:
        Unreadable: it is no text, has no row under its head, or too many columns.
    """
    text = decode(data)
    head = text[: text.find("\n")] if "\n" in text else text
    return _document(id, text, ";" if head.count(";") > head.count(",") else ",", limits)


def read_tsv(id: str, data: bytes, limits: Limits) -> Document:
    """Tab-separated values. Raises as `read_csv`."""
    return _document(id, decode(data), "\t", limits)


def rows_of(text: str, delimiter: str, limits: Limits) -> Iterator[tuple[int, list[str], list[str]]]:
    """(line, names of the columns, values) of each row under the head; a value past the last name gets its number.

    Raises:
        Unreadable: the text is no such table.
    """
    csv.field_size_limit(max(limits.characters, 131_072))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = [one_line(name) for name in next(reader, [])]
        if len(names) > _COLUMNS:
            raise Unreadable(f"{len(names):,} columns, more than the {_COLUMNS:,} that a table may have")
        for values in reader:
            if len(values) > _COLUMNS:
                raise Unreadable(f"line {reader.line_num} has {len(values):,} values, more than {_COLUMNS:,}")
            numbered = [f"column {number}" for number in range(len(names) + 1, len(values) + 1)]
            yield reader.line_num, names + numbered, values
    except csv.Error as error:
        raise Unreadable(f"line {reader.line_num}: {error}") from None


def row_text(names: Sequence[str], values: Sequence[str]) -> str:
    """`name: value` on a line each; what is empty is left out."""
    pairs = ((name, value.strip()) for name, value in zip(names, values, strict=False))
    return "\n".join(f"{name}: {value}" if name else value for name, value in pairs if value)


def _document(id: str, text: str, delimiter: str, limits: Limits) -> Document:
    draft = Draft(limits)
    names: list[str] = []
    rows = 0
    for _, names, values in rows_of(text, delimiter, limits):
        draft.section()
        draft.block(row_text(names, values))
        rows += 1
    if not rows:
        raise Unreadable("a head without rows, or no table")
    return draft.document(id, None, {"columns": ", ".join(names), "rows": rows})
