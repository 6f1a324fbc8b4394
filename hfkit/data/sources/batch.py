"""Rows as a source gives them, before anybody has asked what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
"""One row: column names to plain JSON values (null, booleans, numbers, text, lists, mappings)."""

Located: TypeAlias = tuple[Row, str, int]
"""A row, the name of its place, and about how many bytes it takes up."""

# Rows can be as long as a book: what is in memory at a time is bounded in bytes too.
_BATCH_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows in the source's order. `places[i]` names where `rows[i]` stands, such as `chats.jsonl:17`."""

    rows: Sequence[Row]
    places: Sequence[str]


def in_batches(located: Iterable[Located], batch_rows: int) -> Iterator[Batch]:
    """At most `batch_rows` rows at a time, and fewer where they are long."""
    rows: list[Row] = []
    places: list[str] = []
    size = 0
    for row, place, row_bytes in located:
        rows.append(row)
        places.append(place)
        size += row_bytes
        if len(rows) >= batch_rows or size >= _BATCH_BYTES:
            yield Batch(rows, places)
            rows, places, size = [], [], 0
    if rows:
        yield Batch(rows, places)
