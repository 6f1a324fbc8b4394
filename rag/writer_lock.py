"""One writer of an index folder at a time, for as long as a whole sync takes; readers are never kept out."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from rag.database_errors import DatabaseBusyError
from rag.errors import RagError

_LOCK = ".writer.lock"
# Beside the lock's own file, which may not be readable while it is held.
_HOLDER = ".writer"


@contextmanager
def writing(folder: Path, wait_seconds: float) -> Iterator[None]:
    """Holds the folder's writer lock, which ends with the process that holds it.

    Raises:
        DatabaseBusyError: another process holds it, named where it can be, and did not let go in `wait_seconds`.
        RagError: the folder cannot be written.
    """
    lock = FileLock(folder / _LOCK, timeout=wait_seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise DatabaseBusyError(
            f"{folder} is being written by another process{_holder(folder)} (waited {wait_seconds:g} s); run again "
            "when it is done"
        ) from error
    except OSError as error:
        raise RagError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        with suppress(OSError):  # a full disk: whoever waits learns less
            (folder / _HOLDER).write_text(f"{os.getpid()} {platform.node()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    try:
        pid, host = (folder / _HOLDER).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return ""
    return f", {pid} on {host},"
