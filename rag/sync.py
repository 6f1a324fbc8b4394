"""Brings an index to what a corpus holds, in one transaction, after everything new was embedded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rag.chunking import Chunk, chunk_documents
from rag.codes import encode
from rag.corpus import Corpus, Document
from rag.embedded_file import EmbeddedFile, discard_embedded
from rag.embedder import Embedder, Progress, Vectors
from rag.errors import RagError, RagRequestError
from rag.store import Store, embedded_key

Norms = npt.NDArray[np.float32]

# Texts between two writes of what was embedded: a second or two of work on two cores.
_SLAB = 256
# What is shorter has no direction: the embedder knows none of the text's tokens.
_ZERO = 1e-3


@dataclass(frozen=True)
class SyncReport:
    """What a sync did. The first four count documents of the corpus; `chunks` is what the index holds now, `embedded`
    the texts that the embedder had to read."""

    added: int
    changed: int
    removed: int
    unchanged: int
    chunks: int
    embedded: int
    generation: int
    kept: tuple[str, ...] = ()
    """Ids of documents that could not be read this time, and are still in the index as they were."""
    unembeddable: tuple[str, ...] = ()
    """Passages of new and changed documents that are left out, because the embedder knows none of their words: the
    document's id, and the characters that the passage takes in it."""


@dataclass(frozen=True)
class _Change:
    """Of one generation: ids that go, ids that stay unread, documents that take the place of one with their id, and new
    ones."""

    generation: int
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    changed: tuple[Document, ...]
    added: tuple[Document, ...]


def sync_store(store: Store, embedder: Embedder, corpus: Corpus, folder: Path, progress: Progress | None) -> SyncReport:
    """Adds, replaces and removes documents by content hash; call it with the writer lock held. Unchanged documents are
    neither cut nor embedded, and a text that is stored already keeps its vector. `progress` counts embedded texts.

    A document that the corpus names as skipped stays as it is: what cannot be read for a moment is not gone. One of
    which the corpus says nothing goes.

    Everything is embedded before the transaction begins, and kept in a file in `folder` meanwhile: a sync that is
    killed goes on from there, and the database is locked for the seconds that writing takes.

    Raises:
        RagRequestError: two documents share an id, or one holds what UTF-8 cannot say.
        RagError: the embedder gave something else than unit vectors and zeros, the disk is full, or somebody who does
            not hold the writer lock wrote.
    """
    repeated = [id for id, times in Counter(document.id for document in corpus.documents).items() if times > 1]
    if repeated:
        raise RagRequestError(f"two documents have the id {repeated[0]}; ids must be distinct")
    change = _planned(store, corpus)
    embedded, zeros = 0, frozenset[bytes]()
    unembeddable: list[str] = []
    if change.removed or change.changed or change.added:
        new = (*change.changed, *change.added)
        cut = list(zip(new, chunk_documents(new, store.manifest.chunk, embedder.count_tokens), strict=True))
        with EmbeddedFile(folder, store.manifest.index_id, store.storage, store.manifest.dimension) as vectors:
            embedded, zeros = _embed(store, embedder, [chunk for _, part in cut for chunk in part], vectors, progress)
            for document, part in cut if zeros else ():
                unembeddable += _named(document, part, zeros)
            _make(store, change, [(document, _without(part, zeros)) for document, part in cut], vectors)
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
            kept=change.kept,
            unembeddable=tuple(unembeddable),
        )


def _planned(store: Store, corpus: Corpus) -> _Change:
    with store.database.snapshot():
        known, generation = store.hashes(), store.generation
    wanted = {document.id for document in corpus.documents}
    missing = [id for id in known if id not in wanted]
    unread = {skipped.source for skipped in corpus.skipped}
    kept = tuple(id for id in missing if any(place in unread for place in _places(id))) if unread else ()
    change = _Change(
        generation=generation,
        removed=tuple(id for id in missing if id not in set(kept)),
        kept=kept,
        changed=tuple(doc for doc in corpus.documents if doc.id in known and known[doc.id] != doc.sha256),
        added=tuple(doc for doc in corpus.documents if doc.id not in known),
    )
    for document in (*change.changed, *change.added):
        _check_characters(document)
    return change


def _places(id: str) -> Iterator[str]:
    """A document's id, and the archives and folders above it: `a/b.zip!/c.md` lies in `a/b.zip` and in `a`, the row
    `t.jsonl#7` in `t.jsonl`."""
    yield id
    if "#" in id:
        yield id.partition("#")[0]
    for place, character in enumerate(id):
        if character == "/" and place:
            yield id[:place].removesuffix("!")
    yield "/" if id.startswith("/") else "."


def _check_characters(document: Document) -> None:
    """Half a surrogate pair is no character, and no database takes it."""
    headings = [part.heading_path for part in document.sections]
    values = [document.id, document.title, document.source, document.text, headings, dict(document.metadata)]
    try:
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        character = error.object[error.start]
        raise RagRequestError(
            f"the document {document.id!r} holds {character!r}, half of a character, which UTF-8 cannot say; take it "
            "out or replace it"
        ) from None


def _embed(
    store: Store, embedder: Embedder, chunks: Sequence[Chunk], vectors: EmbeddedFile, progress: Progress | None
) -> tuple[int, frozenset[bytes]]:
    """Puts the vector of every chunk into the file; gives the number of texts that had to be embedded for it, and the
    keys of those that came out as zero, which have none."""
    missing = {key: chunk for chunk in chunks if (key := embedded_key(chunk)) not in vectors}
    with store.database.snapshot():
        for key in list(missing):
            blob = store.known_blob(key)
            if blob is not None:
                vectors.add([(key, blob)])
                del missing[key]
    # Alike lengths together leave the embedder little padding; the longest first shows at once whether memory suffices.
    todo = sorted(missing.items(), key=lambda entry: -entry[1].tokens)
    zeros: set[bytes] = set()
    for start in range(0, len(todo), _SLAB):
        slab = todo[start : start + _SLAB]
        told = None if progress is None else _Shifted(progress, start, len(todo))
        rows, norms = _encoded(embedder, [chunk for _, chunk in slab], told)
        zeros |= {key for (key, _), norm in zip(slab, norms, strict=True) if norm < _ZERO}
        whole = norms >= _ZERO
        keys = [key for key, _ in slab if key not in zeros]
        vectors.add(zip(keys, encode(rows[whole], store.storage), strict=True))
    return len(todo), frozenset(zeros)


def _named(document: Document, chunks: Sequence[Chunk], keys: Collection[bytes]) -> Iterator[str]:
    for chunk in chunks:
        if embedded_key(chunk) in keys:
            yield f"{document.id}, characters {chunk.start:,} to {chunk.end:,}"


def _without(chunks: Sequence[Chunk], keys: Collection[bytes]) -> Sequence[Chunk]:
    """The chunks that have a vector; positions count on without a gap."""
    if not keys:
        return chunks
    kept = [chunk for chunk in chunks if embedded_key(chunk) not in keys]
    return [replace(chunk, position=position) for position, chunk in enumerate(kept)]


@dataclass(frozen=True)
class _Shifted:
    """Tells the progress of one slab as that of all."""

    tell: Progress
    before: int
    total: int

    def __call__(self, done: int, total: int) -> None:
        self.tell(self.before + done, self.total)


def _encoded(embedder: Embedder, chunks: Sequence[Chunk], progress: Progress | None) -> tuple[Vectors, Norms]:
    """float32 [n, dimension], each row of unit length or zero, and the rows' lengths."""
    vectors = embedder.encode_passages([chunk.embedded_text for chunk in chunks], progress)
    if vectors.shape != (len(chunks), embedder.dimension):
        raise RagError(
            f"the embedder {embedder.name} gave vectors of shape {vectors.shape} for {len(chunks)} texts of dimension "
            f"{embedder.dimension}, of {chunks[0].document_id} and others; nothing was stored"
        )
    norms = np.linalg.norm(vectors, axis=1)
    for place in np.flatnonzero(~((np.abs(norms - 1) < 1e-3) | (norms < _ZERO))).tolist():  # NaN is neither
        raise RagError(
            f"the embedder {embedder.name} gave a vector that is not of unit length ({norms[place]:g}) for chunk "
            f"{chunks[place].position} of {chunks[place].document_id}; nothing was stored"
        )
    return vectors, norms


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
