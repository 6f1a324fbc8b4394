"""What SQLite's errors and those of the disk mean to the user."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag.errors import DamagedIndexError, RagError


class DatabaseBusyError(RagError):
    """Another process holds the write lock."""


class NotWrittenError(RagError):
    """The disk is full, or a file cannot be written for another reason."""


@contextmanager
def explained(path: Path, wait_seconds: float) -> Iterator[None]:
    """SQLite's errors and a full disk, in the user's words."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "is full" in text:
            raise full(path) from error
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
        raise damaged(path, text) from error
    except UnicodeDecodeError as error:  # of a name or an error's text
        raise damaged(path, f"it holds what is no text ({error.reason})") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # full, for this user, or for this file
            raise full(path) from error
        raise


def full(path: Path) -> NotWrittenError:
    """The error of a disk without room."""
    return NotWrittenError(f"the disk that holds {path} is full; nothing committed is lost: free space and run again")


def damaged(path: Path, what: str) -> DamagedIndexError:
    """The error of a file that does not hold what it must."""
    return DamagedIndexError(
        f"{path} is damaged or no index: {what}. Repair it; or, since everything in it is derived from the documents, "
        f"delete the folder {path.parent} and index again"
    )
