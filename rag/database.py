"""The SQLite file of an index: how it is made, opened, checked and written, and what its errors mean to the user."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rag.errors import DamagedIndexError, IncompatibleIndexError, RagError, RagRequestError

# Of the tables below. A file of another format is refused.
FORMAT_VERSION = 2
# In the file's header: tells an index from any other SQLite file.
_APPLICATION_ID = 0x72616731
# Up to this size all pages are checked at every opening; above it that would take seconds, and `verify` does it.
_CHECKED_WHOLE = 16 << 20
# Ids are never given twice (AUTOINCREMENT), and a chunk never changes: an id stands for one vector for ever, so that a
# vectors file of any generation says what it still has to learn, and to forget.
_SCHEMA = (
    """CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE documents (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        source TEXT NOT NULL,
        metadata TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        checksum INTEGER NOT NULL
    )""",
    """CREATE TABLE texts (
        document INTEGER PRIMARY KEY REFERENCES documents (key) ON DELETE CASCADE,
        text TEXT NOT NULL,
        sections TEXT NOT NULL
    )""",
    """CREATE TABLE chunks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        document INTEGER NOT NULL REFERENCES documents (key) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        heading_path TEXT NOT NULL,
        heading TEXT NOT NULL,
        start INTEGER NOT NULL,
        "end" INTEGER NOT NULL,
        page INTEGER,
        text TEXT NOT NULL,
        tokens INTEGER NOT NULL,
        embedded_sha256 BLOB NOT NULL,
        checksum INTEGER NOT NULL,
        UNIQUE (document, position)
    )""",
    """CREATE TABLE vectors (
        chunk INTEGER PRIMARY KEY REFERENCES chunks (id) ON DELETE CASCADE,
        vector BLOB NOT NULL
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
FileState = tuple[int, ...]


class DatabaseBusyError(RagError):
    """Another process holds the write lock."""


class Database:
    """One connection. Safe to use from several threads: each call, and each block, holds a lock."""

    def __init__(self, path: Path, wait_seconds: float, create: bool) -> None:
        """Use `open`."""
        self.path = path
        self._wait_seconds = wait_seconds
        self._lock = threading.RLock()
        self.writable = False
        self._alone = False
        self._seen: FileState = ()
        self._connection = self._connect(create)

    @classmethod
    def open(
        cls, path: Path, wait_seconds: float, first_meta: Mapping[str, str] | None = None, checked: bool = True
    ) -> Database:
        """Opens the file and checks what can be checked at once: the header, the format, the size, and of a file of up
        to 16 MiB all pages. With `first_meta` a missing file is made, with these rows in its `meta` table; a creation
        that was cut off is made anew. Without `checked` even a damaged file opens, to save what can be read.

        Raises:
            RagRequestError: nothing is there.
            RagError: it is damaged, no index, of another format, or cannot be read.
        """
        database = cls(path, wait_seconds, create=first_meta is not None)
        try:
            if first_meta is not None and database.writable:
                database._create_if_blank(first_meta)
            if checked:
                database._check()
        except BaseException:
            database.close()
            raise
        return database

    def _connect(self, create: bool) -> sqlite3.Connection:
        path, folder = self.path, self.path.parent
        if folder.exists() and not folder.is_dir():
            raise RagRequestError(f"{folder} is a file; an index is a folder")
        if create:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RagError(f"the folder {folder} cannot be made: {error.strerror}") from error
        if not path.exists() and not create:
            raise RagRequestError(f"there is no index in {folder} (no file {path.name}); index the documents first")
        self.writable = os.access(folder, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
        if not self.writable and not path.exists():
            raise RagError(f"{folder} is read-only, so no index can be made in it")
        # Readers and writers agree by way of the -shm file, which somebody who may not write cannot make. Where there
        # is none nobody has the index open to write, and the file is read as one that does not change; `snapshot` sees
        # to it that this is still so.
        self._alone = not self.writable and not _sibling(path, "-shm").exists()
        if self._alone and _has_content(_sibling(path, "-wal")):
            raise RagError(
                f"{path} has an unfinished journal and cannot be written; open the index once where it can be written"
            )
        self._seen = _state(path)
        access = ("rwc" if create else "rw") if self.writable else ("ro&immutable=1" if self._alone else "ro")
        with explained(path, self._wait_seconds):
            connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={access}",
                uri=True,
                timeout=self._wait_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA synchronous = FULL")  # what is committed survives a power cut
                connection.execute("PRAGMA cache_size = -16384")  # in KiB: all inner pages of a million chunks
            except BaseException:
                connection.close()
                raise
        return connection

    def _create_if_blank(self, first_meta: Mapping[str, str]) -> None:
        blank = "SELECT count(*) FROM sqlite_master"
        if self.value(blank) != 0:
            return
        self.execute("PRAGMA page_size = 8192")  # five vectors of 384 float32 to a page, not two
        self.execute("PRAGMA journal_mode = WAL")
        with self.transaction():
            if self.value(blank) == 0:  # still, now that nobody else can write
                for statement in _SCHEMA:
                    self.execute(statement)
                self.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
                for key, value in first_meta.items():
                    self.execute("INSERT INTO meta VALUES (?, ?, ?)", (key, value, checksum(key, value)))

    def _check(self) -> None:
        if self.value("PRAGMA application_id") != _APPLICATION_ID:
            raise RagError(
                f"{self.path} is a SQLite file but no finished index; choose another folder, or delete this one and "
                "index again"
            )
        version = int(str(self.value("PRAGMA user_version")))
        if version > FORMAT_VERSION:
            raise RagError(
                f"{self.path} has the format {version} and this version reads {FORMAT_VERSION}; update the software, "
                "or delete the folder and index again"
            )
        if version < FORMAT_VERSION:
            raise IncompatibleIndexError(
                f"{self.path} has the format {version}, of an older version; this one reads {FORMAT_VERSION}. Delete "
                f"the folder {self.path.parent} and index again: everything in it is derived from the documents"
            )
        # A prepared file could hold triggers of its own; a flipped bit could change what a trigger does.
        schema = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT GLOB 'chunks_text_*' AND name <> ?"
        if {str(row[0]) for row in self.rows(schema, ["sqlite_sequence"])} != set(_SCHEMA):
            raise self.damaged("its tables are not those that they should be")
        size = int(str(self.value("PRAGMA page_count"))) * int(str(self.value("PRAGMA page_size")))
        journal = _has_content(_sibling(self.path, "-wal"))
        if not journal and self.path.stat().st_size < size:
            raise self.damaged(f"it has {self.path.stat().st_size} bytes and should have {size}")
        if size <= _CHECKED_WHOLE:
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

    def blocks(self, query: str, values: Sequence[object] = (), size: int = 4096) -> Iterator[list[Row]]:
        """The rows of a query, `size` at a time; call it in a snapshot or a transaction."""
        with self._lock, explained(self.path, self._wait_seconds):
            cursor = self._connection.execute(query, values)
            block: list[Row] = cursor.fetchmany(size)
        while block:
            yield block
            with self._lock, explained(self.path, self._wait_seconds):
                block = cursor.fetchmany(size)

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
        """Everything read inside is of one generation, whatever other processes write meanwhile.

        Raises:
            RagError: the folder cannot be written by this process, and another one wrote while this one read.
        """
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            if self._alone and (_state(self.path) != self._seen or _sibling(self.path, "-shm").exists()):
                self._connection.close()
                self._connection = self._connect(create=False)
            self.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()
            if self._alone and _state(self.path) != self._seen:
                raise RagError(f"{self.path} was written by another process while it was read; search again")

    @contextmanager
    def transaction(self, wait: bool = True) -> Iterator[None]:
        """One writer at a time, waited for (or not); all of it is committed, or nothing."""
        with self._lock, explained(self.path, self._wait_seconds if wait else 0):
            self.check_writable()
            self._connection.execute(f"PRAGMA busy_timeout = {round(1000 * self._wait_seconds) if wait else 0}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.commit()
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back by itself
                    self._connection.rollback()
                raise

    def check_writable(self) -> None:
        """Raises RagError where this process may not write the file."""
        if not self.writable:
            raise RagError(f"{self.path} cannot be written")

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
        damage = any(words in text for words in ("malformed", "no such", "not decode"))
        if isinstance(error, sqlite3.OperationalError) and not damage:
            raise RagError(
                f"{path} cannot be used: {text}; check that the disk and the permissions allow it"
            ) from error
        raise _damaged(path, text) from error
    except UnicodeDecodeError as error:  # of a name or an error's text
        raise _damaged(path, f"it holds what is no text ({error.reason})") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # full, for this user, or for this file
            raise _full(path) from error
        raise


def _full(path: Path) -> RagError:
    return RagError(f"the disk that holds {path} is full; nothing committed is lost: free space and run again")


def _damaged(path: Path, what: str) -> DamagedIndexError:
    return DamagedIndexError(
        f"{path} is damaged or no index: {what}. Everything in it is derived from the documents: delete the folder "
        f"{path.parent} and index again"
    )


def checksum(*values: object) -> int:
    """CRC-32 of a row's values, which must be JSON scalars."""
    return zlib.crc32(json.dumps(values).encode("ascii"))


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _state(path: Path) -> FileState:
    """What changes when the file does."""
    if not path.exists():
        return ()
    stat = path.stat()
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
