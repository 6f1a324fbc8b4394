"""JSON rows, with nothing lost on the way: a key that stands twice, NaN and numbers without bounds are faults."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import orjson

from hfkit.data.ledger import RowFault
from hfkit.data.sources.plain_values import MAX_DEPTH, NOT_FINITE, TOO_DEEP, is_too_deep

NOT_UTF8 = "not UTF-8 text"
NOT_JSON = "not valid JSON"
NOT_AN_OBJECT = "not a JSON object"
TWICE = "a key that stands twice"


def parse_object(line: bytes) -> dict[str, Any]:
    """The object that `line`, in UTF-8, holds.

    Raises:
        RowFault: it is not UTF-8, not JSON or no object, it says a key twice, or it is nested too deeply.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_strictly(line)
    if type(value) is not dict:
        raise _no_object(value)
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and is_too_deep(value):
        raise RowFault(TOO_DEEP, f"deeper than {MAX_DEPTH} levels")
    # orjson keeps the last of two equal keys and rounds integers of more than 64 bits, and says nothing of either.
    # Written out again such a row has fewer quotes, or a number with an exponent. An escaped quote confuses the count.
    again = orjson.dumps(value)
    if again.count(b'"') != line.count(b'"') or b"\\u0022" in line or b"e+" in again:
        return _parse_strictly(line)
    return value


def as_object(value: object) -> dict[str, Any]:
    """`value`, which was parsed from JSON, as a row. Raises RowFault where it is no object or nested too deeply."""
    if not isinstance(value, dict):
        raise _no_object(value)
    if is_too_deep(value):
        raise RowFault(TOO_DEEP, f"deeper than {MAX_DEPTH} levels")
    return value


class StrictDecoder:
    """Decodes one value of a text at a time.

    Attributes:
        fault: what was wrong with the last value beyond its syntax, None where nothing was.
    """

    def __init__(self) -> None:
        self.fault: RowFault | None = None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def decode(self, text: str, start: int = 0) -> tuple[Any, int]:
        """The value that starts at `start`, and where it ends.

        Raises:
            ValueError: no JSON; of the type json.JSONDecodeError but for integers of thousands of digits.
            RecursionError: nested beyond what the parser can take.
        """
        self.fault = None
        return self._decoder.raw_decode(text, start)

    def _object(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            self.fault = self.fault or RowFault(TWICE, f"{twice[:100]!r}")
        return made

    def _constant(self, name: str) -> None:
        self.fault = self.fault or RowFault(NOT_FINITE, f"{name}, which JSON does not have")

    def _float(self, text: str) -> float:
        value = float(text)
        if math.isinf(value):
            self.fault = self.fault or RowFault(NOT_FINITE, f"{text[:50]} is larger than any float")
        return value


def utf8_fault(error: UnicodeDecodeError) -> RowFault:
    return RowFault(NOT_UTF8, f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}: {error.reason}")


def _parse_strictly(line: bytes) -> dict[str, Any]:
    """Slower, and says what is wrong. Lone surrogates pass: the quality gates look for them."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise utf8_fault(error) from error
    text = text.strip(" \t\r\n")
    decoder = StrictDecoder()
    try:
        value, end = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise RowFault(NOT_JSON, f"{error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise RowFault(NOT_JSON, "a number of thousands of digits") from error
    except RecursionError as error:
        raise RowFault(TOO_DEEP, f"deeper than {MAX_DEPTH} levels") from error
    if end < len(text):
        raise RowFault(NOT_JSON, f"more after the end of the value at column {end + 1}")
    if decoder.fault is not None:
        raise decoder.fault
    return as_object(value)


def _no_object(value: object) -> RowFault:
    if isinstance(value, list):
        return RowFault(NOT_AN_OBJECT, "a list; a file that is one list of rows is named .json")
    kinds = {bool: "true or false", type(None): "null", str: "text", int: "a number", float: "a number"}
    return RowFault(NOT_AN_OBJECT, kinds[type(value)])
