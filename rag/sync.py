"""Brings an index to what a corpus holds, in one transaction."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from rag.chunking import Chunk, chunk_document
from rag.corpus import Corpus, Document
from rag.embedder import Embedder, Progress, Vectors
from rag.errors import RagError, RagRequestError
from rag.store import Store, embedded_key


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


def sync_store(store: Store, embedder: Embedder, corpus: Corpus, progress: Progress | None) -> SyncReport:
    """Adds, replaces and removes documents by content hash; call it in a transaction. Unchanged documents are neither
    cut nor embedded, and a text that is stored already keeps its vector. `progress` counts embedded texts.

    Raises:
        RagRequestError: two documents share an id.
        RagError: the embedder gave something else than unit vectors.
    """
    repeated = [id for id, times in Counter(document.id for document in corpus.documents).items() if times > 1]
    if repeated:
        raise RagRequestError(f"two documents have the id {repeated[0]}; ids must be distinct")
    known = store.hashes()
    wanted = {document.id for document in corpus.documents}
    removed = [id for id in known if id not in wanted]
    changed = [doc for doc in corpus.documents if doc.id in known and known[doc.id] != doc.sha256]
    added = [doc for doc in corpus.documents if doc.id not in known]
    embedded = 0
    if removed or changed or added:
        embedded = _replace(store, embedder, removed, changed, added, progress)
        store.next_generation()
    return SyncReport(
        added=len(added),
        changed=len(changed),
        removed=len(removed),
        unchanged=len(wanted) - len(added) - len(changed),
        chunks=store.count_chunks(),
        embedded=embedded,
        generation=store.generation,
    )


def _replace(
    store: Store,
    embedder: Embedder,
    removed: list[str],
    changed: list[Document],
    added: list[Document],
    progress: Progress | None,
) -> int:
    """Makes the change and gives the number of texts that had to be embedded."""
    cut: list[tuple[Document, list[Chunk]]] = [
        (document, chunk_document(document, store.manifest.chunk, embedder.count_tokens))
        for document in changed + added
    ]
    texts = {embedded_key(chunk): chunk.embedded_text for _, chunks in cut for chunk in chunks}
    vectors = store.known_vectors(texts)
    missing = [key for key in texts if key not in vectors]
    if missing:
        vectors |= dict(zip(missing, _encoded(embedder, [texts[key] for key in missing], progress), strict=True))
    store.delete_documents([*removed, *(document.id for document in changed)])
    for document, chunks in cut:
        store.insert_document(document, chunks, [vectors[embedded_key(chunk)] for chunk in chunks])
    return len(missing)


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
