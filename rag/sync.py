"""Brings an index to what a corpus holds, in one transaction, after everything new was embedded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rag.chunking import Chunk, chunk_documents
from rag.codes import encode
from rag.corpus import Corpus, Document
from rag.embedded_file import EmbeddedFile, discard_embedded
from rag.embedder import Embedder, Progress, Vectors
from rag.errors import RagError, RagRequestError
from rag.store import Store, embedded_key

# Texts between two writes of what was embedded: a second or two of work on two cores.
_SLAB = 256


@dataclass(frozen=True)
class SyncReport:
    """What a sync did. The first four count documents; `chunks` is what the index holds now, `embedded` the texts that
    the embedder had to read."""

    added: int
    changed: int
    removed: int
    unchanged: int
    chunks: int
    embedded: int
    generation: int


@dataclass(frozen=True)
class _Change:
    """Of one generation: ids that go, documents that take the place of one with their id, and new ones."""

    generation: int
    removed: tuple[str, ...]
    changed: tuple[Document, ...]
    added: tuple[Document, ...]


def sync_store(store: Store, embedder: Embedder, corpus: Corpus, folder: Path, progress: Progress | None) -> SyncReport:
    """Adds, replaces and removes documents by content hash; call it with the writer lock held. Unchanged documents are
    neither cut nor embedded, and a text that is stored already keeps its vector. `progress` counts embedded texts.

    Everything is embedded before the transaction begins, and kept in a file in `folder` meanwhile: a sync that is
    killed goes on from there, and the database is locked for the seconds that writing takes.

    Raises:
        RagRequestError: two documents share an id.
        RagError: the embedder gave something else than unit vectors, the disk is full, or somebody who does not hold
            the writer lock wrote.
    """
    repeated = [id for id, times in Counter(document.id for document in corpus.documents).items() if times > 1]
    if repeated:
        raise RagRequestError(f"two documents have the id {repeated[0]}; ids must be distinct")
    change = _planned(store, corpus)
    embedded = 0
    if change.removed or change.changed or change.added:
        new = (*change.changed, *change.added)
        cut = list(zip(new, chunk_documents(new, store.manifest.chunk, embedder.count_tokens), strict=True))
        with EmbeddedFile(folder, store.manifest.index_id, store.storage, store.manifest.dimension) as vectors:
            embedded = _embed(store, embedder, [chunk for _, chunks in cut for chunk in chunks], vectors, progress)
            _make(store, change, cut, vectors)
    discard_embedded(folder)
    with store.database.snapshot():
        return SyncReport(
            added=len(change.added),
            changed=len(change.changed),
            removed=len(change.removed),
            unchanged=len(corpus.documents) - len(change.added) - len(change.changed),
            chunks=store.count_chunks(),
            embedded=embedded,
            generation=store.generation,
        )


def _planned(store: Store, corpus: Corpus) -> _Change:
    with store.database.snapshot():
        known, generation = store.hashes(), store.generation
    wanted = {document.id for document in corpus.documents}
    return _Change(
        generation=generation,
        removed=tuple(id for id in known if id not in wanted),
        changed=tuple(doc for doc in corpus.documents if doc.id in known and known[doc.id] != doc.sha256),
        added=tuple(doc for doc in corpus.documents if doc.id not in known),
    )


def _embed(
    store: Store, embedder: Embedder, chunks: Sequence[Chunk], vectors: EmbeddedFile, progress: Progress | None
) -> int:
    """Puts the vector of every chunk into the file, and gives the number of texts that had to be embedded for it."""
    missing = {key: chunk for chunk in chunks if (key := embedded_key(chunk)) not in vectors}
    with store.database.snapshot():
        for key in list(missing):
            blob = store.known_blob(key)
            if blob is not None:
                vectors.add([(key, blob)])
                del missing[key]
    # Alike lengths together leave the embedder little padding; the longest first shows at once whether memory suffices.
    todo = sorted(missing.items(), key=lambda entry: -entry[1].tokens)
    for start in range(0, len(todo), _SLAB):
        slab = todo[start : start + _SLAB]
        told = None if progress is None else _Shifted(progress, start, len(todo))
        rows = _encoded(embedder, [chunk.embedded_text for _, chunk in slab], told)
        vectors.add(zip((key for key, _ in slab), encode(rows, store.storage), strict=True))
    return len(todo)


@dataclass(frozen=True)
class _Shifted:
    """Tells the progress of one slab as that of all."""

    tell: Progress
    before: int
    total: int

    def __call__(self, done: int, total: int) -> None:
        self.tell(self.before + done, self.total)


def _encoded(embedder: Embedder, texts: list[str], progress: Progress | None) -> Vectors:
    vectors = embedder.encode_passages(texts, progress)
    if vectors.shape != (len(texts), embedder.dimension):
        raise RagError(
            f"the embedder {embedder.name} gave vectors of shape {vectors.shape} for {len(texts)} texts of dimension "
            f"{embedder.dimension}"
        )
    if not np.all(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3):  # false for NaN too
        raise RagError(f"the embedder {embedder.name} gave vectors that are not of unit length; nothing was stored")
    return vectors


def _make(
    store: Store, change: _Change, cut: Sequence[tuple[Document, Sequence[Chunk]]], vectors: EmbeddedFile
) -> None:
    """The change itself: all of it is committed, or nothing."""
    with store.database.transaction():
        if store.generation != change.generation:
            raise RagError(
                f"{store.database.path} was written by somebody else during this sync, past its lock; run again"
            )
        store.delete_documents([*change.removed, *(document.id for document in change.changed)])
        for document, chunks in cut:
            store.insert_document(document, chunks, [vectors[embedded_key(chunk)] for chunk in chunks])
        store.next_generation()
