"""The two errors that this package raises on purpose."""

from __future__ import annotations


class RagError(Exception):
    """The work failed: a damaged index, a full disk, a lock held by somebody else."""


class RagRequestError(RagError):
    """The request was wrong: a path that is not there, settings that cannot hold, another embedder than the index's."""


class IncompatibleIndexError(RagRequestError):
    """The index is whole, and was made with another embedder, chunker or chunk settings than are asked for."""


class ReplacedIndexError(RagError):
    """The index is no longer the one that was opened: open it again."""


class DamagedIndexError(RagError):
    """The index cannot be trusted: corrupted, or no index at all."""
