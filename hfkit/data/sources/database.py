"""Databases, as SQLAlchemy opens them: to read, never to write. No message shows a password."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from hfkit.data.sources.files import shown
from hfkit.errors import RequestError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

_FROM_ENVIRONMENT = "env:"
_READ_ONLY = {
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
}


class Database:
    """A database that a recipe names by its URL, or by `env:NAME`.

    Attributes:
        name: what messages and fingerprints call it: its URL without password and options.
        file: where it lies, for SQLite; None for servers.
    """

    def __init__(self, text: str) -> None:
        """Raises RequestError: the URL is none, the variable is not set, the driver or the SQLite file is missing."""
        self._url = _parsed(text)
        self.name = _described(self._url)
        self.file = _sqlite_file(self._url, self.name) if self._url.get_backend_name() == "sqlite" else None
        self._engine = self._make_engine()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection whose transaction is never committed, read-only wherever the database can be told so.

        Within it what the database complains of is a RequestError.
        """
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.connect() as connection:
                backend = self._url.get_backend_name()
                if backend == "postgresql":
                    connection.execution_options(postgresql_readonly=True)
                elif backend in _READ_ONLY:
                    connection.exec_driver_sql(_READ_ONLY[backend])
                    connection.commit()
                yield connection
        except (SQLAlchemyError, sqlite3.Warning) as error:
            raise self.refusal(error) from error
        finally:
            self._engine.dispose()

    def refusal(self, error: Exception, place: str = "sql") -> RequestError:
        """What an error of SQLAlchemy's or of the driver's means to the user."""
        from sqlalchemy.exc import DBAPIError

        said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        text = (str(said).strip() or type(said).__name__).splitlines()[0]
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return RequestError(f"{place}: {self.name}: {text}")

    def _secrets(self) -> Sequence[str]:
        options = [value for value in self._url.query.values() if isinstance(value, str) and len(value) > 3]
        return [str(self._url.password), *options] if self._url.password else options

    def _make_engine(self) -> Engine:
        from sqlalchemy import create_engine, event
        from sqlalchemy.exc import SQLAlchemyError

        url = self._url
        if self.file is not None:
            # A database that is not there is not made, and one that is there is not changed.
            query = {**url.query, "mode": "ro", "uri": "true"}
            url = url.set(database=f"file:{quote(str(self.file.absolute()))}", query=query)
        try:
            engine = create_engine(url)
        except ModuleNotFoundError as error:
            raise RequestError(
                f"url: {self.name}: the driver {error.name} is not installed; install it, or name another in the URL"
            ) from error
        except (SQLAlchemyError, TypeError, ValueError) as error:
            raise self.refusal(error, "url") from error
        if engine.dialect.is_async:
            raise RequestError(f"url: {self.name}: the driver {engine.dialect.driver} is asynchronous; name another")
        if self.file is not None:
            event.listen(engine, "connect", _allow_reading_only)
        return engine


def database_name(text: str) -> str:
    """What tells a recipe's databases apart: `env:NAME` as it stands, which is the same on every machine; else the URL
    without password and options.

    Raises:
        RequestError: the URL is none, or SQLAlchemy is not installed.
    """
    return text if text.startswith(_FROM_ENVIRONMENT) else _described(_parsed(text))


def _parsed(text: str) -> URL:
    try:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError
    except ModuleNotFoundError as error:
        raise RequestError("url: reading a database needs SQLAlchemy: pip install 'hfkit[sql]'") from error

    if text.startswith(_FROM_ENVIRONMENT):
        variable = text.removeprefix(_FROM_ENVIRONMENT)
        if not variable.strip():
            raise RequestError(
                "url: env: names no environment variable; write env:NAME, and the database's URL in NAME"
            )
        if not os.environ.get(variable):
            raise RequestError(f"url: the environment variable {variable} is not set; it must hold the database's URL")
        text = os.environ[variable]
        said = f"what the environment variable {variable} holds"
    else:
        said = "this"
    try:
        return make_url(text)
    except (ArgumentError, ValueError) as error:
        # The text is not shown: a password may stand in it, wherever its writer went wrong.
        raise RequestError(
            f"url: {said} is no database's URL; one looks like sqlite:///chats.db or "
            "postgresql+psycopg://reader@host/name"
        ) from error


def _described(url: URL) -> str:
    return url.set(query={}).render_as_string(hide_password=True)


def _sqlite_file(url: URL, name: str) -> Path:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise RequestError(f"url: {name}: names no file; write sqlite:///chats.db, or sqlite:////data/chats.db")
    path = Path(url.database)
    if path.is_dir():
        raise RequestError(f"url: {name}: {shown(path)} is a folder, not a database")
    if not path.is_file():
        raise RequestError(f"url: {name}: there is no file {shown(path)}; relative paths start where hfkit is run")
    return path


def _allow_reading_only(connection: sqlite3.Connection, _: object) -> None:
    """Opening a file read-only is not enough: ATTACH and VACUUM INTO would still make files."""
    connection.execute("PRAGMA query_only = ON")
    connection.set_authorizer(_authorize)


def _authorize(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK
