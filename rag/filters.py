"""Which documents may be found: a filter in the user's words into parameterised SQL.

A filter maps names to conditions, and all of them must hold:

    {"author": "Ada", "year": {"gte": 2020, "lt": 2024}, "source": {"glob": "docs/*"}, "document": ["a.md", "b.md"]}

A name is `document` (the document's id), `source`, `title`, or a key of the documents' metadata. A condition is a value
(equal to it), a list (equal to one of them), or a mapping of operators, all of which must hold:

| operator | holds where the value |
|---|---|
| `eq`, `ne` | is, or is not, this value |
| `in`, `not_in` | is, or is not, one of this list |
| `gt`, `gte`, `lt`, `lte` | is greater, less ... than this number, or stands after, before ... this text |
| `glob` | is a text of this pattern: `*` any characters, `?` one, `[a-z]` one of these; cases differ |
| `exists` | is there at all (`true`), or is not (`false`) |

Numbers compare with numbers, texts with texts (by code points) and booleans with booleans: nothing is converted, so
2020 is not "2020". A document without the key fulfils `ne`, `not_in` and `exists: false` alone.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from rag.errors import RagRequestError
from rag.store import Ids, Store

Scalar = str | int | float | bool
Condition = Scalar | Sequence[Scalar] | Mapping[str, Scalar | Sequence[Scalar]]
Filter = Mapping[str, Condition]

_COLUMNS = {
    "document": "documents.id",
    "source": "CASE documents.source WHEN '' THEN documents.id ELSE documents.source END",
    "title": "documents.title",
}
_COMPARISONS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "glob": "GLOB"}
_OPERATORS = ("eq", "ne", "in", "not_in", "gt", "gte", "lt", "lte", "glob", "exists")
_LONGEST_PATTERN = 1000


def check_filter(filter: object) -> Filter:
    """The filter, where it is in this language.

    Raises:
        RagRequestError: naming what is not.
    """
    if not isinstance(filter, Mapping):
        raise RagRequestError(f"search.filter is {filter!r}; it must map names to conditions, like author: Ada")
    for name, condition in filter.items():
        if not isinstance(name, str) or not name:
            raise RagRequestError(f"search.filter: {name!r} is no name of metadata; it must be text")
        _operations(name, condition)
    return filter


def allowed_chunks(store: Store, filter: Filter | None, documents: Collection[str] | None) -> Ids | None:
    """int64 ascending: the chunks of the documents that the filter allows and that are among `documents`; None where
    neither says anything. Call it in a snapshot.

    Raises:
        RagRequestError: the filter is not in this language, asks for metadata that no document has, or `documents`
            names one that the index does not hold.
    """
    if filter is None and documents is None:
        return None
    conditions: list[str] = []
    values: list[object] = []
    if documents is not None:
        _check_documents(store, documents)
        conditions.append("documents.id IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(sorted(documents)))
    for name, condition in check_filter(filter or {}).items():
        _check_name(store, name)
        for operator, operand in _operations(name, condition):
            sql, bound = _as_sql(name, operator, operand)
            conditions.append(sql)
            values += bound
    holding = " AND ".join(f"({condition})" for condition in conditions) or "1"
    query = f"SELECT chunks.id FROM documents JOIN chunks ON chunks.document = documents.key WHERE {holding}"
    blocks = [np.array(block, dtype=np.int64).ravel() for block in store.database.blocks(query, values, 65536)]
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *blocks]))


def _operations(name: str, condition: object) -> list[tuple[str, object]]:
    """(operator, operand) pairs that must all hold, each of the right kind."""
    if isinstance(condition, Mapping):
        if not condition:
            raise RagRequestError(f"search.filter.{name} is empty; it needs an operator, like gte")
        return [_checked(name, operator, operand) for operator, operand in condition.items()]
    if isinstance(condition, Sequence) and not isinstance(condition, str):
        return [_checked(name, "in", condition)]
    return [_checked(name, "eq", condition)]


def _checked(name: str, operator: object, operand: object) -> tuple[str, object]:
    where = f"search.filter.{name}"
    if operator not in _OPERATORS:
        near = difflib.get_close_matches(str(operator), _OPERATORS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RagRequestError(f"{where}: unknown operator {operator!r}{hint} (there are {', '.join(_OPERATORS)})")
    key = str(operator)
    if key in ("in", "not_in"):
        if not isinstance(operand, Sequence) or isinstance(operand, str):
            raise RagRequestError(f"{where}.{key} is {operand!r}; it must be a list")
        return key, [_scalar(where, entry) for entry in operand]
    if key == "exists":
        if not isinstance(operand, bool):
            raise RagRequestError(f"{where}.exists is {operand!r}; it must be true or false")
        return key, operand
    value = _scalar(where, operand)
    if key == "glob" and (not isinstance(value, str) or len(value) > _LONGEST_PATTERN):
        raise RagRequestError(f"{where}.glob is {operand!r:.80}; it must be a pattern of up to 1,000 characters")
    if key in ("gt", "gte", "lt", "lte") and isinstance(value, bool):
        raise RagRequestError(f"{where}.{key} is {operand!r}; it must be a number or a text")
    return key, value


def _scalar(where: str, value: object) -> Scalar:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, bool) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    kind = "a number out of range" if isinstance(value, int | float) else type(value).__name__
    raise RagRequestError(f"{where} is {value!r:.80} ({kind}); it must be a text, a number, true or false")


def _as_sql(name: str, operator: str, operand: object) -> tuple[str, list[object]]:
    """A condition over the table documents, and the values of its question marks."""
    if operator in ("ne", "not_in"):
        sql, values = _as_sql(name, "eq" if operator == "ne" else "in", operand)
        return f"NOT ({sql})", values
    if operator == "in":
        parts = [_as_sql(name, "eq", entry) for entry in operand] if isinstance(operand, list) else []
        return " OR ".join(sql for sql, _ in parts) or "0", [value for _, values in parts for value in values]
    if operator == "exists":
        if name in _COLUMNS:
            return str(int(bool(operand))), []
        there = "EXISTS (SELECT 1 FROM json_each(documents.metadata) WHERE key = ?)"
        return there if operand else f"NOT {there}", [name]
    comparison = _COMPARISONS[operator]
    if name in _COLUMNS:
        return (f"{_COLUMNS[name]} {comparison} ?", [operand]) if isinstance(operand, str) else ("0", [])
    kinds = _json_types(operand)
    held = f"key = ? AND type IN ({kinds}) AND atom {comparison} ?"
    return f"EXISTS (SELECT 1 FROM json_each(documents.metadata) WHERE {held})", [name, operand]


def _json_types(operand: object) -> str:
    """What SQLite calls the JSON values that compare with this one."""
    if isinstance(operand, bool):
        return "'true', 'false'"
    return "'text'" if isinstance(operand, str) else "'integer', 'real'"


def _check_documents(store: Store, documents: Collection[str]) -> None:
    query = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT id FROM documents) LIMIT 1"
    for (missing,) in store.database.rows(query, [json.dumps(sorted(documents))]):
        near = difflib.get_close_matches(str(missing), store.hashes(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise RagRequestError(f"the index holds no document {missing!r}{hint}")


def _check_name(store: Store, name: str) -> None:
    """A name that no document has is a typing error sooner than a wish for nothing."""
    if name in _COLUMNS:
        return
    there = "SELECT 1 FROM documents, json_each(documents.metadata) WHERE json_each.key = ? LIMIT 1"
    if store.database.rows(there, [name]) or not store.database.rows("SELECT 1 FROM documents LIMIT 1"):
        return
    rows = store.database.rows("SELECT DISTINCT json_each.key FROM documents, json_each(documents.metadata)")
    known = [*_COLUMNS, *sorted(str(row[0]) for row in rows)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[:20])}"
    raise RagRequestError(f"search.filter: no document has {name!r}; {hint}")
