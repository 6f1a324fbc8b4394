"""Why a file gives no document."""

from __future__ import annotations


class Unreadable(Exception):
    """The file is skipped; the message is the reason, in plain words."""


class Empty(Unreadable):
    """There is nothing in the file to index."""


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"
