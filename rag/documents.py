"""Sources into documents: what the user names, read into a corpus."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from rag import beir, columns, docstrings, files, web
from rag.corpus import Corpus, Document, Metadata, Section, Skipped
from rag.errors import RagRequestError
from rag.limits import Limits
from rag.readers.formats import PLAIN, read, suffix_of
from rag.readers.pool import ReaderPool
from rag.readers.unreadable import Unreadable, UnreadableNow

__all__ = [
    "Corpus",
    "Document",
    "Limits",
    "Metadata",
    "Section",
    "Skipped",
    "fingerprint_sources",
    "load_corpus",
]

# Part of every fingerprint: raise it when a reader starts to read the same bytes differently.
READER_VERSION = 4


def load_corpus(sources: Sequence[str], hosts: Collection[str] = (), limits: Limits | None = None) -> Corpus:
    """Reads what the sources name, in the order given; a file named twice is read once. A source is one of

    - a file, a folder, or a glob (`**` for any number of folders), archives among them;
    - `https://HOST/PATH`, where HOST is among `hosts`;
    - `python-docstrings:[MODULE,...]`, the standard library's documentation;
    - `beir:FOLDER`, a corpus in BEIR's layout;
    - `dataset:WHERE#text=COLUMN,...`, rows of a table (see `rag.columns.DatasetSource`).

    What cannot be read is in `Corpus.skipped`, with its name and the reason; the rest is read.

    Raises:
        RagRequestError: a path that is not there, a glob that matches nothing, a module or a column that does not
            exist, an address whose host is not listed, or a single file named outright whose suffix no reader takes.
    """
    documents: dict[str, Document] = {}
    skipped: dict[Skipped, None] = {}
    bounds = limits or Limits()
    with ReaderPool(bounds) as pool:
        for number, source in enumerate(_checked(sources)):
            part = _read(source, sources[:number], hosts, bounds, pool)
            for document in part.documents:
                first = documents.setdefault(document.id, document)
                if first is not document and first.sha256 != document.sha256:
                    skipped[Skipped(document.id, "another document has this id; the first one is kept")] = None
            skipped.update(dict.fromkeys(part.skipped))
    return Corpus(tuple(documents.values()), tuple(skipped))


def fingerprint_sources(sources: Sequence[str], hosts: Collection[str] = (), limits: Limits | None = None) -> str:
    """Hex SHA-256 over the names and the bytes of everything local that `load_corpus` would read, without parsing.

    The network is not asked: of an address, and of a dataset on the Hub, the fingerprint is of what the source says.

    Raises:
        RagRequestError: as `load_corpus`, as far as names alone tell.
    """
    digest = hashlib.sha256(f"readers {READER_VERSION}".encode())
    for source in _checked(sources):
        digest.update(b"\0source\0")
        for name, path in _source_files(source, hosts, limits or Limits()):
            digest.update(f"\0{len(name)}\0{name}\0".encode("utf-8", "surrogateescape"))
            try:
                digest.update(b"" if path is None else files.file_digest(path))
            except OSError:
                digest.update(b"unreadable")
    return digest.hexdigest()


def _read(source: str, earlier: Sequence[str], hosts: Collection[str], limits: Limits, pool: ReaderPool) -> Corpus:
    if docstrings.is_source(source):
        return docstrings.read_source(source)
    if beir.is_source(source):
        return beir.read_source(source, limits)
    if columns.is_source(source):
        return columns.read_source(source, earlier, limits, pool)
    if web.is_url(source):
        return _read_url(web.check_url(source, hosts), hosts, limits, pool)
    return files.read_source(source, limits, pool)


def _source_files(source: str, hosts: Collection[str], limits: Limits) -> Iterator[tuple[str, Path | None]]:
    """(name, path) of what a source consists of; no path where it is elsewhere."""
    if docstrings.is_source(source):
        yield from docstrings.source_files(source)
    elif beir.is_source(source):
        path = beir.corpus_file(source)
        yield path.as_posix(), path
    elif columns.is_source(source):
        yield source, None
        yield from columns.source_files(source)
    elif web.is_url(source):
        web.check_url(source, hosts)
        yield source, None
    else:
        for found in files.source_files(source, limits):
            if found.problem is None:
                yield found.id, found.path


def _read_url(url: str, hosts: Collection[str], limits: Limits, pool: ReaderPool) -> Corpus:
    try:
        page = web.fetch(url, hosts, limits)
        if suffix_of(page.name) in PLAIN:
            return Corpus((read(url, page.name, page.data, limits),))
    except Unreadable as reason:
        return Corpus((), (Skipped(url, str(reason), isinstance(reason, UnreadableNow)),))
    with tempfile.TemporaryDirectory(prefix="rag-") as folder:
        # The reader's process takes a path; what the page calls itself is not it.
        path = Path(folder) / "page"
        path.write_bytes(page.data)
        return pool.read(url, path, page.name).result()


def _checked(sources: Sequence[str]) -> Sequence[str]:
    if isinstance(sources, str):
        raise RagRequestError(f"the sources must be a list of paths, not the one string {sources!r}")
    for source in sources:
        if not source.strip():
            raise RagRequestError("a source is empty: name a file, a folder, a glob, or python-docstrings:")
        if "\0" in source:
            raise RagRequestError(f"{source!r}: a source cannot hold a NUL character")
    return sources
