"""Single values of a row: what shape they have, and how they are read or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NoReturn

from hfkit.data.ledger import RowFault
from hfkit.data.words import wording

_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no"})
_DEEPEST = 64


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def is_text_or_turns(value: Any) -> bool:
    return isinstance(value, str) or is_turn(value) or is_turns(value)


def is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and ("role" in value or "from" in value)


def is_turns(value: Any) -> bool:
    return is_list(value) and len(value) > 0 and all(is_turn(turn) for turn in value)


def is_texts(value: Any) -> bool:
    """One text, or several."""
    return is_text(value) or (is_list(value) and all(is_text(item) for item in value))


def is_class(value: Any) -> bool:
    """A label: a word or a whole number."""
    if isinstance(value, float):
        return value.is_integer()
    if isinstance(value, str):
        return value.strip() != "" and not _is_fraction(value)
    return isinstance(value, int)


def is_number(value: Any) -> bool:
    if isinstance(value, str):
        return _number(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_decimal(value: Any) -> bool:
    """A number that is written with decimals, be they zero."""
    return isinstance(value, float) or (isinstance(value, str) and "." in value and _number(value) is not None)


def is_truth(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in _TRUE | _FALSE
    return isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1))


def text_of(value: Any, where: str) -> str:
    """`value`, which has to be text.

    Raises:
        RowFault: it is something else.
    """
    if isinstance(value, str):
        return value
    if value is None:
        raise RowFault("a value is missing", f"{where} is null or not there")
    raise RowFault("a value that is not text", f"{where} is {described(value)}")


def optional_text(value: Any, where: str) -> str | None:
    """The text, or None where the value is null or blank, as an empty cell of a table is."""
    if value is None:
        return None
    text = text_of(value, where)
    return text if text.strip() else None


def texts_in(value: Any, where: str) -> tuple[str, ...]:
    """One text or a list of them; passages may be mappings with a text and perhaps a title."""
    if value is None:
        return ()
    items = list(value) if is_list(value) else [value]
    return tuple(_passage(item, f"{where}.{number}") for number, item in enumerate(items))


def _passage(item: Any, where: str) -> str:
    if isinstance(item, Mapping) and isinstance(item.get("text"), str):
        title = optional_text(item.get("title"), f"{where}.title")
        text: str = item["text"]
        return f"{title}\n{text}" if title else text
    return text_of(item, where)


def class_of(value: Any, where: str) -> str | int:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    refuse("a label that is neither a word nor a whole number", value, where)


def number_of(value: Any, where: str) -> float:
    number: float | None = None
    if isinstance(value, str):
        number = _number(value)
    elif is_number(value):
        try:
            number = float(value)
        except OverflowError:
            number = None
    if number is None or not math.isfinite(number):
        refuse("a score that is not a number", value, where)
    return number


def truth_of(value: Any, where: str, reason: str) -> bool:
    """True or false, also written as 1 and 0 or as text."""
    if not is_truth(value):
        refuse(reason, value, where)
    return value.strip().lower() in _TRUE if isinstance(value, str) else bool(value)


def parsed(value: Any, where: str) -> Any:
    """`value`, read as JSON where it is the text of a list or an object: tables can hold no other."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    return read_json(value, where)


def read_json(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RowFault("text that should be JSON and is not", f"{where}: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def check_json(value: Any, where: str) -> None:
    """Raises RowFault where `value` is nested so deep that it could not be walked, or holds what JSON cannot write."""
    level = [value]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below += [*item.keys(), *item.values()]
            elif is_list(item):
                below += item
            elif isinstance(item, float) and not math.isfinite(item):
                raise RowFault("a number that JSON cannot write", f"{where} holds {item}")
        if not below:
            return
        level = below
    raise RowFault("values nested too deep", where)


def refuse(reason: str, value: Any, where: str) -> NoReturn:
    raise RowFault(reason, f"{where} is {described(value)}")


def described(value: Any) -> str:
    """What `value` is, in a few words, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "empty text" if not value.strip() else f"the text {_short(value)}"
    if isinstance(value, Mapping):
        return "an object with " + (", ".join(_short(str(key)) for key in list(value)[:4]) if value else "no keys")
    if is_list(value):
        return f"a list of {len(value)}"
    # Python refuses to write out integers of several thousand digits.
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of over 30 digits"
    return f"the number {value}" if isinstance(value, int | float) else f"of type {type(value).__name__}"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 40 else flat[:37] + "...")


def key_of(text: str, kind: str) -> str:
    """A name for a document that is known by its text alone, such as `context:9f86d081884c7d65`."""
    digest = blake2b(wording(text).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{kind}:{digest}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _is_fraction(text: str) -> bool:
    number = _number(text)
    return number is not None and not number.is_integer()
