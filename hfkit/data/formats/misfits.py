"""What is said where a format is not certain: what was found, what came near, and the line that settles it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from hfkit.data.formats.columns import Columns, Resolved, resolve
from hfkit.data.formats.format import Format, FormatField
from hfkit.data.formats.values import described
from hfkit.errors import RequestError

_NEAREST = 3
_COLUMNS_SHOWN = 20


def check_fields(fields: Mapping[str, str], formats: Sequence[Format], columns: Columns, key: str) -> None:
    """Raises RequestError where the recipe maps a field that no format in question has, or names no column."""
    known = list(dict.fromkeys(field.name for format in formats for field in format.fields))
    for name, column in fields.items():
        if name not in known:
            near = get_close_matches(name.lower(), known, n=1)
            whose = f"{formats[0].name} has" if len(formats) == 1 else "there is"
            hint = f"did you mean {near[0]}?" if near else f"the fields are {in_words(known)}"
            raise RequestError(f"{key}.fields.{name}: {whose} no such field; {hint}")
        if not columns.has(column):
            raise RequestError(f"{key}.fields.{name}: the rows have no column {column}; {_meant(column, columns)}")


def _meant(column: str, columns: Columns) -> str:
    near = columns.nearest([column.lower()])
    return f"did you mean {near}?" if near is not None else f"they have {_listed(columns.names)}"


def stated_lacks(
    format: Format, resolved: Resolved, columns: Columns, fields: Mapping[str, str], key: str
) -> RequestError:
    """The recipe states a format, and the rows have no columns for all of its fields."""
    missing = in_words([field.name for field in resolved.missing])
    return RequestError(
        f"{key}.format: {format.name} needs {missing}, and the rows have no such column; they have "
        f"{_listed(columns.names)}; {_remedy(format, resolved, columns, fields)}"
    )


def nothing_fits(formats: Sequence[Format], columns: Columns, fields: Mapping[str, str], key: str) -> RequestError:
    """No format has all it needs."""
    if not formats:
        return RequestError(f"{key}.fields: no format has all of the fields {in_words(list(fields))}")
    if not columns.names:
        return RequestError(f"{key}: the rows have no columns at all")
    by_name = [(format, resolve(format, columns, fields, by_shape=False)) for format in formats]
    by_name.sort(key=lambda tried: _distance(tried[0], tried[1], columns))
    lines = [f"{key}.format: no format fits the columns {_listed(columns.names)}. The nearest are:"]
    for format, resolved in by_name[:_NEAREST]:
        lines.append(f"  {format.name}: {_lack(format, resolved, columns)}")
    format, resolved = by_name[0]
    if resolved.missing:
        lines.append(
            f"State the format and map its fields; for {format.name}, {_remedy(format, resolved, columns, fields)}"
        )
    else:
        lines.append(f"Where one of them is meant, write format: {format.name}; rows that differ are then counted.")
    return RequestError("\n".join(lines))


def ambiguous(candidates: Mapping[str, Mapping[str, str]], key: str) -> RequestError:
    """Several formats fit, and none of them explains more of the columns than the others."""
    fits = " and ".join(f"{name} ({', '.join(columns.values())})" for name, columns in candidates.items())
    lines = " or ".join(f"format: {name}" for name in candidates)
    return RequestError(f"{key}.format: the rows fit {fits}; write {lines}")


def open_field(format: Format, name: str, columns: Sequence[str], key: str) -> RequestError:
    """The format is certain, and which of several columns holds a field is not."""
    lines = " or ".join(f"fields: {{{name}: {column}}}" for column in columns)
    return RequestError(f"{key}.fields: {name} of {format.name} could be {in_words(columns, 'or')}; write {lines}")


def _distance(format: Format, resolved: Resolved, columns: Columns) -> tuple[bool, int, float, int]:
    """How far the columns are from a format: smaller is nearer."""
    taken = set(resolved.columns.values())
    misspelt = guessed = 0
    for field in resolved.missing:
        misspelt += columns.nearest([field.name]) is not None
        guess = _guess(field, columns, taken)
        if guess is not None:
            guessed += 1
            taken.add(guess)
    impossible = guessed < len(resolved.missing)
    lacking = (len(resolved.missing) - misspelt) / len(format.required)
    named = sum(name in columns.names for name in resolved.columns)
    return impossible, -misspelt, lacking, -named - len(taken)


def _lack(format: Format, resolved: Resolved, columns: Columns) -> str:
    if resolved.missing:
        return f"lacks {in_words([f'{field.name} ({field.shape})' for field in resolved.missing])}"
    for name, column in resolved.columns.items():
        field = format.field_named(name)
        if field is None or (columns.looks_right(field, column) and (not field.required or columns.is_filled(column))):
            continue
        wrong = [value for value in columns.values(column) if not field.looks_right(value)]
        if wrong:
            return f"needs {field.shape} in {column}, which holds {described(wrong[0])}"
        return f"needs {name}, and most rows have nothing in {column}"
    return f"the columns {in_words(list(resolved.columns.values()))} could be it, and are seldom meant so"


def _remedy(format: Format, resolved: Resolved, columns: Columns, fields: Mapping[str, str]) -> str:
    """The line that would map what is missing, with the columns that come nearest or are left."""
    taken = set(resolved.columns.values())
    mapped = dict(fields)
    for field in resolved.missing:
        guess = _guess(field, columns, taken)
        if guess is None:
            mapped[field.name] = "COLUMN"
        else:
            taken.add(guess)
            mapped[field.name] = guess
    line = ", ".join(f"{name}: {column}" for name, column in mapped.items())
    return f"write format: {format.name} and fields: {{{line}}}" + (
        " with the columns that are meant" if "COLUMN" in mapped.values() else ""
    )


def _guess(field: FormatField, columns: Columns, taken: set[str]) -> str | None:
    near = columns.nearest(field.names)
    if near is not None and near not in taken:
        return near
    left = [name for name in columns.names if name not in taken and columns.values(name)]
    return next((name for name in left if columns.looks_right(field, name)), None)


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "no columns at all"
    more = len(names) - _COLUMNS_SHOWN
    return ", ".join(names[:_COLUMNS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def in_words(words: Iterable[str], last: str = "and") -> str:
    *most, final = words
    return f"{', '.join(most)} {last} {final}" if most else final
