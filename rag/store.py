"""The truth of an index: its documents, chunks, vectors and full text, as rows of the database."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rag.chunking import Chunk, ChunkSettings
from rag.codes import BrokenVectorError, decode, is_whole
from rag.corpus import Document, Metadata, Section
from rag.database import Database, Row
from rag.embedder import Embedder, Vectors
from rag.errors import DamagedIndexError, RagError
from rag.layout import IndexSettings, Storage
from rag.manifest import Manifest
from rag.mapped import DamagedFileError
from rag.schema import checksum
from rag.writer_lock import writing

Ids = npt.NDArray[np.int64]

_CHUNKS = """SELECT chunks.id, documents.id, position, heading_path, start, "end", page, chunks.text, tokens, title,
    source, metadata FROM chunks JOIN documents ON documents.key = chunks.document"""
_IN_ORDER = " ORDER BY documents.id, position"
_AMONG = " WHERE chunks.id IN (SELECT value FROM json_each(?))"
_TOKEN = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class StoredChunk:
    """A chunk as it lies in the store, with its document's title, source ("": same as the id) and metadata. `id` is
    what the vectors file knows it by; it is never given to another chunk."""

    id: int
    chunk: Chunk
    title: str
    source: str
    metadata: Metadata


class WrongIdError(DamagedFileError):
    """A chunk was asked for that there is not: what named it, a derived file, has to be made anew."""


def embedded_key(chunk: Chunk) -> bytes:
    """What a stored vector is found by: SHA-256 of the text that was embedded."""
    return hashlib.sha256(chunk.embedded_text.encode("utf-8")).digest()


def first_meta(manifest: Manifest, asked: str, generation: int) -> dict[str, str]:
    """The rows of `meta` in a database without chunks; `asked` is the type of FAISS index."""
    of_generation = {"generation": str(generation), _token_key(generation): _new_token()}
    return {"manifest": manifest.to_json(), "chunks": "0", "type": asked, **of_generation}


class Store:
    """Reads and writes the rows; `database` gives the transactions and snapshots to do it in."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.read_manifest()

    def read_manifest(self) -> None:
        """Again: the database may hold an index by now that was made anew since it was opened."""
        self.manifest = Manifest.from_json(self._meta("manifest"), self.database.path)

    @classmethod
    def create_or_open(
        cls, path: Path, embedder: Embedder, settings: ChunkSettings, layout: IndexSettings, wait_seconds: float
    ) -> Store:
        """The store in this file, made for this embedder and these settings where there is none."""
        manifest = Manifest.of(uuid.uuid4().hex, embedder, settings, layout.storage)
        first = first_meta(manifest, layout.type, generation=0)
        if not Database.is_made(path, wait_seconds):
            with writing(path.parent, wait_seconds):
                Database.open(path, wait_seconds, first).close()
        return cls.open(path, wait_seconds)

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
        return self._number("generation")

    @property
    def token(self) -> str:
        """Of this generation, drawn at random when it was made: a file that carries it was derived from these rows. The
        number alone does not say so, since copies of an index count on by themselves."""
        generation = self.generation
        token = self.token_of(generation)
        if token is None:
            raise self.database.damaged(f"its generation {generation} has no token")
        return token

    def token_of(self, generation: int) -> str | None:
        """The token of this generation or an earlier one; None where this index was never of that generation."""
        key = _token_key(generation)
        for value, written in self.database.rows("SELECT value, checksum FROM meta WHERE key = ?", [key]):
            if checksum(key, value) == written and _TOKEN.fullmatch(str(value)):
                return str(value)
        return None

    @property
    def layout(self) -> IndexSettings:
        """How the vectors are kept and searched, as it was asked for."""
        asked: str = self._meta("type")
        if asked not in ("auto", "flat", "hnsw", "ivf"):
            raise self.database.damaged(f"its type is {asked!r}")
        return IndexSettings(asked, self.storage)  # type: ignore[arg-type]  # checked above

    @property
    def storage(self) -> Storage:
        return self.manifest.storage

    def ask_for_type(self, asked: str) -> None:
        """Keeps another type of FAISS index in mind, in a transaction of its own."""
        if self._meta("type") != asked:
            with self.database.transaction():
                self.set_meta("type", asked)

    def hashes(self) -> dict[str, str]:
        """Document id -> SHA-256 of the content."""
        rows = self.database.rows("SELECT id, sha256 FROM documents ORDER BY id")
        return {str(id): str(sha256) for id, sha256 in rows}

    def documents(self) -> list[Document]:
        """All documents, by id."""
        return [document for _, document in self.stored_documents()]

    def stored_documents(self) -> Iterator[tuple[str, Document]]:
        """(the SHA-256 as it was written, the document) of all documents, by id, a few at a time."""
        query = """SELECT id, title, source, metadata, sha256, text, sections
            FROM documents JOIN texts ON texts.document = documents.key ORDER BY id"""
        for block in self.database.blocks(query, size=64):
            for id, title, source, metadata, sha256, text, sections in block:
                with self._readable():
                    parts = tuple(Section(tuple(path), *span) for path, *span in json.loads(str(sections)))
                    known = json.loads(str(metadata))
                yield str(sha256), Document(str(id), str(title), str(text), parts, str(source), known)

    def chunks(self, ids: Collection[int] | None = None) -> list[StoredChunk]:
        """The chunks of these ids, or all, by document and position.

        Raises:
            WrongIdError: there is no such chunk.
            DamagedIndexError: a row cannot be read.
        """
        query, values = (_CHUNKS, []) if ids is None else (_CHUNKS + _AMONG, [_listed(ids)])
        rows = self.database.rows(query + _IN_ORDER, values)
        if ids is not None and len(rows) != len(set(ids)):
            raise self._missing(ids, "the document of a chunk is missing")
        with self._readable():
            return [_stored_chunk(row) for row in rows]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """What a row holds is of another kind than what is written there."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise self.database.damaged(f"a row is not what was written ({error})") from error

    def count_chunks(self) -> int:
        return self._number("chunks")

    def chunk_ids(self, documents: Collection[str]) -> list[int]:
        """Ids of the chunks of these documents, ascending."""
        rows = self.database.rows(
            "SELECT chunks.id FROM chunks JOIN documents ON documents.key = chunks.document "
            "WHERE documents.id IN (SELECT value FROM json_each(?)) ORDER BY chunks.id",
            [json.dumps(sorted(documents))],
        )
        return [int(str(row[0])) for row in rows]

    def all_ids(self) -> Ids:
        """int64 [n]: the ids of all chunks, ascending."""
        # Of all that holds the ids, the index over documents and positions is the narrowest.
        query = "SELECT id FROM chunks INDEXED BY sqlite_autoindex_chunks_1"
        blocks = [
            np.fromiter((row[0] for row in block), dtype=np.int64, count=len(block))
            for block in self.database.blocks(query, size=65536)
        ]
        return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *blocks]))

    def vectors(self, ids: Collection[int]) -> Vectors:
        """float32 [n, dimension]: the stored vectors of these chunks, in their order.

        Raises:
            WrongIdError: there is no such chunk.
            DamagedIndexError: a vector is missing, or a bit of it is not what was written.
        """
        query = "SELECT chunk, vector FROM vectors WHERE chunk IN (SELECT value FROM json_each(?))"
        found = {id: blob for id, blob in self.database.rows(query, [_listed(ids)])}
        missing = [id for id in ids if id not in found]
        if missing:
            raise self._missing(missing, f"the vector of chunk {missing[0]} is missing")
        return self._decoded([found[id] for id in ids], list(ids))

    def _missing(self, ids: Collection[int], otherwise: str) -> WrongIdError | DamagedIndexError:
        """Which is to blame: whoever named an id that no chunk has, or else the database."""
        query = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT id FROM chunks) LIMIT 1"
        for (id,) in self.database.rows(query, [_listed(ids)]):
            return WrongIdError(f"{self.database.path} has no chunk {id}, which a file that is derived from it names")
        return self.database.damaged(otherwise)

    def vector_blocks(self, size: int = 8192, by_document: bool = False) -> Iterator[tuple[Ids, Vectors]]:
        """All stored vectors as (int64 [n], float32 [n, dimension]) blocks, by id, or by document and position.

        Raises:
            DamagedIndexError: as `vectors`.
        """
        query = "SELECT chunk, vector FROM vectors ORDER BY chunk"
        if by_document:  # the same order whatever the history of the file
            query = f"""SELECT chunk, vector FROM chunks JOIN documents ON documents.key = chunks.document
                JOIN vectors ON vectors.chunk = chunks.id {_IN_ORDER}"""
        for block in self.database.blocks(query, size=size):
            ids = [int(str(id)) for id, _ in block]
            yield np.array(ids, dtype=np.int64), self._decoded([blob for _, blob in block], ids)

    def _decoded(self, blobs: Sequence[object], ids: Sequence[int]) -> Vectors:
        try:
            return decode(blobs, self.storage, self.manifest.dimension)
        except BrokenVectorError as error:
            raise self.database.damaged(f"the vector of chunk {ids[error.place]} is not what was written") from error

    def known_blob(self, key: bytes) -> bytes | None:
        """The blob of a vector already stored, by `embedded_key`."""
        query = "SELECT vector FROM chunks JOIN vectors ON chunk = id WHERE embedded_sha256 = ? LIMIT 1"
        for (blob,) in self.database.rows(query, [key]):
            if isinstance(blob, bytes) and is_whole(blob, self.storage, self.manifest.dimension):
                return blob
        return None

    def delete_documents(self, ids: Iterable[str]) -> None:
        """Documents and, with them, their chunks, vectors and full text."""
        self.database.execute_many("DELETE FROM documents WHERE id = ?", [(id,) for id in ids])

    def insert_document(self, document: Document, chunks: Sequence[Chunk], blobs: Sequence[bytes]) -> None:
        """One document with its chunks and one vector's blob for each."""
        sections = [[list(part.heading_path), part.start, part.end, part.page] for part in document.sections]
        metadata = json.dumps(dict(sorted(document.metadata.items())))
        named = (document.id, document.title, document.source, metadata, document.sha256)
        key = self.database.execute(
            "INSERT INTO documents (id, title, source, metadata, sha256, checksum) VALUES (?, ?, ?, ?, ?, ?)",
            (*named, checksum(*named)),
        )
        self.database.execute("INSERT INTO texts VALUES (?, ?, ?)", (key, document.text, json.dumps(sections)))
        last = self.database.rows("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'")
        first = 1 + (int(str(last[0][0])) if last else 0)
        rows = []
        for id, chunk in enumerate(chunks, first):
            path, heading = json.dumps(chunk.heading_path), " > ".join(chunk.heading_path)
            values = (chunk.position, path, heading, chunk.start, chunk.end, chunk.page, chunk.text, chunk.tokens)
            rows.append((id, key, *values, embedded_key(chunk), checksum(*values)))
        self.database.execute_many("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self.database.execute_many(
            "INSERT INTO vectors VALUES (?, ?)", [(row[0], blob) for row, blob in zip(rows, blobs, strict=True)]
        )

    def next_generation(self) -> int:
        """Counts one on and draws its token, inside the transaction that makes the change."""
        generation = self.generation + 1
        self.set_meta("generation", str(generation))
        self.set_meta(_token_key(generation), _new_token())
        self.set_meta("chunks", str(self.database.value("SELECT count(*) FROM chunks")))
        return generation

    def set_meta(self, key: str, value: str) -> None:
        self.database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, checksum(key, value)))

    def _number(self, key: str) -> int:
        text = self._meta(key)
        if not text.isdecimal():
            raise self.database.damaged(f"its {key} is {text!r}")
        return int(text)

    def _meta(self, key: str) -> str:
        rows = self.database.rows("SELECT value, checksum FROM meta WHERE key = ?", (key,))
        if not rows:
            raise self.database.damaged(f"it has no {key}")
        if checksum(key, rows[0][0]) != rows[0][1]:
            raise self.database.damaged(f"its {key} is not what was written")
        return str(rows[0][0])


def _token_key(generation: int) -> str:
    return f"token {generation}"


def _new_token() -> str:
    return secrets.token_hex(16)


def _stored_chunk(row: Row) -> StoredChunk:
    id, document_id, position, heading_path, start, end, page, text, tokens, title, source, metadata = row
    path = tuple(str(heading) for heading in json.loads(str(heading_path)))
    numbers = (int(str(position)), path, int(str(start)), int(str(end)))
    on_page = None if page is None else int(str(page))
    chunk = Chunk(str(document_id), *numbers, str(text), int(str(tokens)), on_page)
    return StoredChunk(int(str(id)), chunk, str(title), str(source), json.loads(str(metadata)))


def _listed(ids: Collection[int]) -> str:
    return json.dumps([int(id) for id in ids])
