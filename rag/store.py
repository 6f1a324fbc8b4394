"""The truth of an index: its documents, chunks, vectors and full text, as rows of the database."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rag.chunking import Chunk, ChunkSettings
from rag.corpus import Document, Section
from rag.database import Database, DatabaseBusyError, Row
from rag.embedder import Embedder, Vectors
from rag.errors import RagError
from rag.manifest import Manifest

Ids = npt.NDArray[np.int64]

_CHUNKS = """SELECT chunks.id, documents.id, position, heading_path, start, "end", chunks.text, tokens, title
    FROM chunks JOIN documents ON documents.key = chunks.document"""
_VECTORS = "SELECT chunks.id, vector FROM chunks JOIN documents ON documents.key = chunks.document"
_IN_ORDER = " ORDER BY documents.id, position"
_AMONG = " WHERE chunks.id IN (SELECT value FROM json_each(?))"


@dataclass(frozen=True)
class StoredChunk:
    """A chunk as it lies in the store; `id` is what the vectors file knows it by, and changes with its document."""

    id: int
    chunk: Chunk
    title: str


def embedded_key(chunk: Chunk) -> bytes:
    """What a stored vector is found by: SHA-256 of the text that was embedded."""
    return hashlib.sha256(chunk.embedded_text.encode("utf-8")).digest()


class Store:
    """Reads and writes the rows; `database` gives the transactions and snapshots to do it in."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.manifest = Manifest.from_json(self._meta("manifest"), database.path)

    @classmethod
    def create_or_open(cls, path: Path, embedder: Embedder, settings: ChunkSettings, wait_seconds: float) -> Store:
        """The store in this file, made for this embedder and these settings where there is none."""
        manifest = Manifest.of(uuid.uuid4().hex, embedder, settings)
        return cls._over(Database.open(path, wait_seconds, {"manifest": manifest.to_json(), "generation": "0"}))

    @classmethod
    def open(cls, path: Path, wait_seconds: float) -> Store:
        return cls._over(Database.open(path, wait_seconds))

    @classmethod
    def _over(cls, database: Database) -> Store:
        try:
            return cls(database)
        except RagError:
            database.close()
            raise

    @property
    def generation(self) -> int:
        """Counts the syncs that changed something."""
        return int(self._meta("generation"))

    def hashes(self) -> dict[str, str]:
        """Document id -> SHA-256 of the content."""
        return {
            str(id): str(sha256) for id, sha256 in self.database.rows("SELECT id, sha256 FROM documents ORDER BY id")
        }

    def documents(self) -> list[Document]:
        """All documents, by id."""
        found = []
        rows = self.database.rows("SELECT id, title, text, sections FROM documents ORDER BY id")
        for id, title, text, sections in rows:
            parts = tuple(Section(tuple(path), start, end) for path, start, end in json.loads(str(sections)))
            found.append(Document(str(id), str(title), str(text), parts))
        return found

    def chunks(self, ids: Collection[int] | None = None) -> list[StoredChunk]:
        """The chunks of these ids, or all, by document and position."""
        if ids is None:
            return [_stored_chunk(row) for row in self.database.rows(_CHUNKS + _IN_ORDER)]
        return [_stored_chunk(row) for row in self.database.rows(_CHUNKS + _AMONG + _IN_ORDER, [_listed(ids)])]

    def count_chunks(self) -> int:
        return int(str(self.database.value("SELECT count(*) FROM chunks")))

    def chunk_ids(self, documents: Collection[str]) -> list[int]:
        """Ids of the chunks of these documents, ascending."""
        rows = self.database.rows(
            "SELECT chunks.id FROM chunks JOIN documents ON documents.key = chunks.document "
            "WHERE documents.id IN (SELECT value FROM json_each(?)) ORDER BY chunks.id",
            [json.dumps(sorted(documents))],
        )
        return [int(str(row[0])) for row in rows]

    def vectors(self) -> tuple[Ids, Vectors]:
        """(int64 [n], float32 [n, dimension]) of all chunks, by document and position: in the same order whatever the
        history of the file."""
        rows = self.database.rows(_VECTORS + _IN_ORDER)
        dimension = self.manifest.dimension
        blobs = [blob for _, blob in rows if isinstance(blob, bytes) and len(blob) == 4 * dimension]
        if len(blobs) != len(rows):
            raise self.database.damaged(f"a vector has not {dimension} numbers")
        joined: Vectors = np.frombuffer(b"".join(blobs), dtype="<f4").astype(np.float32).reshape(len(rows), dimension)
        return np.array([id for id, _ in rows], dtype=np.int64), joined

    def known_vectors(self, keys: Iterable[bytes]) -> dict[bytes, Vectors]:
        """Vectors already stored, by `embedded_key`."""
        found: dict[bytes, Vectors] = {}
        for key in keys:
            for (blob,) in self.database.rows("SELECT vector FROM chunks WHERE embedded_sha256 = ? LIMIT 1", [key]):
                if isinstance(blob, bytes) and len(blob) == 4 * self.manifest.dimension:
                    found[key] = np.frombuffer(blob, dtype="<f4").astype(np.float32)
        return found

    def match(self, expression: str, limit: int, ids: Collection[int] | None = None) -> list[tuple[int, float]]:
        """(chunk id, BM25, higher is better) of the best matches of an FTS5 expression, among `ids` if given."""
        # The + keeps SQLite from running the whole search once for every id.
        among = "" if ids is None else "AND +rowid IN (SELECT value FROM json_each(:ids))"
        rows = self.database.rows(
            f"SELECT rowid, -bm25(chunks_text) AS score FROM chunks_text WHERE chunks_text MATCH :expression {among} "
            "ORDER BY score DESC, rowid LIMIT :limit",
            {"expression": expression, "limit": limit} | ({} if ids is None else {"ids": _listed(ids)}),
        )
        return [(int(str(id)), float(str(score))) for id, score in rows]

    def delete_documents(self, ids: Iterable[str]) -> None:
        """Documents and, with them, their chunks, vectors and full text."""
        self.database.execute_many("DELETE FROM documents WHERE id = ?", [(id,) for id in ids])

    def insert_document(self, document: Document, chunks: Sequence[Chunk], vectors: Sequence[Vectors]) -> None:
        """One document with its chunks and one unit vector, float32 [dimension], for each."""
        sections = [[list(section.heading_path), section.start, section.end] for section in document.sections]
        key = self.database.execute(
            "INSERT INTO documents (id, title, sha256, text, sections) VALUES (?, ?, ?, ?, ?)",
            (document.id, document.title, document.sha256, document.text, json.dumps(sections)),
        )
        self.database.execute_many(
            'INSERT INTO chunks (document, position, heading_path, heading, start, "end", text, tokens, '
            "embedded_sha256, vector) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    key,
                    chunk.position,
                    json.dumps(chunk.heading_path),
                    " > ".join(chunk.heading_path),
                    chunk.start,
                    chunk.end,
                    chunk.text,
                    chunk.tokens,
                    embedded_key(chunk),
                    vector.astype("<f4").tobytes(),
                )
                for chunk, vector in zip(chunks, vectors, strict=True)
            ],
        )

    def next_generation(self) -> int:
        """Counts one on, inside the transaction that makes the change."""
        generation = self.generation + 1
        self.database.execute("UPDATE meta SET value = ? WHERE key = 'generation'", (str(generation),))
        return generation

    def problems(self) -> list[str]:
        """What is wrong with the rows, in words: SQLite's own full checks, and what chunks owe to their documents."""
        found = [str(row[0]) for row in self.database.rows("PRAGMA integrity_check")]
        found = [] if found == ["ok"] else found
        found += [f"a row of {row[0]} refers to nothing" for row in self.database.rows("PRAGMA foreign_key_check")]
        if self.database.writable:
            try:
                self.database.execute("INSERT INTO chunks_text (chunks_text, rank) VALUES ('integrity-check', 1)")
            except DatabaseBusyError:
                raise
            except RagError as error:
                found.append(f"the full text differs from the chunks ({error.__cause__})")
        documents = {document.id: document for document in self.documents()}
        hashes = self.hashes()
        found += [f"{id} does not have the hash it should" for id in documents if documents[id].sha256 != hashes[id]]
        positions = dict.fromkeys(documents, 0)
        for stored in self.chunks():
            chunk = stored.chunk
            if documents[chunk.document_id].text[chunk.start : chunk.end] != chunk.text:
                found.append(f"chunk {chunk.position} of {chunk.document_id} is not the text of its span")
            if chunk.position != positions[chunk.document_id]:
                found.append(f"a chunk is missing before chunk {chunk.position} of {chunk.document_id}")
            positions[chunk.document_id] = chunk.position + 1
        _, vectors = self.vectors()
        if vectors.size and float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max()) > 1e-3:
            found.append("a vector is not of unit length")
        return found

    def _meta(self, key: str) -> str:
        rows = self.database.rows("SELECT value FROM meta WHERE key = ?", (key,))
        if not rows:
            raise self.database.damaged(f"it has no {key}")
        return str(rows[0][0])


def _stored_chunk(row: Row) -> StoredChunk:
    id, document_id, position, heading_path, start, end, text, tokens, title = row
    path = tuple(str(heading) for heading in json.loads(str(heading_path)))
    numbers = (int(str(position)), path, int(str(start)), int(str(end)))
    return StoredChunk(int(str(id)), Chunk(str(document_id), *numbers, str(text), int(str(tokens))), str(title))


def _listed(ids: Collection[int]) -> str:
    return json.dumps([int(id) for id in ids])
