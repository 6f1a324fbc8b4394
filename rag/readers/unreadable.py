"""Why a file gives no document."""

from __future__ import annotations


class Unreadable(Exception):
    """The file is skipped; the message is the reason, in plain words."""


class UnreadableNow(Unreadable):
    """Another time it may be readable, though it stays as it is."""


class Empty(Unreadable):
    """There is nothing in the file to index."""


def may_pass(error: OSError) -> bool:
    """Whether a file that could not be read may be readable another time, though nobody changed it. A permission that
    is given later is a change, which a fingerprint shows: it is then of the file's content."""
    return not isinstance(error, PermissionError)


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"
