"""The columns of some rows, and which of them hold the fields of a format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from typing import Any

from hfkit.data.formats.format import Format, FormatField
from hfkit.data.sources.batch import Row

# Of the rows that show a column, how many must have the field's shape; and of all rows, how many must show the column.
# The others are faults of single rows.
_RIGHT_SHAPE = 0.8
_PRESENT = 0.5


class Columns:
    """What the first rows of a source show: names of columns, and values that are not null."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.names: tuple[str, ...] = tuple(dict.fromkeys(str(name) for row in rows for name in row))
        self._spelled: dict[str, list[str]] = {}
        for name in self.names:
            self._spelled.setdefault(spelled_plainly(name), []).append(name)

    def called(self, name: str) -> list[str]:
        """The columns of this name, whatever their case."""
        return [name] if name in self.names else self._spelled.get(name, [])

    def has(self, path: str) -> bool:
        """Whether any row has this column, or dotted path into one, be it null."""
        return path in self.names or any(reaches(row, path) for row in self._rows)

    def values(self, path: str) -> list[Any]:
        found = (value_at(row, path) for row in self._rows)
        return [value for value in found if value is not None]

    def looks_right(self, field: FormatField, path: str) -> bool:
        """Whether the values have the field's shape. Of a column that shows none nothing can be said against it."""
        values = self.values(path)
        return sum(map(field.looks_right, values)) >= _RIGHT_SHAPE * len(values)

    def is_filled(self, path: str) -> bool:
        return len(self.values(path)) >= max(1.0, _PRESENT * len(self._rows))

    def nearest(self, names: Iterable[str]) -> str | None:
        """The column whose name is most like one of `names`."""
        for name in names:
            near = get_close_matches(name, self._spelled, n=1, cutoff=0.75)
            if near:
                return self._spelled[near[0]][0]
        return None


def spelled_plainly(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")


def value_at(row: Row, path: str) -> Any:
    """The value of a column, or at a dotted path such as `data.turns.0.text`; None where there is none."""
    if path in row or "." not in path:
        return row.get(path)
    value: Any = row
    for part in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def reaches(row: Row, path: str) -> bool:
    """Whether `row` has something at `path`, be it null."""
    if path in row:
        return True
    around, dot, last = path.rpartition(".")
    inner = value_at(row, around) if dot else None
    if isinstance(inner, Mapping):
        return last in inner
    return value_at(row, path) is not None


@dataclass(frozen=True, slots=True)
class Resolved:
    """Which column holds which field.

    Attributes:
        columns: field to column.
        missing: required fields for which no column was found.
        open: fields that several columns could hold.
    """

    columns: Mapping[str, str]
    missing: tuple[FormatField, ...]
    open: Mapping[str, tuple[str, ...]]


def resolve(format: Format, columns: Columns, mapped: Mapping[str, str], by_shape: bool) -> Resolved:
    """Find the columns of a format's fields.

    `mapped` is what the recipe says. With `by_shape`, values have to look right and the columns to belong together, as
    detection wants it; without, names alone decide, as for a format that the recipe states.
    """
    choices: dict[str, list[str]] = {}
    for field in format.fields:
        choices[field.name] = _candidates(field, columns, mapped, by_shape)
    missing = tuple(field for field in format.required if not choices[field.name])
    if missing:
        return Resolved({name: found[0] for name, found in choices.items() if found}, missing, {})
    found = {name: candidates for name, candidates in choices.items() if candidates}
    ways = [dict(zip(found, way, strict=True)) for way in product(*found.values())]
    ways = [way for way in ways if len(set(way.values())) == len(way)]
    if by_shape:
        # Columns that the recipe itself maps are no guess, whatever they are called.
        ways = [
            way
            for way in ways
            if format.belongs({name: name if name in mapped else spelled_plainly(path) for name, path in way.items()})
        ]
    if not ways:
        return Resolved({}, format.required, {})
    open_fields = {
        name: tuple(dict.fromkeys(way[name] for way in ways)) for name in found if len({way[name] for way in ways}) > 1
    }
    return Resolved(ways[0], (), open_fields)


def _candidates(field: FormatField, columns: Columns, mapped: Mapping[str, str], by_shape: bool) -> list[str]:
    if field.name in mapped:
        return [mapped[field.name]]
    taken = set(mapped.values())
    found: list[str] = []
    for name in field.names:
        here = [
            column
            for column in columns.called(name)
            if column not in taken and (not by_shape or _fits(field, columns, column))
        ]
        if here and name == field.name:
            return here
        found += here
    return found


def _fits(field: FormatField, columns: Columns, column: str) -> bool:
    return columns.looks_right(field, column) and (not field.required or columns.is_filled(column))
