"""The index: sync by content hash in one transaction, the manifest, and what every kind of damage says."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.chunking import ChunkSettings
from rag.documents import Corpus
from rag.embedder import Progress, Vectors
from rag.errors import IncompatibleIndexError, RagError, RagRequestError
from rag.index import Index
from rag.search import SearchSettings
from rag.sync import SyncReport
from rag.verification import verify_index
from tests.rag.hash_embedder import HashEmbedder, make_corpus

SETTINGS = ChunkSettings(24, 4)
TEXTS = {
    "docs/cats.md": "# Cats\nCats purr when they are content.\n## Food\nThey eat fish, and sleep long.\n",
    "docs/dogs.md": "# Dogs\nDogs bark at strangers.\n## Food\nThey eat meat and bones.\n",
    "notes.txt": "Plain notes about ships. " * 12,
}


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(folder / "index.sqlite") as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


def names(folder: Path) -> list[str]:
    """What is not hidden: the writer's lock is."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_first_sync_and_a_second(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        assert index.generation == 0
        report = index.sync(make_corpus(TEXTS))
        count = index.chunk_count
        assert report == SyncReport(3, 0, 0, 0, count, len(set(embedder.read)), 1)
        assert count == len(index.chunks()) > 5
        embedder.read.clear()
        embedder.counted.clear()
        assert index.sync(make_corpus(TEXTS)) == SyncReport(0, 0, 0, 3, count, 0, 1)
        assert embedder.read == embedder.counted == [], "unchanged documents are neither cut nor embedded"
        index.verify()
    assert names(folder) == ["index.sqlite", "lexical-1.postings", "vectors-1.faiss"]


def test_what_is_stored_is_what_was_read(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
    with Index.open(folder) as index:
        assert index.documents() == sorted(make_corpus(TEXTS).documents, key=lambda document: document.id)
        for chunk in index.chunks():
            text = TEXTS[chunk.document_id]
            assert text[chunk.start : chunk.end] == chunk.text
            assert chunk.tokens == embedder.count_tokens([chunk.embedded_text])[0]
        assert {chunk.document_id for chunk in index.chunks(["notes.txt"])} == {"notes.txt"}
        manifest = index.manifest
    assert (manifest.embedder_name, manifest.embedder_revision, manifest.dimension) == ("hash", "1", 48)
    assert manifest.normalized
    assert manifest.chunk == SETTINGS


def test_changed_documents_replace_and_missing_ones_go(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
        embedder.read.clear()
        changed = {**TEXTS, "docs/cats.md": TEXTS["docs/cats.md"].replace("fish", "mice"), "new.txt": "Fresh words."}
        del changed["docs/dogs.md"]
        report = index.sync(make_corpus(changed))
        assert (report.added, report.changed, report.removed, report.unchanged) == (1, 1, 1, 1)
        assert report.generation == index.generation == 2
        assert sorted(embedder.read) == ["Cats > Food\nThey eat mice, and sleep long.", "new\nFresh words."]
        assert report.embedded == 2, "the chunk of the changed document that stayed the same keeps its vector"
        assert {document.id for document in index.documents()} == set(changed)
        assert not index.search("bark", SearchSettings("lexical"))
        assert not index.search("fish", SearchSettings("lexical"))
        assert [hit.chunk.document_id for hit in index.search("mice", SearchSettings("lexical"))] == ["docs/cats.md"]
        index.verify()
    assert rows(folder, "SELECT count(*) FROM chunks WHERE document NOT IN (SELECT key FROM documents)") == [(0,)]
    assert names(folder) == ["index.sqlite", "lexical-2.postings", "vectors-2.faiss"]


def test_a_renamed_document_and_repeated_text_are_embedded_once(folder: Path, embedder: HashEmbedder) -> None:
    body = "# Same\nThe very same words.\n"
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        assert index.sync(make_corpus({"a.md": body, "b.md": body})).embedded == 1
        report = index.sync(make_corpus({"a.md": body, "c.md": body}))
        assert (report.added, report.removed, report.embedded, report.chunks) == (1, 1, 0, 2)
        index.verify()


def test_syncing_an_empty_corpus_empties_the_index(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
        assert index.sync(Corpus(())) == SyncReport(0, 0, 3, 0, 0, 0, 2)
        assert index.search("cats") == []
        index.verify()


def test_two_documents_with_one_id_are_refused(folder: Path, embedder: HashEmbedder) -> None:
    twice = Corpus(make_corpus({"a.md": "one"}).documents + make_corpus({"a.md": "two"}).documents)
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        with pytest.raises(RagRequestError, match=r"two documents have the id a\.md"):
            index.sync(twice)
        assert index.generation == 0


PARTS = ["Cats purr.", "Dogs bark at cats.", "# Head\nCats and dogs.", "Ships sail. " * 20, " ", "Cats purr."]
STATE = st.dictionaries(st.sampled_from(["a.md", "b.md", "c.txt"]), st.sampled_from(PARTS), max_size=3)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STATE, min_size=1, max_size=4))
def test_any_history_of_syncs_ends_like_a_fresh_index(
    folder: Path,
    history: list[dict[str, str]],
) -> None:
    for name in ("grown", "fresh"):
        shutil.rmtree(folder / name, ignore_errors=True)
    with (
        Index.create_or_open(folder / "grown", HashEmbedder(), SETTINGS) as grown,
        Index.create_or_open(folder / "fresh", HashEmbedder(), SETTINGS) as fresh,
    ):
        for state in history:
            grown.sync(make_corpus(state))
        fresh.sync(make_corpus(history[-1]))
        grown.verify()
        assert grown.documents() == fresh.documents()
        assert grown.chunks() == fresh.chunks()
        for mode in ("dense", "lexical", "hybrid"):
            for query in ("cats", "dogs and ships"):
                assert grown.search(query, SearchSettings(mode, 50)) == fresh.search(query, SearchSettings(mode, 50))


def test_progress_counts_what_is_embedded(folder: Path, embedder: HashEmbedder) -> None:
    seen: list[tuple[int, int]] = []
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        report = index.sync(make_corpus(TEXTS), lambda done, total: seen.append((done, total)))
    assert seen[-1] == (report.embedded, report.embedded)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (HashEmbedder(name="other"), "embedder: 'hash' then, 'other' now"),
        (HashEmbedder(revision="2"), "revision: '1' then, '2' now"),
        (HashEmbedder(dimension=32), "dimension: 48 then, 32 now"),
        (HashEmbedder(prompt="query: "), "query prompt: '' then, 'query: ' now"),
    ],
)
def test_another_embedder_is_refused(folder: Path, other: HashEmbedder, message: str) -> None:
    Index.create_or_open(folder, HashEmbedder(), SETTINGS).close()
    for attempt in (Index.open, partial(Index.create_or_open, settings=SETTINGS)):
        with pytest.raises(RagRequestError, match=message) as caught:
            attempt(folder, other)
        assert f"delete the folder {folder}" in str(caught.value)
    Index.create_or_open(folder, HashEmbedder(), SETTINGS).close()


def test_other_chunk_settings_are_refused(folder: Path, embedder: HashEmbedder) -> None:
    Index.create_or_open(folder, embedder, SETTINGS).close()
    with pytest.raises(RagRequestError, match=r"chunk settings: tokens 24, overlap 4, .* then, tokens 32, overlap 4"):
        Index.create_or_open(folder, embedder, ChunkSettings(32, 4))
    with Index.open(folder, embedder) as index:
        assert index.manifest.chunk == SETTINGS


def test_chunks_must_fit_the_embedder(folder: Path) -> None:
    with pytest.raises(RagRequestError, match=r"chunk\.tokens is 24, but the embedder hash reads at most 20"):
        Index.create_or_open(folder, HashEmbedder(max_tokens=20), SETTINGS)
    assert not folder.exists()


def test_without_an_embedder_an_index_reads_alone(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
    with Index.open(folder) as index:
        assert len(index.documents()) == 3
        with pytest.raises(RagRequestError, match=r"to search it, open it with hash \(revision 1\)"):
            index.search("cats")
        with pytest.raises(RagRequestError, match="to sync it"):
            index.sync(make_corpus(TEXTS))


def test_no_index_is_a_wrong_request(folder: Path) -> None:
    with pytest.raises(RagRequestError, match=f"there is no index in {folder}"):
        Index.open(folder)
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"words, no database" * 100, b"SQLite format 3\0" + b"\1" * 5000])
def test_what_is_no_database_is_said(folder: Path, embedder: HashEmbedder, content: bytes) -> None:
    folder.mkdir()
    (folder / "index.sqlite").write_bytes(content)
    for attempt in (Index.open, Index.create_or_open):
        with pytest.raises(RagError, match=r"index\.sqlite is damaged or no index: .*delete the folder"):
            attempt(folder, embedder)


def test_another_programs_database_is_not_touched(folder: Path, embedder: HashEmbedder) -> None:
    folder.mkdir()
    with sqlite3.connect(folder / "index.sqlite") as connection:
        connection.execute("CREATE TABLE precious (x)")
    connection.close()
    before = (folder / "index.sqlite").read_bytes()
    with pytest.raises(RagError, match="is a SQLite file but no finished index"):
        Index.create_or_open(folder, embedder, SETTINGS)
    assert (folder / "index.sqlite").read_bytes() == before


def test_a_newer_format_is_refused(folder: Path, embedder: HashEmbedder) -> None:
    Index.create_or_open(folder, embedder, SETTINGS).close()
    assert rows(folder, "PRAGMA user_version") == [(3,)]
    rows(folder, "PRAGMA user_version = 4")
    with pytest.raises(RagError, match="has the format 4 and this version reads 3; update"):
        Index.open(folder)


def test_an_older_format_has_to_be_made_anew(folder: Path, embedder: HashEmbedder) -> None:
    Index.create_or_open(folder, embedder, SETTINGS).close()
    rows(folder, "PRAGMA user_version = 1")
    with pytest.raises(IncompatibleIndexError, match=r"has the format 1, of an older version.*index again"):
        Index.create_or_open(folder, embedder, SETTINGS)


def test_a_damaged_database_is_said(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        index.sync(make_corpus({f"{number}.txt": f"words {number} " * 200 for number in range(20)}))
    file = folder / "index.sqlite"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RagError, match=r"index\.sqlite is damaged .*delete the folder"):
        Index.open(folder)
    file.write_bytes(whole[:8192] + b"\xa5" * 16384 + whole[24576:])
    with pytest.raises(RagError, match=r"index\.sqlite is damaged"):
        Index.open(folder)


def test_a_damaged_manifest_is_said(folder: Path, embedder: HashEmbedder) -> None:
    Index.create_or_open(folder, embedder, SETTINGS).close()
    rows(folder, "UPDATE meta SET value = '{}' WHERE key = 'manifest'")
    with pytest.raises(RagError, match=r"index\.sqlite is damaged.*: its manifest is not what was written"):
        Index.open(folder)
    rows(folder, "DELETE FROM meta")
    with pytest.raises(RagError, match="it has no manifest"):
        Index.open(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE chunks SET text = 'else' WHERE id = 1", "is not the text of its span"),
        ("DELETE FROM chunks WHERE position = 0", "a chunk is missing before chunk 1"),
        ("UPDATE texts SET text = text || ' more'", "does not have the hash it should"),
        ("UPDATE documents SET title = 'else'", "the row of docs/cats.md is not what was written"),
        ("UPDATE documents SET id = 'else' WHERE key = 1", "the row of else is not what was written"),
        ("UPDATE chunks SET tokens = tokens + 1 WHERE id = 1", "chunk 0 of docs/cats.md is not what was written"),
        (
            "UPDATE vectors SET vector = zeroblob(196) WHERE chunk = 2",
            "the vector of chunk 1 .* is not what was written",
        ),
        ("UPDATE vectors SET vector = x'00' WHERE chunk = 2", "the vector of chunk 1 .* is not what was written"),
        ("DELETE FROM vectors WHERE chunk = 2", r"chunks, \d+ vectors, and should have"),
        ("INSERT INTO texts VALUES (99, '', '[]')", "a row of texts refers to nothing"),
        ("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'chunks'", "the ids of chunks are counted from 1, below"),
        ("INSERT INTO chunks_text (rowid, heading, text) VALUES (999, 'a', 'b')", "the full text differs"),
    ],
)
def test_verify_finds_what_quick_checks_do_not(folder: Path, embedder: HashEmbedder, damage: str, message: str) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
    rows(folder, damage)
    with Index.open(folder) as index, pytest.raises(RagError, match=message):
        index.verify()


def test_a_creation_that_was_cut_off_is_made_anew(folder: Path, embedder: HashEmbedder) -> None:
    folder.mkdir()
    (folder / "index.sqlite").touch()
    with pytest.raises(RagError, match="no finished index"):
        Index.open(folder)
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        assert index.sync(make_corpus(TEXTS)).added == 3


def test_a_second_writer_waits_and_then_is_told(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
    other = sqlite3.connect(folder / "index.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS, wait_seconds=0.1) as index:
        with pytest.raises(RagError, match=r"is being written by another process \(waited 0\.1 s\)"):
            index.sync(Corpus(()))
        assert index.search("cats", SearchSettings("lexical"))[0].chunk.document_id == "docs/cats.md", "readers go on"
    timer = threading.Timer(0.3, other.rollback)
    timer.start()
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS, wait_seconds=10) as index:
        assert index.sync(Corpus(())).removed == 3
    timer.join()
    other.close()


def test_a_full_disk_is_said_and_loses_nothing(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
        before = index.chunks()
        pages = index._store.database.value("PRAGMA page_count")
        index._store.database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(RagError, match=r"the disk that holds .*index\.sqlite is full; nothing committed is lost"):
            index.sync(make_corpus({**TEXTS, "big.txt": "many more words. " * 20000}))
        assert index.chunks() == before
        assert index.generation == 1
        index.verify()


class NotNumbers(HashEmbedder):
    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        return np.full((len(texts), self.dimension), np.nan, dtype=np.float32)


class OneTooMany(HashEmbedder):
    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        return super().encode_passages([*texts, "more"])


@pytest.mark.parametrize(("kind", "message"), [(NotNumbers, "not of unit length"), (OneTooMany, "vectors of shape")])
def test_an_embedder_that_fails_changes_nothing(folder: Path, kind: type[HashEmbedder], message: str) -> None:
    with Index.create_or_open(folder, kind(), SETTINGS) as index:
        with pytest.raises(RagError, match=message):
            index.sync(make_corpus(TEXTS))
        assert index.generation == 0
        index.verify()


def test_the_database_alone_is_the_whole_index(folder: Path, embedder: HashEmbedder, tmp_path: Path) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
        assert (folder / "index.sqlite-wal").stat().st_size == 0, "the journal is moved in at the end of a sync"
        (tmp_path / "copy").mkdir()
        shutil.copy(folder / "index.sqlite", tmp_path / "copy" / "index.sqlite")
        hits = index.search("cats")
    with Index.open(tmp_path / "copy", embedder) as copy:
        assert copy.search("cats") == hits
        copy.verify()


def test_nothing_is_pickled() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (Path(__file__).parents[2] / "rag").rglob("*.py")]
    assert sources
    assert not any("import pickle" in source or "allow_pickle=True" in source for source in sources)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, embedder: HashEmbedder) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RagError, match="cannot be made"):
        Index.create_or_open(tmp_path / "file" / "index", embedder, SETTINGS)


def test_a_folder_that_may_not_be_written_reads(
    folder: Path, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create_or_open(folder, embedder, SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
        hits = index.search("cats")
    (folder / "vectors-1.faiss").unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with Index.open(folder, embedder) as index:
        assert index.search("cats") == hits
        with pytest.raises(RagError, match="cannot be written"):
            index.sync(Corpus(()))
    verification = verify_index(folder)
    assert [finding.part for finding in verification.findings] == ["vectors file"]
    assert verification.notes == ("the full text was not checked: that needs write access",)
    assert names(folder) == ["index.sqlite", "lexical-1.postings"], "nothing was written"
    (folder / "index.sqlite-wal").write_bytes(b"left by a crash")
    with pytest.raises(RagError, match="unfinished journal"):
        Index.open(folder, embedder)
