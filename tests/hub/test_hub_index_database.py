"""The index is published whole, also where what was committed last stands in the journal still."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from hfkit.hub.index_database import settled_database
from rag.index_files import DATABASE


def test_what_stands_in_the_journal_is_published_too(tmp_path: Path) -> None:
    index, room = tmp_path / "index", tmp_path / "room"
    index.mkdir()
    with closing(sqlite3.connect(index / DATABASE)) as writer, closing(sqlite3.connect(index / DATABASE)) as reader:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE t (x)")
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert settled_database(index, room) == index / DATABASE and not room.exists()
        # A reader at work keeps the journal from being moved into the file.
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        writer.execute("INSERT INTO t VALUES (7)")
        writer.commit()
        copy = settled_database(index, room)
        reader.rollback()
        assert copy == room / DATABASE
        with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro&immutable=1", uri=True)) as published:
            assert published.execute("SELECT x FROM t").fetchall() == [(7,)]
    assert [path.name for path in room.iterdir()] == [DATABASE]
