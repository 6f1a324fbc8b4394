"""Sources into documents: what the user names, read into a corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from rag import docstrings, files
from rag.corpus import Corpus, Document, Section, Skipped
from rag.errors import RagRequestError

__all__ = ["Corpus", "Document", "Section", "Skipped", "fingerprint_sources", "load_corpus"]

# Part of every fingerprint: raise it when a reader starts to read the same bytes differently.
READER_VERSION = 1


def load_corpus(sources: Sequence[str]) -> Corpus:
    """Reads files, folders, globs and `python-docstrings:[MODULE,...]`, in the order given; a file named twice is
    read once.

    A file of a folder or of a glob that cannot be read as text (or that no reader takes) is in `Corpus.skipped`.

    Raises:
        RagRequestError: a path that is not there, a glob that matches nothing, a module that does not exist, or a
            single file named outright whose suffix no reader takes.
    """
    documents: dict[str, Document] = {}
    skipped: dict[Skipped, None] = {}
    for source in _checked(sources):
        part = docstrings.read_source(source) if docstrings.is_source(source) else files.read_source(source)
        for document in part.documents:
            documents.setdefault(document.id, document)
        skipped.update(dict.fromkeys(part.skipped))
    return Corpus(tuple(documents.values()), tuple(skipped))


def fingerprint_sources(sources: Sequence[str]) -> str:
    """Hex SHA-256 over the names and the bytes of everything that `load_corpus(sources)` would read, without parsing.

    Raises:
        RagRequestError: as `load_corpus`.
    """
    digest = hashlib.sha256(f"readers {READER_VERSION}".encode())
    for source in _checked(sources):
        digest.update(b"\0source\0")
        found = docstrings.source_files(source) if docstrings.is_source(source) else files.source_files(source)
        for name, path in found:
            digest.update(f"\0{len(name)}\0{name}\0".encode("utf-8", "surrogateescape"))
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError:
                digest.update(b"unreadable")
    return digest.hexdigest()


def _checked(sources: Sequence[str]) -> Sequence[str]:
    if isinstance(sources, str):
        raise RagRequestError(f"the sources must be a list of paths, not the one string {sources!r}")
    for source in sources:
        if not source.strip():
            raise RagRequestError("a source is empty: name a file, a folder, a glob, or python-docstrings:")
    return sources
