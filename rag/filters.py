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
import hashlib
import json
import math
import re
import threading
from collections import OrderedDict
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
# A name that a path of SQLite's can quote as it is, and that JSON writes as it is.
_PLAIN_NAME = re.compile(r"[ !#-\[\]-~]+")
# Chunk ids, of eight bytes, that are kept for filters that are asked again; the latest are kept in any case.
_MOST_KEPT = 1 << 22


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


class AllowedChunks:
    """The chunks that filters allow. What the latest ones allowed in one generation is kept, so that a filter that is
    asked again costs no look at the documents. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token = ""
        self._kept: OrderedDict[bytes, Ids] = OrderedDict()

    def find(self, store: Store, filter: Filter | None, documents: Collection[str] | None) -> Ids | None:
        """int64 ascending, not to be written into: the chunks of the documents that the filter allows and that are
        among `documents`; None where neither says anything. Call it in a snapshot.

        Raises:
            RagRequestError: the filter is not in this language, asks for metadata that no document has, or `documents`
                names one that the index does not hold.
        """
        if filter is None and documents is None:
            return None
        asked = {name: _operations(name, condition) for name, condition in check_filter(filter or {}).items()}
        wanted = None if documents is None else sorted(documents)
        key = hashlib.sha256(json.dumps([asked, wanted], sort_keys=True).encode("ascii")).digest()
        token = store.token
        with self._lock:
            if token != self._token:
                self._token = token
                self._kept.clear()
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = _look_up(store, asked, wanted)
        with self._lock:
            if token == self._token:
                self._kept[key] = found
                while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _MOST_KEPT:
                    self._kept.popitem(last=False)
        return found


def _look_up(store: Store, asked: Mapping[str, list[tuple[str, object]]], documents: list[str] | None) -> Ids:
    conditions: list[str] = []
    values: list[object] = []
    if documents is not None:
        _check_documents(store, documents)
        conditions.append("documents.id IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(documents))
    for name, operations in asked.items():
        _check_name(store, name)
        for operator, operand in operations:
            sql, bound = _as_sql(name, operator, operand)
            conditions.append(sql)
            values += bound
    holding = " AND ".join(f"({condition})" for condition in conditions) or "1"
    # A cross join reads the documents first: the filter is asked once for each of them, and not for each chunk.
    query = f"SELECT chunks.id FROM documents CROSS JOIN chunks ON chunks.document = documents.key WHERE {holding}"
    blocks = [np.fromiter((row[0] for row in block), np.int64) for block in store.database.blocks(query, values, 65536)]
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
    """A condition over the table documents that is 0 or 1, and the values of its question marks."""
    if operator in ("ne", "not_in"):
        sql, values = _as_sql(name, "eq" if operator == "ne" else "in", operand)
        return f"NOT ({sql})", values
    if operator == "in":
        return _one_of(name, operand if isinstance(operand, list) else [])
    if operator == "exists":
        if name in _COLUMNS:
            return str(int(bool(operand))), []
        there, values = _held(name)
        return there if operand else f"NOT {there}", values
    comparison = _COMPARISONS[operator]
    if name in _COLUMNS:
        return (f"{_COLUMNS[name]} {comparison} ?", [operand]) if isinstance(operand, str) else ("0", [])
    return _held(name, _json_types(operand), f"{comparison} ?", [operand])


def _one_of(name: str, operands: Sequence[object]) -> tuple[str, list[object]]:
    """One list for each kind of values: a condition for each value would be deeper than SQLite reads."""
    if name in _COLUMNS:
        texts = json.dumps([operand for operand in operands if isinstance(operand, str)])
        return f"{_COLUMNS[name]} IN (SELECT value FROM json_each(?))", [texts]
    kinds: dict[str, list[object]] = {}
    for operand in operands:
        kinds.setdefault(_json_types(operand), []).append(operand)
    conditions: list[str] = []
    values: list[object] = []
    for types, alike in kinds.items():
        # JSON's true and false are 1 and 0 by either way, and numbers are read alike there and in the metadata.
        sql, bound = _held(name, types, "IN (SELECT value FROM json_each(?))", [json.dumps(alike)])
        conditions.append(sql)
        values += bound
    return " OR ".join(conditions) or "0", values


def _held(name: str, types: str = "", compared: str = "", values: Sequence[object] = ()) -> tuple[str, list[object]]:
    """That a document's metadata hold this name, with a value of these types, if given, that compares so."""
    if _PLAIN_NAME.fullmatch(name):  # by a path, which can quote it: several times as fast as listing the metadata
        path = f'$."{name}"'
        if not types:
            return "(json_type(documents.metadata, ?) IS NOT NULL)", [path]
        typed = f"json_type(documents.metadata, ?) IN ({types})"
        # Without the key this would be NULL, which no NOT turns round.
        return f"(({typed} AND json_extract(documents.metadata, ?) {compared}) IS TRUE)", [path, path, *values]
    held = f"key = ? AND type IN ({types}) AND atom {compared}" if types else "key = ?"
    return f"EXISTS (SELECT 1 FROM json_each(documents.metadata) WHERE {held})", [name, *values]


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
    there, values = _held(name)
    if store.database.rows(f"SELECT 1 FROM documents WHERE {there} LIMIT 1", values):
        return
    if not store.database.rows("SELECT 1 FROM documents LIMIT 1"):
        return
    rows = store.database.rows("SELECT DISTINCT json_each.key FROM documents, json_each(documents.metadata)")
    known = [*_COLUMNS, *sorted(str(row[0]) for row in rows)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[:20])}"
    raise RagRequestError(f"search.filter: no document has {name!r}; {hint}")
