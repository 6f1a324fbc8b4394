"""The index: a folder with the truth in `index.sqlite` and, derived from it, `vectors-<generation>.faiss`."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from rag.chunking import Chunk, ChunkSettings
from rag.corpus import Corpus, Document
from rag.database_errors import DatabaseBusyError, NotWrittenError
from rag.embedder import Embedder, Progress
from rag.errors import IncompatibleIndexError, RagRequestError, ReplacedIndexError
from rag.filters import AllowedChunks
from rag.index_files import DATABASE, own_files, remove_renewal, repair_leftovers
from rag.layout import IndexSettings
from rag.lexical import LexicalIndex
from rag.manifest import Manifest
from rag.mapped import DamagedFileError
from rag.repair import put_derived_in_place
from rag.search import Hit, SearchSettings, encode_queries, search_store
from rag.store import Store, WrongIdError
from rag.sync import SyncReport, sync_store
from rag.vectors import VectorIndex, is_in_place
from rag.verification import verify_store
from rag.writer_lock import writing


class Index:
    """Documents, chunks and vectors, to sync with a corpus and to search.

    May be used from several threads. Several processes may read while one syncs: a search sees one whole generation,
    the newest. One that was made anew for another embedder has to be opened again with that one, and says so
    (`rag.errors.ReplacedIndexError`). Close it, or use it as a context manager.
    """

    def __init__(self, folder: Path, store: Store, embedder: Embedder | None, wait_seconds: float) -> None:
        """Use `create_or_open` or `open`."""
        self.folder = folder
        self._wait_seconds = wait_seconds
        self._store, self._embedder = store, embedder
        self._vectors: VectorIndex | None = None
        self._lexical: LexicalIndex | None = None
        self._allowed = AllowedChunks()
        self._lock = threading.RLock()

    @classmethod
    def create_or_open(
        cls,
        folder: str | os.PathLike[str],
        embedder: Embedder,
        settings: ChunkSettings | None = None,
        layout: IndexSettings | None = None,
        *,
        wait_seconds: float = 10.0,
    ) -> Index:
        """Opens the index in this folder, or makes it, to sync and to search. `settings` is ChunkSettings() by default.
        `layout` is IndexSettings() for a new index, and what it was for one that is there; another type of FAISS index
        is taken at the next sync. `wait_seconds` is how long to wait for another process that writes.

        Raises:
            RagRequestError: chunks of this size do not fit the embedder, or the index was made with another embedder or
                other settings.
            RagError: the index is damaged, of a newer format, or cannot be written.
        """
        settings = ChunkSettings() if settings is None else settings
        settings.check_fits(embedder.name, embedder.max_tokens)
        place = Path(folder)
        store = Store.create_or_open(place / DATABASE, embedder, settings, layout or IndexSettings(), wait_seconds)
        index = cls(place, store, embedder, wait_seconds)
        with index._closed_on_error():
            store.manifest.check(place, embedder, settings, None if layout is None else layout.storage)
            if layout is not None and store.database.writable:
                store.ask_for_type(layout.type)
            index._put_files_in_place()
        return index

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
        index = cls(place, Store.open(place / DATABASE, wait_seconds), embedder, wait_seconds)
        with index._closed_on_error():
            if embedder is not None:
                index.manifest.check(place, embedder)
                index._put_files_in_place()
        return index

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

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
    def vectors_in_words(self) -> str:
        """Which kind of FAISS index searches the vectors, for people."""
        with self._store.database.snapshot():
            return self._current_vectors().layout.words

    @property
    def generation(self) -> int:
        """Counts the syncs that changed something; 0 is an empty index."""
        with self._store.database.snapshot():
            return self._store.generation

    @property
    def chunk_count(self) -> int:
        with self._store.database.snapshot():
            return self._store.count_chunks()

    def document_ids(self) -> list[str]:
        """The ids of all documents, ascending."""
        with self._store.database.snapshot():
            return list(self._store.hashes())

    def documents(self) -> list[Document]:
        """Every document as it was synced, by id."""
        with self._store.database.snapshot():
            return self._store.documents()

    def chunks(self, documents: Collection[str] | None = None) -> list[Chunk]:
        """The chunks of these document ids, or all, by document id and position."""
        with self._store.database.snapshot():
            ids = None if documents is None else self._store.chunk_ids(_check_ids(documents))
            return [stored.chunk for stored in self._store.chunks(ids)]

    def sync(self, corpus: Corpus, progress: Progress | None = None) -> SyncReport:
        """Brings the index to exactly this corpus, in one transaction: killed at any moment, the index is what it was
        before or what it is after, and what was embedded until then is kept for the next sync. Unchanged documents cost
        nothing. `progress` is called with (embedded, to embed).

        Raises:
            RagRequestError: the index was opened without an embedder, or two documents share an id.
            RagError: another process writes, the disk is full, the folder is read-only, or it was deleted or made anew
                since this index was opened; nothing committed is lost.
        """
        embedder = self._needed_embedder("sync")
        self._store.database.check_writable()
        self._store.database.check_in_place()  # first: taking the lock would make a folder that is gone
        with writing(self.folder, self._wait_seconds):
            self._store.database.check_in_place()
            self._follow()
            report = sync_store(self._store, embedder, corpus, self.folder, progress)
            try:
                self._store.database.settle()
                put_derived_in_place(self.folder, self._store)
            except NotWrittenError as error:
                raise NotWrittenError(
                    f"the sync is done: {self.folder} holds it as generation {report.generation}, and can be searched. "
                    f"What is derived from the database could not be written, and will be made later: {error}"
                ) from error
            self._store.database.check_in_place()
            remove_renewal(self.folder)  # it would have had to take the place of what is right as it is
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
            RagRequestError: the index was opened without an embedder or has been closed, holds no such document, or the
                filter is wrong.
        """
        settings = SearchSettings() if settings is None else settings
        cleaned, encoded = encode_queries(self._needed_embedder("search"), queries)
        store = self._store
        if documents is not None:
            _check_ids(documents)
        with store.database.snapshot():
            vectors = self._current_vectors()
            lexical = None if settings.mode == "dense" else self._current_lexical()
            try:
                found = search_store(store, vectors, lexical, cleaned, encoded, settings, documents, self._allowed)
            except DamagedFileError as error:  # where it had to be read; the database says all that was in it
                self._lexical = lexical = LexicalIndex.build(store)
                if isinstance(error, WrongIdError):
                    vectors = self._vectors_made_anew()
                found = search_store(store, vectors, lexical, cleaned, encoded, settings, documents, self._allowed)
        return found()  # outside: a reranker takes its time, and others search and write meanwhile

    def verify(self) -> None:
        """Checks everything, as `rag.verification.verify_index` does.

        Raises:
            DamagedIndexError: naming what is wrong.
        """
        self._store.read_manifest()
        findings = verify_store(self.folder, self._store).findings
        if findings:
            raise self._store.database.damaged("; ".join(finding.what for finding in findings[:5]))

    def _needed_embedder(self, purpose: str) -> Embedder:
        if self._embedder is None:
            raise RagRequestError(
                f"the index {self.folder} was opened without an embedder; to {purpose} it, open it with "
                f"{self.manifest.embedder_name} (revision {self.manifest.embedder_revision})"
            )
        return self._embedder

    def _current_vectors(self) -> VectorIndex:
        """The vectors of the generation that the snapshot sees: from its file, from one of another generation with what
        changed since, or built in memory."""
        with self._lock:
            if self._vectors is None or self._vectors.token != self._store.token:
                self._follow()
                self._vectors = (
                    VectorIndex.read(self.folder, self._store)
                    or VectorIndex.read_any(self.folder, self._store)
                    or VectorIndex.build(self._store)
                )
            return self._vectors

    def _follow(self) -> None:
        """An index that was made anew since it was opened is searched and synced as it is now.

        Raises:
            ReplacedIndexError: it was made anew for another embedder than the one at hand.
        """
        self._store.read_manifest()
        if self._embedder is not None:
            try:
                self.manifest.check(self.folder, self._embedder)
            except IncompatibleIndexError as error:
                raise ReplacedIndexError(
                    f"the index {self.folder} was made anew since it was opened, with {self.manifest.embedder_name} "
                    f"(revision {self.manifest.embedder_revision}); open it again with that embedder"
                ) from error

    def _vectors_made_anew(self) -> VectorIndex:
        """From the database, because the file of the snapshot's generation names a chunk that there is not. The file
        goes, so that the next opening makes it anew."""
        with self._lock:
            self._vectors = VectorIndex.build(self._store)
            if self._store.database.writable:
                with suppress(DatabaseBusyError, OSError), writing(self.folder, 0):
                    (self.folder / f"vectors-{self._vectors.generation}.faiss").unlink(missing_ok=True)
            return self._vectors

    def _current_lexical(self) -> LexicalIndex:
        """The postings of the generation that the snapshot sees."""
        with self._lock:
            self._lexical = LexicalIndex.current(self.folder, self._store, self._lexical)
            return self._lexical

    def _put_files_in_place(self) -> None:
        """Makes the derived files where they are missing, damaged or of another generation, and takes away what a
        killed writer left. Whoever holds the writer lock is syncing, and will do it then. Without room on the disk
        the index is read without the files, as on a read-only one."""
        store = self._store
        with store.database.snapshot():
            self._follow()
            self._vectors = VectorIndex.read(self.folder, store)
            lexical = LexicalIndex.read(self.folder, store)
            whole = self._vectors is not None and is_in_place(self.folder, store)
            whole = whole and lexical is not None and not lexical.leftovers(self.folder)
            if (whole and not repair_leftovers(self.folder)) or not store.database.writable:
                return
        with suppress(DatabaseBusyError, NotWrittenError), writing(self.folder, 0):
            put_derived_in_place(self.folder, store)
            self._vectors = None


def remove_index(folder: Path, wait_seconds: float = 10.0) -> None:
    """Takes away every file that an index consists of, by its exact name, and nothing else that lies in the folder. Who
    has the index open should close it before.

    Raises:
        RagError: another process writes, or the folder is read-only.
    """
    if not folder.is_dir():
        return
    with writing(folder, wait_seconds):
        for path in own_files(folder):
            path.unlink(missing_ok=True)
        remove_renewal(folder)


def _check_ids(ids: Collection[str]) -> Collection[str]:
    for id in ids:
        try:
            id.encode("utf-8")
        except UnicodeEncodeError:
            raise RagRequestError(f"the index holds no document {id!r}, which is no text in UTF-8") from None
    return ids
