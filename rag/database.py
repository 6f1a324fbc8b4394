"""The SQLite file of an index: how it is made, opened, checked and written."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rag.database_errors import DatabaseBusyError, damaged, explained, full
from rag.errors import DamagedIndexError, IncompatibleIndexError, RagError, RagRequestError, ReplacedIndexError
from rag.schema import APPLICATION_ID, FORMAT_VERSION, SCHEMA, checksum, has_these_tables

# Up to this size all pages are checked at every opening; above it that would take seconds, and `verify` does it.
_CHECKED_WHOLE = 16 << 20
_BUSY = (5, 6)  # SQLite's codes for a lock that somebody else holds
_TABLES = "SELECT count(*) FROM sqlite_master"
# How SQLite opens a file that nobody writes: without a journal, and without a -shm file.
_UNCHANGING = "ro&immutable=1"
# The least size of a -shm file that is in use.
_SHARED = 32768

Row = tuple[object, ...]
FileState = tuple[int, ...]


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
        self._closed = self._unsettled = False
        self._full = False
        self._file: FileState = ()
        self._opened = self._connect(create)

    @classmethod
    def open(
        cls, path: Path, wait_seconds: float, first_meta: Mapping[str, str] | None = None, checked: bool = True
    ) -> Database:
        """Opens the file and checks what can be checked at once: the header, the format, the size, and of a file of up
        to 16 MiB all pages. With `first_meta` a missing file is made, with these rows in its `meta` table, and a
        creation that was cut off is made anew; call that with the writer lock held. Without `checked` even a damaged
        file opens, to save what can be read.

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

    @classmethod
    def is_made(cls, path: Path, wait_seconds: float) -> bool:
        """Whether the file is there and has tables, whatever they are; else its folder is made.

        Raises:
            RagRequestError: the folder is a file.
            RagError: the folder cannot be made or written; the file is no database.
        """
        folder = path.parent
        if folder.exists() and not folder.is_dir():
            raise RagRequestError(f"{folder} is a file; an index is a folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RagError(f"the folder {folder} cannot be made: {error.strerror}") from error
        if path.exists() and path.stat().st_size:
            database = cls(path, wait_seconds, create=False)
            try:
                return database.value(_TABLES) != 0
            finally:
                database.close()
        if not os.access(folder, os.W_OK):
            raise RagError(f"{folder} is read-only, so no index can be made in it")
        return False

    def _connect(self, create: bool) -> sqlite3.Connection:
        path, folder = self.path, self.path.parent
        if not create:
            check_place(path)
        self.writable = os.access(folder, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
        # Readers and writers agree by way of the -shm file, which somebody who may not write cannot make. Where there
        # is none nobody has the index open to write, and the file is read as one that does not change; `snapshot` sees
        # to it that this is still so.
        self._alone = not self.writable and not _sibling(path, "-shm").exists()
        if self._alone and _has_content(_sibling(path, "-wal")):
            raise RagError(
                f"{path} has an unfinished journal and cannot be written; open the index once where it can be written"
            )
        self._seen = _state(path)
        before = _identity(path)
        access = ("rwc" if create else "rw") if self.writable else (_UNCHANGING if self._alone else "ro")
        self._full = False
        try:
            connection = self._connected(access)
        except RagError as error:
            if not self.writable or create or not self._lacks_room(error):
                raise
            if _has_content(_sibling(path, "-wal")):
                raise full(path) from error
            self.writable, self._alone, self._full = False, True, True
            connection = self._connected(_UNCHANGING)
        self._file = before or _identity(path)  # of a file that was made just now
        return connection

    def _connect_again(self) -> None:
        before = self._opened
        self._opened = self._connect(create=False)
        before.close()
        if self.writable:  # again, since there is room on the disk
            self._check()

    def _connected(self, access: str) -> sqlite3.Connection:
        path = self.path
        with explained(path, self._wait_seconds):
            connection = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={access}",
                uri=True,
                timeout=self._wait_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("PRAGMA trusted_schema = OFF")  # until the tables are known to be an index's
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA synchronous = FULL")  # what is committed survives a power cut
                # In KiB: all inner pages of a million chunks. This statement is the first to read the file.
                connection.execute("PRAGMA cache_size = -16384")
            except BaseException:
                connection.close()
                raise
        return connection

    def _lacks_room(self, error: RagError) -> bool:
        """Whether SQLite could not make the -shm file, without which it does not even read: the disk is full. Where
        somebody else has the database open, there is one of its full size, and it serves."""
        if "disk I/O" not in str(error.__cause__):
            return False
        shared = _sibling(self.path, "-shm")
        return not shared.exists() or shared.stat().st_size < _SHARED

    def _create_if_blank(self, first_meta: Mapping[str, str]) -> None:
        if self.value(_TABLES) != 0:
            return
        self.execute("PRAGMA page_size = 8192")  # five vectors of 384 float32 to a page, not two
        self._keep_a_journal()
        with self.transaction():
            for statement in SCHEMA:
                self.execute(statement)
            self.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            for key, value in first_meta.items():
                self.execute("INSERT INTO meta VALUES (?, ?, ?)", (key, value, checksum(key, value)))

    def _keep_a_journal(self) -> None:
        """Whoever holds the file for a moment makes this statement fail: SQLite itself does not wait here."""
        until = time.monotonic() + self._wait_seconds
        while True:
            try:
                self.execute("PRAGMA journal_mode = WAL")
                return
            except DatabaseBusyError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _check(self) -> None:
        if self.value("PRAGMA application_id") != APPLICATION_ID:
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
        found = self.rows("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        if not has_these_tables(found):
            raise self.damaged("its tables are not those that they should be")
        # The index's own triggers write to FTS5's table, which some of SQLite's versions (3.40) take for unsafe.
        self.execute("PRAGMA trusted_schema = ON")
        size = int(str(self.value("PRAGMA page_count"))) * int(str(self.value("PRAGMA page_size")))
        journal = _has_content(_sibling(self.path, "-wal"))
        if not journal and self.path.stat().st_size < size:
            raise self.damaged(f"it has {self.path.stat().st_size} bytes and should have {size}")
        if size <= _CHECKED_WHOLE:
            problems = [str(row[0]) for row in self.rows("PRAGMA quick_check(3)")]
            if problems != ["ok"]:
                raise self.damaged("; ".join(problems))

    def close(self) -> None:
        """Where a reader kept `settle` from its work, this is the time to do it."""
        with self._lock:
            if self._closed:
                return
            try:
                if self._unsettled:
                    with suppress(RagError):  # the journal is whole; whoever opens the file next moves it in
                        self.settle()
            finally:
                self._closed = True
                self._opened.close()

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise RagRequestError(f"the index {self.path.parent} has been closed; open it again")
        return self._opened

    @property
    def alone(self) -> bool:
        """Nobody has the file open to write it, and this process may not."""
        return self._alone

    def damaged(self, what: str) -> DamagedIndexError:
        """The error to raise for a file that does not hold what it must."""
        return damaged(self.path, what)

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
            RagError: the file was replaced or deleted since it was opened; the folder cannot be written by this
                process, and another one wrote while this one read.
        """
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self.check_in_place()
            if self._alone and (_state(self.path) != self._seen or _sibling(self.path, "-shm").exists()):
                self._connect_again()
            self.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.rollback()
            if self._alone and _state(self.path) != self._seen:
                raise RagError(f"{self.path} was written by another process while it was read; search again")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One writer at a time, waited for; all of it is committed, or nothing."""
        with self._lock, explained(self.path, self._wait_seconds):
            self.check_writable()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self.check_in_place()
                yield
                self.check_in_place()
                self._connection.commit()
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back by itself
                    self._connection.rollback()
                raise

    def check_writable(self) -> None:
        """Raises RagError where this process may not write the file, or the disk is full still."""
        with self._lock:
            if self._full and not self._connection.in_transaction:
                self._connect_again()
        if self._full:
            raise full(self.path)
        if not self.writable:
            raise RagError(f"{self.path} cannot be written")

    def check_in_place(self) -> None:
        """An open file can be read and written long after another one has its name, or none has; nobody would see it.

        Raises:
            ReplacedIndexError: that is so.
        """
        if _identity(self.path) != self._file:
            raise ReplacedIndexError(f"{self.path} was replaced or deleted; open it again")

    def settle(self) -> None:
        """Moves the journal into the file, so that the file alone is whole. A reader at work is not waited for: then
        it is tried again when the database is closed."""
        with self._lock:
            self.execute("PRAGMA busy_timeout = 0")
            try:
                busy = self.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
                self._unsettled = busy != 0
            except DatabaseBusyError:
                self._unsettled = True
            finally:
                self.execute(f"PRAGMA busy_timeout = {round(1000 * self._wait_seconds)}")

    def take_over(self, other: Database) -> None:
        """Puts what another database holds in the place of what this one does, in one transaction: a stop at any moment
        leaves the one or the other, and whoever has this one open sees the change like any other."""
        with self._lock, explained(self.path, self._wait_seconds):
            self.check_writable()
            until = time.monotonic() + self._wait_seconds

            def tell(status: int, remaining: int, pages: int) -> None:
                if status in _BUSY and time.monotonic() > until:
                    raise DatabaseBusyError(
                        f"{self.path} is being written by another process (waited {self._wait_seconds:g} s); run again "
                        "when it is done"
                    )

            # By itself it would try again for ever.
            other._connection.backup(self._connection, progress=tell)


def check_place(path: Path) -> None:
    """Raises RagRequestError where there is no such file, or its folder is a file."""
    if path.parent.exists() and not path.parent.is_dir():
        raise RagRequestError(f"{path.parent} is a file; an index is a folder")
    if not path.exists():
        raise RagRequestError(f"there is no index in {path.parent} (no file {path.name}); index the documents first")


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _state(path: Path) -> FileState:
    """What changes when the file does."""
    if not path.exists():
        return ()
    stat = path.stat()
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _identity(path: Path) -> FileState:
    """Which file it is, whatever it is called; () where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return (stat.st_dev, stat.st_ino)


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
