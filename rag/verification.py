"""Whether everything in an index is what was written: every row, every page, every block of the derived files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rag.chunking import embedded_text
from rag.codes import is_whole
from rag.corpus import Document, Section
from rag.database import Database, Row
from rag.database_errors import DatabaseBusyError
from rag.errors import DamagedIndexError, IncompatibleIndexError, RagError
from rag.index_files import DATABASE, repair_leftovers
from rag.lexical import LexicalIndex
from rag.mapped import DamagedFileError
from rag.schema import checksum
from rag.store import Store
from rag.vectors import VectorIndex
from rag.vectors_file import leftovers, read_file
from rag.writer_lock import writing

Part = Literal["database", "document", "full text", "vectors file", "lexical file"]

_DOCUMENT = """SELECT id, title, source, metadata, sha256, checksum, text, sections
    FROM documents LEFT JOIN texts ON texts.document = documents.key WHERE key = ?"""
_CHUNKS = """SELECT position, heading_path, heading, start, "end", page, text, tokens, embedded_sha256, checksum, vector
    FROM chunks LEFT JOIN vectors ON vectors.chunk = chunks.id WHERE document = ? ORDER BY position"""
# A block of text found wrong is enough to know of a file; all of them would fill the screen.
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `document` is the id of the one that it concerns, where it is one document's."""

    part: Part
    what: str
    document: str | None = None


@dataclass(frozen=True)
class Verification:
    """What `verify_index` found. `vectors` says which kind of FAISS index there is; `notes` are no faults."""

    folder: Path
    generation: int | None
    documents: int
    chunks: int
    vectors: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.findings


@dataclass(frozen=True)
class _Derived:
    """How the files are that are derived from the database: which kind of FAISS index there is, what is wrong, and what
    is left over."""

    vectors: str
    findings: tuple[Finding, ...]
    leftovers: tuple[Path, ...]


def verify_index(folder: Path, wait_seconds: float = 10.0, *, locked: bool = False) -> Verification:
    """Reads the whole index, in blocks. What one flipped bit can change is found: SQLite's structure by its own checks,
    documents and chunks by their hashes, vectors by their checksums, the full text and the files derived from the
    database by comparison with it. Others may search and sync meanwhile. `locked` says that the caller holds the writer
    lock.

    Raises:
        RagRequestError: there is no index.
        IncompatibleIndexError: it is of an older format.
        RagError: it is of a newer format, or cannot be read.
    """
    try:
        store = Store.open(folder / DATABASE, wait_seconds)
    except IncompatibleIndexError:
        raise
    except DamagedIndexError as error:
        return Verification(folder, None, 0, 0, "", (Finding("database", str(error)),), ())
    try:
        return verify_store(folder, store, locked=locked)
    finally:
        store.database.close()


def verify_store(folder: Path, store: Store, *, locked: bool = False) -> Verification:
    """The same for an index that is open."""
    notes: list[str] = []
    findings = [*_full_text(store.database, notes)]
    documents = chunks = 0
    generation, derived = None, None
    with store.database.snapshot():
        findings += _pages(store.database)
        try:
            generation = store.generation
            documents = int(str(store.database.value("SELECT count(*) FROM documents")))
            chunks = int(str(store.database.value("SELECT count(*) FROM chunks")))
            counts = [chunks, store.count_chunks(), int(str(store.database.value("SELECT count(*) FROM vectors")))]
            if len(set(counts)) > 1:
                findings.append(Finding("database", f"it has {counts[0]} chunks, {counts[2]} vectors, and should have "
                                        f"{counts[1]}"))  # fmt: skip
            asked = (store.layout, store.token)  # which can be read, then
        except DamagedIndexError as error:
            findings.append(Finding("database", str(error)))
            asked = None
        findings += broken_documents(store)
        if generation is not None and asked is not None:
            derived = _derived(folder, store)
    if derived is not None and not locked and (derived.findings or derived.leftovers):
        derived = _derived_for_sure(folder, store, derived, notes)
    if derived is not None:
        findings += derived.findings
        notes += [f"{path.name} is left over; the next sync takes it away" for path in derived.leftovers]
    words = "" if derived is None else derived.vectors
    return Verification(folder, generation, documents, chunks, words, tuple(findings), tuple(notes))


def _derived_for_sure(folder: Path, store: Store, seen: _Derived, notes: list[str]) -> _Derived:
    """Between a commit and the new files a sync looks like damage: only while nobody can write does it count."""
    if store.database.alone:  # this process cannot hold the lock, and nobody had the database open to write
        return seen
    with ExitStack() as held:
        try:
            held.enter_context(writing(folder, 0))
        except RagError:
            if seen.findings:
                notes.append(
                    "the files derived from the database were not checked: a writer is at work, or the lock cannot be "
                    "taken"
                )
            return _Derived(seen.vectors, (), ())
        with store.database.snapshot():
            try:
                return _derived(folder, store)
            except DamagedIndexError as error:
                return _Derived("", (Finding("database", str(error)),), ())


def _derived(folder: Path, store: Store) -> _Derived:
    generation = store.generation
    vectors, wrong = _vectors(folder, store, generation)
    index, wrong_postings = _lexical(folder, store)
    findings = [Finding("vectors file", what) for what in wrong]
    findings += [Finding("lexical file", what) for what in wrong_postings]
    left = [*leftovers(folder, generation), *([] if index is None else index.leftovers(folder))]
    return _Derived(vectors, tuple(findings), (*left, *repair_leftovers(folder)))


def _pages(database: Database) -> Iterator[Finding]:
    """SQLite's own checks: pages, trees, indexes, and that every row refers to one that there is."""
    try:
        rows = [str(row[0]) for row in database.rows("PRAGMA integrity_check(20)")]
        yield from (Finding("database", row) for row in rows if row != "ok")
        for row in database.rows("PRAGMA foreign_key_check")[:_SHOWN]:
            yield Finding("database", f"a row of {row[0]} refers to nothing")
        for key, value, written in database.rows("SELECT key, value, checksum FROM meta"):
            if checksum(key, value) != written:
                yield Finding("database", f"its {key} is not what was written")
        last = {name: seq for name, seq in database.rows("SELECT name, seq FROM sqlite_sequence")}
        for table, key in (("documents", "key"), ("chunks", "id")):
            highest = database.value(f"SELECT max({key}) FROM {table}")
            if highest is not None and int(str(last.get(table, 0))) < int(str(highest)):
                yield Finding("database", f"the ids of {table} are counted from {last.get(table, 0)}, below {highest}")
    except DamagedIndexError as error:
        yield Finding("database", str(error))


def _full_text(database: Database, notes: list[str]) -> Iterator[Finding]:
    """FTS5 compares its table with the chunks, which SQLite counts as writing."""
    if not database.writable:
        notes.append("the full text was not checked: that needs write access")
        return
    try:
        with database.transaction():
            database.execute("INSERT INTO chunks_text (chunks_text, rank) VALUES ('integrity-check', 1)")
    except DatabaseBusyError:
        notes.append("the full text was not checked: another process is writing")
    except RagError as error:
        yield Finding("full text", f"the full text differs from the chunks ({error.__cause__})")


def broken_documents(store: Store) -> Iterator[Finding]:
    """Documents of which a row is not what was written."""
    for key in document_keys(store.database):
        id, fault = document_fault(store, key)
        if fault is not None:
            yield Finding("document", fault, id)


def document_keys(database: Database) -> list[int]:
    """The keys of all documents, of as many as can be read."""
    found: set[int] = set()
    for query in ("SELECT key FROM documents", "SELECT document FROM texts"):
        try:
            for block in database.blocks(query):
                found |= {int(str(row[0])) for row in block}
        except DamagedIndexError:
            continue
    return sorted(found)


def document_fault(store: Store, key: int) -> tuple[str, str | None]:
    """(the document's id, what is wrong with its rows, None where nothing is)."""
    name = f"document {key}"
    try:
        rows = store.database.rows(_DOCUMENT, [key])
        if not rows:
            return name, "its row is missing"
        name = str(rows[0][0])
        document = _document(rows[0])
        if checksum(*rows[0][:5]) != rows[0][5]:
            return name, f"the row of {name} is not what was written"
        if document.sha256 != rows[0][4]:
            return name, f"{name} does not have the hash it should"
        for place, row in enumerate(store.database.rows(_CHUNKS, [key])):
            fault = _chunk_fault(store, document, place, row)
            if fault is not None:
                return name, fault
    except (DamagedIndexError, ValueError, TypeError) as error:
        return name, f"{name} cannot be read: {error}"
    return name, None


def _document(row: Row) -> Document:
    id, title, source, metadata, _, _, text, sections = row
    parts = tuple(Section(tuple(path), *span) for path, *span in json.loads(str(sections)))
    return Document(str(id), str(title), str(text), parts, str(source), json.loads(str(metadata)))


def _chunk_fault(store: Store, document: Document, place: int, row: Row) -> str | None:
    position, heading_path, _, start, end, _, text, _, key, written, vector = row
    if position != place:
        return f"a chunk is missing before chunk {position} of {document.id}"
    if document.text[int(str(start)) : int(str(end))] != text:
        return f"chunk {position} of {document.id} is not the text of its span"
    embedded = embedded_text(json.loads(str(heading_path)), str(text))
    if checksum(*row[:8]) != written or hashlib.sha256(embedded.encode("utf-8")).digest() != key:
        return f"chunk {position} of {document.id} is not what was written"
    if not is_whole(vector, store.storage, store.manifest.dimension):
        return f"the vector of chunk {position} of {document.id} is not what was written"
    return None


def _vectors(folder: Path, store: Store, generation: int) -> tuple[str, list[str]]:
    """(what the file says of itself, what is wrong with it)."""
    file = read_file(folder / f"vectors-{generation}.faiss", store.token, generation)
    if file is None:
        return "", [f"vectors-{generation}.faiss is missing, torn, or of another index, history or generation"]
    broken = file.broken_blocks(everything=True)
    if broken:
        shown = ", ".join(str(number) for number in broken[:_SHOWN])
        return file.layout.words, [f"{file.path.name}: {len(broken)} blocks are not what was written ({shown})"]
    found = VectorIndex.read(folder, store)
    if found is None:
        return file.layout.words, [f"{file.path.name} is no FAISS index of this one's chunks"]
    return file.layout.words, [f"{file.path.name}: {what}" for what in _guarded(lambda: _differences(found, store))]


def _differences(found: VectorIndex, store: Store) -> list[str]:
    if not np.array_equal(found.ids(), store.all_ids()):
        return ["its chunks are not those of the database"]
    strange = found.strange_vector()
    return [] if strange is None else [f"the vector of chunk {strange} differs from the database"]


def _lexical(folder: Path, store: Store) -> tuple[LexicalIndex | None, list[str]]:
    """(the file's index, what is wrong with it)."""
    index = LexicalIndex.read(folder, store)
    if index is None:
        return None, [f"lexical-{store.generation}.postings is missing, damaged, or of another index or generation"]
    return index, _guarded(lambda: index.problems(store))


def _guarded(look: Callable[[], list[str]]) -> list[str]:
    """Where the database itself cannot be read, comparing a file with it says nothing of the file."""
    try:
        return look()
    except DamagedFileError as error:
        return [str(error)]
    except DamagedIndexError:
        return []
