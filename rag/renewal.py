"""An index made anew, for another embedder, other chunks or another storage, while the one that is there serves.

It is made in a hidden folder inside the index's own, and its database is then copied over the old one in one
transaction. Files that change their names would not do: a SQLite database in use is three files, of which one alone
could be renamed at a time, and whoever has the old one open shares its journal with whoever opens the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rag.chunking import ChunkSettings
from rag.database import Database, check_place
from rag.embedded_file import discard_embedded
from rag.embedder import Embedder
from rag.errors import DamagedIndexError, IncompatibleIndexError
from rag.index import Index
from rag.index_files import DATABASE, RENEWAL, own_files, remove_renewal
from rag.layout import IndexSettings
from rag.lexical import NAME as LEXICAL
from rag.repair import put_derived_in_place
from rag.store import Store
from rag.vectors_file import NAME as VECTORS
from rag.writer_lock import writing


@contextmanager
def renewing(
    folder: Path,
    embedder: Embedder,
    settings: ChunkSettings,
    layout: IndexSettings,
    *,
    wait_seconds: float = 10.0,
) -> Iterator[Index]:
    """Another index to sync inside the block, which at its end takes the place of the one in `folder`: a stop at any
    moment leaves the one or the other. Until then that one can be searched. What was made before a stop or an error
    waits for the next renewal of the same kind; a sync of `folder` itself does away with it.

    Whoever has the old index open finds the new one at the next search, or is told to open it again where the embedder
    is another. Both take room on the disk at once, and the journal for a while as much as the new one.

    Raises:
        RagRequestError: there is no index in `folder`, or chunks of this size do not fit the embedder.
        RagError: the index there is damaged; another process writes; the disk is full.
    """
    check_place(folder / DATABASE)  # first: taking the lock would make the folder
    with writing(folder, wait_seconds):
        with _begun(folder, embedder, settings, layout, wait_seconds) as index:
            yield index
        _put_in_place(folder, wait_seconds)


def _begun(
    folder: Path, embedder: Embedder, settings: ChunkSettings, layout: IndexSettings, wait_seconds: float
) -> Index:
    beside = folder / RENEWAL
    if beside.is_symlink() or beside.is_file():
        remove_renewal(folder)
    try:
        return Index.create_or_open(beside, embedder, settings, layout, wait_seconds=wait_seconds)
    except (IncompatibleIndexError, DamagedIndexError):  # begun for other settings, or not whole
        remove_renewal(folder)
    return Index.create_or_open(beside, embedder, settings, layout, wait_seconds=wait_seconds)


def _put_in_place(folder: Path, wait_seconds: float) -> None:
    beside = folder / RENEWAL
    new = Database.open(beside / DATABASE, wait_seconds)
    try:
        old = Database.open(folder / DATABASE, wait_seconds)
        try:
            old.take_over(new)
            old.settle()
        finally:
            old.close()
    finally:
        new.close()
    discard_embedded(folder)  # of texts for the old one
    for path in own_files(beside):
        if VECTORS.fullmatch(path.name) or LEXICAL.fullmatch(path.name):
            with suppress(OSError):  # it is made again where it cannot be moved
                path.replace(folder / path.name)
    store = Store.open(folder / DATABASE, wait_seconds)
    try:
        put_derived_in_place(folder, store)
    finally:
        store.database.close()
    remove_renewal(folder)
