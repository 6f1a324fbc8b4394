"""Sources: where rows come from. Each gives batches of rows with the names of their places, and never all at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import JsonValue

from hfkit.data.ledger import Ledger
from hfkit.data.sources.batch import Batch, Located, Row, in_batches
from hfkit.data.sources.files import list_files
from hfkit.data.sources.function import check_function, function_identity, function_name, function_rows
from hfkit.data.sources.hub import check_hub, hub_identity, hub_name, hub_rows
from hfkit.data.sources.path import check_path, path_identity, path_rows
from hfkit.data.sources.sql import NAME as SQL
from hfkit.data.sources.sql import check_sql, sql_identity, sql_name, sql_rows
from hfkit.errors import RequestError
from hfkit.recipe import CallableSource, HubSource, PathSource, ReadSource, SqlSource

__all__ = ["Batch", "Row", "check_source", "identify_source", "place_names", "read_source"]


def read_source(
    source: ReadSource, ledger: Ledger, *, batch_rows: int = 8192, allow_code: bool = False
) -> Iterator[Batch]:
    """The source's rows, at most `batch_rows` at a time; those that cannot be read are dropped into `ledger`.

    A row's place is `FILE:LINE`, `FILE.json[NUMBER]`, `FILE.parquet#NUMBER`, `FILE.txt`,
    `hub:ID[:CONFIG]/SPLIT[@REVISION]#NUMBER`, `sql:HASH#NUMBER` or `MODULE:FUNCTION[:HASH]#NUMBER`: no two sources have
    a place in common unless they read the same thing. Lines are counted from 1, numbers from 0.

    Raises:
        RequestError: the source cannot be read, or not to its end; it gives no rows; or it is a Python function and
            `allow_code` is False.
    """
    before = {account.reason: account.rows for account in ledger.dropped}
    given = False
    for batch in in_batches(_rows(source, ledger, batch_rows, allow_code), batch_rows):
        given = True
        yield batch
    if not given:
        raise RequestError(f"{_name(source)}: holds no rows{_what_was_dropped(ledger, before)}")


def place_names(source: ReadSource) -> frozenset[str]:
    """What the places of the source's rows begin with. Two sources can have a row in common only where they have one of
    these in common.

    Raises:
        RequestError: the source cannot be read.
    """
    match source:
        case PathSource():
            return frozenset(file.name for file in list_files(source.path).files)
        case HubSource():
            return frozenset({hub_name(source)})
        case SqlSource():
            return frozenset({sql_name(source)})
        case CallableSource():
            return frozenset({function_name(source)})


def identify_source(source: ReadSource) -> JsonValue:
    """What the source's content is, so that a change of it is noticed. Holds no password.

    Raises:
        RequestError: the source cannot be read.
    """
    match source:
        case PathSource():
            return path_identity(source)
        case HubSource():
            return hub_identity(source)
        case SqlSource():
            return sql_identity(source)
        case CallableSource():
            return function_identity(source)


def check_source(source: ReadSource, *, allow_code: bool = False) -> tuple[Literal["ok", "note", "error"], str]:
    """What can be said of the source at once: nothing large is read, nothing fetched, no server asked, no code run."""
    try:
        match source:
            case PathSource():
                return "ok", check_path(source)
            case HubSource():
                return check_hub(source)
            case SqlSource():
                return check_sql(source)
            case CallableSource():
                _refuse_code(source, allow_code)
                return "ok", check_function(source)
    except RequestError as error:
        return "error", str(error)


def _rows(source: ReadSource, ledger: Ledger, batch_rows: int, allow_code: bool) -> Iterator[Located]:
    match source:
        case PathSource():
            return path_rows(source, ledger, batch_rows)
        case HubSource():
            return hub_rows(source, ledger, batch_rows)
        case SqlSource():
            return sql_rows(source, ledger, batch_rows)
        case CallableSource():
            _refuse_code(source, allow_code)
            return function_rows(source, ledger)


def _refuse_code(source: CallableSource, allow_code: bool) -> None:
    if not allow_code:
        raise RequestError(
            f"{source.callable}: a recipe runs Python functions only if it says so; if you trust this one, add the "
            "line allow_code: true to the recipe"
        )


def _name(source: ReadSource) -> str:
    match source:
        case PathSource():
            return source.path
        case HubSource():
            return hub_name(source)
        case SqlSource():
            return SQL
        case CallableSource():
            return source.callable


def _what_was_dropped(ledger: Ledger, before: dict[str, int]) -> str:
    """Why no row is left, where there were some. Examples are told of reasons that no other source has had before."""
    told = []
    for account in ledger.dropped:
        rows = account.rows - before.get(account.reason, 0)
        if rows:
            example = "" if account.reason in before else f", such as {account.first[0]}"
            told.append(f"{rows} row{'s' if rows > 1 else ''}: {account.reason}{example}")
    return f" that can be used ({'; '.join(told)})" if told else ""
