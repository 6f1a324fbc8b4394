"""The index: a folder with the truth in `index.sqlite` and, derived from it, `vectors-<generation>.faiss`."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from rag.chunking import Chunk, ChunkSettings
from rag.corpus import Corpus, Document
from rag.database import DatabaseBusyError
from rag.embedder import Embedder, Progress
from rag.errors import RagRequestError
from rag.manifest import Manifest
from rag.search import Hit, SearchSettings, encode_queries, search_store
from rag.store import Store
from rag.sync import SyncReport, sync_store
from rag.vectors import VectorIndex

DATABASE = "index.sqlite"


class Index:
    """Documents, chunks and vectors, to sync with a corpus and to search.

    May be used from several threads. Several processes may read while one syncs: a search sees one whole generation,
    the newest. Close it, or use it as a context manager.
    """

    def __init__(self, folder: Path, store: Store, embedder: Embedder | None) -> None:
        """Use `create_or_open` or `open`."""
        self.folder = folder
        self._store, self._embedder = store, embedder
        self._vectors: VectorIndex | None = None
        self._lock = threading.RLock()

    @classmethod
    def create_or_open(
        cls,
        folder: str | os.PathLike[str],
        embedder: Embedder,
        settings: ChunkSettings | None = None,
        *,
        wait_seconds: float = 10.0,
    ) -> Index:
        """Opens the index in this folder, or makes it, to sync and to search. `settings` is ChunkSettings() by default.
        `wait_seconds` is how long to wait for another process that writes.

        Raises:
            RagRequestError: chunks of this size do not fit the embedder, or the index was made with another embedder or
                other settings.
            RagError: the index is damaged, of a newer format, or cannot be written.
        """
        settings = ChunkSettings() if settings is None else settings
        settings.check_fits(embedder.name, embedder.max_tokens)
        place = Path(folder)
        store = Store.create_or_open(place / DATABASE, embedder, settings, wait_seconds)
        return cls._checked(place, store, embedder, settings)

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], embedder: Embedder | None = None, *, wait_seconds: float = 10.0
    ) -> Index:
        """Opens an index that is there, with its own chunk settings. Without an embedder it gives its manifest,
        documents and chunks, and neither searches nor syncs.

        Raises:
            RagRequestError: there is no index, or it was made with another embedder.
            RagError: the index is damaged or of a newer format.
        """
        place = Path(folder)
        return cls._checked(place, Store.open(place / DATABASE, wait_seconds), embedder, None)

    @classmethod
    def _checked(cls, folder: Path, store: Store, embedder: Embedder | None, settings: ChunkSettings | None) -> Index:
        index = cls(folder, store, embedder)
        try:
            if embedder is not None:
                store.manifest.check(folder, embedder, settings)
                index._put_vectors_in_place()
        except BaseException:
            index.close()
            raise
        return index

    def close(self) -> None:
        self._store.database.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def manifest(self) -> Manifest:
        """What the index was made with."""
        return self._store.manifest

    @property
    def generation(self) -> int:
        """Counts the syncs that changed something; 0 is an empty index."""
        return self._store.generation

    @property
    def chunk_count(self) -> int:
        return self._store.count_chunks()

    def documents(self) -> list[Document]:
        """Every document as it was synced, by id."""
        return self._store.documents()

    def chunks(self, documents: Collection[str] | None = None) -> list[Chunk]:
        """The chunks of these document ids, or all, by document id and position."""
        with self._store.database.snapshot():
            ids = None if documents is None else self._store.chunk_ids(documents)
            return [stored.chunk for stored in self._store.chunks(ids)]

    def sync(self, corpus: Corpus, progress: Progress | None = None) -> SyncReport:
        """Brings the index to exactly this corpus, in one transaction: killed at any moment, the index is what it was
        before or what it is after. Unchanged documents cost nothing. `progress` is called with (embedded, to embed).

        Raises:
            RagRequestError: the index was opened without an embedder, or two documents share an id.
            RagError: another process writes, the disk is full, or the folder is read-only; nothing committed is lost.
        """
        embedder = self._needed_embedder("sync")
        with self._store.database.transaction():
            report = sync_store(self._store, embedder, corpus, progress)
        self._store.database.settle()
        self._put_vectors_in_place()
        return report

    def search(
        self, query: str, settings: SearchSettings | None = None, documents: Collection[str] | None = None
    ) -> list[Hit]:
        """The best chunks for one query; see `search_many`."""
        return self.search_many([query], settings, documents)[0]

    def search_many(
        self, queries: Sequence[str], settings: SearchSettings | None = None, documents: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """The best chunks for each query, encoded in one go; `settings` are SearchSettings() by default, `documents`
        restricts to these document ids. How hits are ranked: `rag.search.search_store`.

        Raises:
            RagRequestError: the index was opened without an embedder, or holds no such document.
        """
        cleaned, encoded = encode_queries(self._needed_embedder("search"), queries)
        with self._store.database.snapshot():
            vectors = self._current_vectors()
            return search_store(self._store, vectors, cleaned, encoded, settings or SearchSettings(), documents)

    def verify(self) -> None:
        """Checks everything: the database, the full text, spans, hashes, and that the vectors file says the same.

        Raises:
            RagError: naming what is wrong.
        """
        with self._store.database.snapshot():
            problems = self._store.problems()
            on_file = VectorIndex.read(self.folder, self._store)
            ids, vectors = self._store.vectors()
            if on_file is not None and not (
                np.array_equal(on_file.ids(), ids) and np.array_equal(on_file.rows(ids.tolist()), vectors)
            ):
                problems.append("the vectors file differs from the database")
        if problems:
            raise self._store.database.damaged("; ".join(problems[:5]))

    def _needed_embedder(self, purpose: str) -> Embedder:
        if self._embedder is None:
            raise RagRequestError(
                f"the index {self.folder} was opened without an embedder; to {purpose} it, open it with "
                f"{self.manifest.embedder_name} (revision {self.manifest.embedder_revision})"
            )
        return self._embedder

    def _current_vectors(self) -> VectorIndex:
        """The vectors of the generation that the snapshot sees."""
        with self._lock:
            if self._vectors is None or self._vectors.generation != self._store.generation:
                self._vectors = VectorIndex.read(self.folder, self._store) or VectorIndex.build(self._store)
            return self._vectors

    def _put_vectors_in_place(self) -> None:
        """Makes the vectors file where it is missing, damaged or of another generation.

        It is written under the write lock, so that no two processes do; whoever else holds that lock is syncing, and
        will write the file then.
        """
        with self._store.database.snapshot():
            self._vectors = VectorIndex.read(self.folder, self._store)
        if self._vectors is not None or not self._store.database.writable:
            return
        try:
            with self._store.database.transaction(wait=False):
                self._vectors = VectorIndex.build(self._store)
                self._vectors.write(self.folder, self.manifest.index_id)
        except DatabaseBusyError:
            return
