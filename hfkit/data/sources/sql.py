"""Rows that a query gives, with bound values, read piece by piece."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import JsonValue

from hfkit.artifact import file_sha256
from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.sources.batch import Located
from hfkit.data.sources.database import Database, database_name
from hfkit.data.sources.naming import short_hash
from hfkit.data.sources.plain_values import plain
from hfkit.errors import RequestError
from hfkit.recipe import SqlSource

if TYPE_CHECKING:
    from sqlalchemy import TextClause

NAME = "sql"

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_QUERY = re.compile(r"[\s(]*(select|with|values|table|from)\b", re.IGNORECASE)
# Numbers and short values beside which a row's text is not worth counting twice.
_BYTES_BESIDE = 64


def sql_name(source: SqlSource) -> str:
    """What the places of the query's rows begin with, such as `sql:3f29ab`: query, values and database tell it from
    others. How the query is broken into lines does not matter.

    Raises:
        RequestError: the URL is none, or SQLAlchemy is not installed.
    """
    query = " ".join(source.sql.rstrip("; \t\r\n").split())
    told = {"sql": query, "parameters": dict(source.parameters), "database": database_name(source.url)}
    return f"{NAME}:{short_hash(told)}"


def sql_rows(source: SqlSource, ledger: Ledger, batch_rows: int) -> Iterator[Located]:
    """The query's rows, in the order in which the database gives them; dates, decimals and the like as plain values.

    Raises:
        RequestError: the database cannot be reached or refuses the query, the query is none, values and their names do
        not fit, or two columns have one name.
    """
    from sqlalchemy.exc import SQLAlchemyError

    query = _query(source)
    database = Database(source.url)
    name = sql_name(source)
    # A cursor on the server's side. The option yield_per does nothing for queries that are text, and without a size
    # partitions() would fetch everything at once.
    streaming = {"stream_results": True, "max_row_buffer": batch_rows}
    numbers = count()
    with database.connection() as connection:
        result = connection.execute(query, dict(source.parameters), execution_options=streaming)
        if not result.returns_rows:
            raise RequestError(f"{NAME}: the statement gives no rows; only queries can be read")
        columns = list(result.keys())
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise RequestError(f"{NAME}: two columns are named {', '.join(twice)}; give one another name with AS")
        parts = result.partitions(batch_rows)
        while True:
            try:
                part = next(parts, None)
            except SQLAlchemyError as error:
                raise database.refusal(error, f"{name}#{next(numbers)}") from error
            if part is None:
                return
            for values, number in zip(part, numbers, strict=False):
                place = f"{name}#{number}"
                try:
                    row = {column: plain(value, column) for column, value in zip(columns, values, strict=True)}
                except RowFault as fault:
                    ledger.drop(fault.reason, place, fault.detail)
                    continue
                yield row, place, sum(len(value) if isinstance(value, str) else 8 for value in values) + _BYTES_BESIDE


def sql_identity(source: SqlSource) -> JsonValue:
    """Query, values and database; of SQLite its content too. What a server holds is not known without asking for it."""
    database = Database(source.url)
    content: JsonValue = None
    if database.file is not None:
        log = Path(f"{database.file}-wal")
        try:
            # What was committed last may still stand in the log.
            content = [file_sha256(path) for path in (database.file, log) if path.is_file() and path.stat().st_size]
        except OSError as error:
            raise RequestError(f"url: {database.name}: cannot be read: {error}") from error
    # Where rows have other names than before, they are prepared again.
    return {
        "sql": source.sql,
        "parameters": dict(source.parameters),
        "database": database.name,
        "content": content,
        "rows": sql_name(source),
    }


def check_sql(source: SqlSource) -> tuple[Literal["ok", "note"], str]:
    """Whether the query can be asked. SQLite compiles it, without running it; servers are left alone.

    Raises:
        RequestError: as `sql_rows`, as far as this can be known.
    """
    from sqlalchemy import text

    query = _query(source)
    database = Database(source.url)
    if database.file is None:
        return "note", f"{database.name} will be asked when the data stage runs"
    with database.connection() as connection:
        connection.execute(text(f"EXPLAIN {query.text}"), dict(source.parameters)).close()
    return "ok", f"{database.name} understands the query"


def _query(source: SqlSource) -> TextClause:
    """The query, whose names are those that have values.

    What is no query is for the database to refuse, and it does. But drivers differ in what they make of two statements
    in one text, so there may be only one.
    """
    try:
        from sqlalchemy import text
    except ModuleNotFoundError as error:
        raise RequestError(f"{NAME}: reading a database needs SQLAlchemy: pip install 'hfkit[sql]'") from error

    bare = _COMMENT.sub(" ", source.sql).strip()
    if not _QUERY.match(bare):
        raise RequestError(f"{NAME}: {bare[:40]!r} is no query; one starts with SELECT, WITH or VALUES")
    if ";" in bare.rstrip("; \t\r\n"):
        raise RequestError(f"{NAME}: a semicolon inside the query: write one query, and a text with one as a :name")
    query = text(source.sql.rstrip("; \t\r\n"))
    names = set(query.compile().params)
    unbound = sorted(names - set(source.parameters))
    if unbound:
        raise RequestError(
            f"{NAME}: the query's :{unbound[0]} has no value; give it one in parameters, as {unbound[0]}: …, or write "
            f"\\:{unbound[0]} where no value is meant"
        )
    unused = sorted(set(source.parameters) - names)
    if unused:
        raise RequestError(f"{NAME}: parameters has {unused[0]}, and the query has no :{unused[0]}")
    return query
