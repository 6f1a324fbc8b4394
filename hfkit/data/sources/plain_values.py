"""What databases, Parquet files and functions give, as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from numbers import Integral, Real
from uuid import UUID

from pydantic import JsonValue

from hfkit.data.ledger import RowFault

MAX_DEPTH = 100
"""How deep lists and objects may be nested in a row. Nothing that is trained on comes near it, and what is written and
read again further on must not run out of stack."""

TOO_DEEP = "nested too deeply"
NOT_FINITE = "NaN or an infinite number"


def plain_row(row: Mapping[str, object]) -> dict[str, JsonValue]:
    """`row` with plain values.

    Raises:
        RowFault: a value has no counterpart in JSON; its column is named.
    """
    return {name: plain(value, name) for name, value in row.items()}


def plain(value: object, where: str, depth: int = 0) -> JsonValue:
    """`value` as JSON has it: dates and times as ISO 8601 writes them, durations in seconds, NaN as null.

    Decimals become numbers: integers where nothing stands behind the point, else the nearest float.

    Raises:
        RowFault: there is no such thing in JSON: binary data, infinities, a type of somebody's own.
    """
    match value:
        case None | bool() | str():
            return value
        case float():
            return _finite(value, where)
        case Decimal():
            if value.is_finite() and value == value.to_integral_value():
                return int(value)
            return _finite(float(value), where)
        case Integral():
            return int(value)
        case Real():
            return _finite(float(value), where)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID():
            return str(value)
        case bytes() | bytearray() | memoryview():
            raise RowFault("binary data", f"in {where}; leave the column out, or make it text where it is one")
        case Mapping():
            _check_depth(depth, where)
            return {_name(key, where): plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
        case Sequence() | Set():
            _check_depth(depth, where)
            items = sorted(value, key=str) if isinstance(value, Set) else value
            return [plain(item, f"{where}.{number}", depth + 1) for number, item in enumerate(items)]
    raise RowFault("a value that is no JSON", f"{where} is of the type {type(value).__name__}; make it text")


def is_too_deep(value: object) -> bool:
    """Whether lists and objects are nested deeper than MAX_DEPTH; never runs out of stack itself."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def _finite(value: float, where: str) -> float | None:
    """NaN is how number columns say that nothing is there."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise RowFault(NOT_FINITE, f"in {where}")
    return value


def _check_depth(depth: int, where: str) -> None:
    if depth >= MAX_DEPTH:
        raise RowFault(TOO_DEEP, f"{where[:100]} is deeper than {MAX_DEPTH} levels")


def _name(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise RowFault("a key that is no text", f"{where} has the key {key!r:.100}")
    return key
