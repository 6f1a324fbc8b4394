"""The index as it is published: its database alone, from which whoever opens it makes the rest."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from rag.database_errors import explained
from rag.index_files import DATABASE

_WAIT_SECONDS = 30.0


def settled_database(index: Path, room: Path) -> Path:
    """The database in the folder `index` as one whole file: itself, or, where a reader keeps what was committed last in
    the journal beside it, a copy in `room` with everything in it.

    Raises:
        RagError: it cannot be read, or the disk is full.
    """
    database = index / DATABASE
    journal = database.with_name(f"{DATABASE}-wal")
    if not journal.exists() or journal.stat().st_size == 0:
        return database
    room.mkdir(parents=True, exist_ok=True)
    copy = room / DATABASE
    copy.unlink(missing_ok=True)
    with (
        explained(database, _WAIT_SECONDS),
        closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_SECONDS)) as read,
        closing(sqlite3.connect(copy)) as written,
    ):
        read.backup(written)
    return copy
