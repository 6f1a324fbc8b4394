"""JSON and JSONL into text: `key: value` lines, a section for each row or item."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from rag.corpus import Document
from rag.limits import Limits
from rag.readers.decoding import decode, printable
from rag.readers.draft import Draft
from rag.readers.unreadable import Unreadable


def read_json(id: str, data: bytes, limits: Limits) -> Document:
    """A list gives a section for each item, an object one for each key, anything else one.

    Raises:
        Unreadable: it is no JSON, or nested too deep.
    """
    value = parsed(decode(data), "")
    draft = Draft(limits)
    if isinstance(value, list):
        for item in value:
            draft.section()
            draft.block(lines_of(item))
    elif isinstance(value, dict):
        for key, item in value.items():
            draft.section()
            draft.block(lines_of({key: item}))
    else:
        draft.block(lines_of(value))
    return draft.document(id, None, {})


def read_jsonl(id: str, data: bytes, limits: Limits) -> Document:
    """A section for each line.

    Raises:
        Unreadable: a line is no JSON, or nested too deep.
    """
    draft = Draft(limits)
    rows = 0
    for number, line in enumerate(decode(data).split("\n"), start=1):
        if line.strip():
            draft.section()
            draft.block(lines_of(parsed(line, f"line {number}: ")))
            rows += 1
    return draft.document(id, None, {"rows": rows})


def parsed(text: str, where: str) -> object:
    """Raises Unreadable, with `where` before the reason."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(f"{where}not JSON: {error}") from None
    except RecursionError:
        raise Unreadable(f"{where}JSON nested too deep") from None
    except ValueError as error:  # an integer of thousands of digits
        raise Unreadable(f"{where}not JSON that can be read: {error}") from None


def lines_of(value: object) -> str:
    """`path.to.key: value` on a line for each value that is not empty; lists of scalars on one line."""
    return "\n".join(f"{path}: {said}" if path else said for path, said in _leaves(value))


def _leaves(value: object) -> Iterator[tuple[str, str]]:
    waiting: list[tuple[str, object]] = [("", value)]
    while waiting:
        path, found = waiting.pop()
        if isinstance(found, dict):
            below = [(f"{path}.{key}" if path else str(key), inner) for key, inner in found.items()]
            waiting += reversed(below)
        elif isinstance(found, list) and any(isinstance(item, (dict, list)) for item in found):
            waiting += reversed([(path, inner) for inner in found])
        elif isinstance(found, list):
            said = ", ".join(text for item in found if (text := _scalar(item)))
            if said:
                yield path, said
        elif said := _scalar(found):
            yield path, said


def _scalar(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return printable(value).strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if isinstance(value, float) and not math.isfinite(value) else str(value)
