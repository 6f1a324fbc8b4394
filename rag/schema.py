"""The tables of an index, and how a file's own are told from any others."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable

# Of the tables below. A file of another format is refused.
FORMAT_VERSION = 3
# In the file's header: tells an index from any other SQLite file.
APPLICATION_ID = 0x72616731
# Ids are never given twice (AUTOINCREMENT), and a chunk never changes: an id stands for one vector for ever, so that a
# vectors file of any generation says what it still has to learn, and to forget.
SCHEMA = (
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

# FTS5 makes these itself, in words that differ from version to version. Nothing else goes unchecked by its name.
_MADE_BY_SQLITE = (
    "sqlite_sequence",
    "chunks_text_config",
    "chunks_text_data",
    "chunks_text_docsize",
    "chunks_text_idx",
)


def has_these_tables(found: Iterable[tuple[object, ...]]) -> bool:
    """Whether a file's (type, name, sql), as `sqlite_master` has them, are these tables, indexes and triggers alone."""
    return {str(sql) for type, name, sql in found if not _made_by_sqlite(type, name, sql)} == set(SCHEMA)


def _made_by_sqlite(type: object, name: object, sql: object) -> bool:
    return type == "table" and name in _MADE_BY_SQLITE and str(sql).startswith("CREATE TABLE ")


def checksum(*values: object) -> int:
    """CRC-32 of a row's values, which must be JSON scalars."""
    return zlib.crc32(json.dumps(values).encode("ascii"))
