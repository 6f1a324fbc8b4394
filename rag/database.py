"""The SQLite file of an index: how it is made, opened, checked and written, and what its errors mean to the user."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rag.errors import DamagedIndexError, RagError, RagRequestError

# Of the tables below. A file of a newer format is refused.
FORMAT_VERSION = 1
# In the file's header: tells an index from any other SQLite file.
_APPLICATION_ID = 0x72616731
_SCHEMA = (
    """CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE documents (
        key INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        text TEXT NOT NULL,
        sections TEXT NOT NULL
    )""",
    """CREATE TABLE chunks (
        id INTEGER PRIMARY KEY,
        document INTEGER NOT NULL REFERENCES documents (key) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        heading_path TEXT NOT NULL,
        heading TEXT NOT NULL,
        start INTEGER NOT NULL,
        "end" INTEGER NOT NULL,
        text TEXT NOT NULL,
        tokens INTEGER NOT NULL,
        embedded_sha256 BLOB NOT NULL,
        vector BLOB NOT NULL,
        UNIQUE (document, position)
    )""",
    """CREATE INDEX chunks_embedded ON chunks (embedded_sha256)""",
    """CREATE VIRTUAL TABLE chunks_text USING fts5 (
        heading, text, content = 'chunks', content_rowid = 'id', tokenize = 'porter unicode61'
    )""",
    """CREATE TRIGGER chunks_inserted AFTER INSERT ON chunks BEGIN
        INSERT INTO chunks_text (rowid, heading, text) VALUES (new.id, new.heading, new.text);
    END""",
    """CREATE TRIGGER chunks_deleted AFTER DELETE ON chunks BEGIN
        INSERT INTO chunks_text (chunks_text, rowid, heading, text) VALUES ('delete', old.id, old.heading, old.text);
    END""",
    """CREATE TRIGGER chunks_updated AFTER UPDATE OF id, heading, text ON chunks BEGIN
        INSERT INTO chunks_text (chunks_text, rowid, heading, text) VALUES ('delete', old.id, old.heading, old.text);
        INSERT INTO chunks_text (rowid, heading, text) VALUES (new.id, new.heading, new.text);
    END""",
)

Row = tuple[object, ...]


class DatabaseBusyError(RagError):
    """Another process holds the write lock."""


class Database:
    """One connection. Safe to use from several threads: each call, and each block, holds a lock."""

    def __init__(self, path: Path, connection: sqlite3.Connection, writable: bool, wait_seconds: float) -> None:
        self.path, self.writable = path, writable
        self._connection, self._wait_seconds = connection, wait_seconds
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path, wait_seconds: float, first_meta: Mapping[str, str] | None = None) -> Database:
        """Opens the file and checks it. With `first_meta` a missing file is made, with these rows in its `meta` table;
        a creation that was cut off is made anew.

        Raises:
            RagRequestError: nothing is there.
            RagError: it is damaged, no index, of a newer format, or cannot be read.
        """
        database = cls._connect(path, wait_seconds, create=first_meta is not None)
        try:
            if first_meta is not None and database.writable:
                database._create_if_blank(first_meta)
            database._check()
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def _connect(cls, path: Path, wait_seconds: float, create: bool) -> Database:
        if create:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RagError(f"the folder {path.parent} cannot be made: {error.strerror}") from error
        if not path.exists() and not create:
            raise RagRequestError(
                f"there is no index in {path.parent} (no file {path.name}); index the documents first"
            )
        writable = os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
        if not writable and not path.exists():
            raise RagError(f"{path.parent} is read-only, so no index can be made in it")
        if not writable and _has_content(path.with_name(f"{path.name}-wal")):
            raise RagError(
                f"{path} has an unfinished journal and cannot be written; open the index once where it can be written"
            )
        # Without write access SQLite cannot keep the files by which readers and writers agree: nobody else may write.
        access = ("rwc" if create else "rw") if writable else "ro&immutable=1"
        with explained(path, wait_seconds):
            connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={access}",
                uri=True,
                timeout=wait_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA synchronous = FULL")  # what is committed survives a power cut
            except sqlite3.Error:
                connection.close()
                raise
        return cls(path, connection, writable, wait_seconds)

    def _create_if_blank(self, first_meta: Mapping[str, str]) -> None:
        blank = "SELECT count(*) FROM sqlite_master"
        if self.value(blank) != 0:
            return
        self.execute("PRAGMA journal_mode = WAL")
        with self.transaction():
            if self.value(blank) == 0:  # still, now that nobody else can write
                for statement in _SCHEMA:
                    self.execute(statement)
                self.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
                for key, value in first_meta.items():
                    self.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, value))

    def _check(self) -> None:
        if self.value("PRAGMA application_id") != _APPLICATION_ID:
            raise RagError(
                f"{self.path} is a SQLite file but no finished index; choose another folder, or delete this one and "
                "index again"
            )
        version = int(str(self.value("PRAGMA user_version")))
        if version > FORMAT_VERSION:
            raise RagError(
                f"{self.path} has the format {version} and this version reads up to {FORMAT_VERSION}; update the "
                "software, or delete the folder and index again"
            )
        problems = [str(row[0]) for row in self.rows("PRAGMA quick_check(3)")]
        if problems != ["ok"]:
            raise self.damaged("; ".join(problems))

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def damaged(self, what: str) -> DamagedIndexError:
        """The error to raise for a file that does not hold what it must."""
        return _damaged(self.path, what)

    def rows(self, query: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[Row]:
        """Every row of a query."""
        with self._lock, explained(self.path, self._wait_seconds):
            return self._connection.execute(query, values).fetchall()

    def value(self, query: str) -> object:
        """The one value of a query."""
        return self.rows(query)[0][0]

    def execute(self, statement: str, values: Sequence[object] = ()) -> int:
        """Runs a statement and gives the id of the row it inserted, if it did."""
        with self._lock, explained(self.path, self._wait_seconds):
            return self._connection.execute(statement, values).lastrowid or 0

    def execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        with self._lock, explained(self.path, self._wait_seconds):
            self._connection.executemany(statement, rows)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one generation, whatever other processes write meanwhile."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()

    @contextmanager
    def transaction(self, wait: bool = True) -> Iterator[None]:
        """One writer at a time, waited for (or not); all of it is committed, or nothing."""
        with self._lock, explained(self.path, self._wait_seconds if wait else 0):
            if not self.writable:
                raise RagError(f"{self.path} cannot be written")
            self._connection.execute(f"PRAGMA busy_timeout = {round(1000 * self._wait_seconds) if wait else 0}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.commit()
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back by itself
                    self._connection.rollback()
                raise

    def settle(self) -> None:
        """Moves the journal into the file, so that the file alone is whole; a reader at work may put this off."""
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def explained(path: Path, wait_seconds: float) -> Iterator[None]:
    """SQLite's errors and a full disk, in the user's words."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "is full" in text:
            raise _full(path) from error
        if "is locked" in text:
            raise DatabaseBusyError(
                f"{path} is being written by another process (waited {wait_seconds:g} s); run again when it is done"
            ) from error
        if "fts5" in text and "no such module" in text:
            raise RagError("this Python's SQLite lacks FTS5, the full-text search that an index needs") from error
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in text and "no such" not in text:
            raise RagError(
                f"{path} cannot be used: {text}; check that the disk and the permissions allow it"
            ) from error
        raise _damaged(path, text) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(path) from error
        raise


def _full(path: Path) -> RagError:
    return RagError(f"the disk that holds {path} is full; nothing committed is lost: free space and run again")


def _damaged(path: Path, what: str) -> DamagedIndexError:
    return DamagedIndexError(
        f"{path} is damaged or no index: {what}. Everything in it is derived from the documents: delete the folder "
        f"{path.parent} and index again"
    )


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
