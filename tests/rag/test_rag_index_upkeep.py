"""What happens around an index: writers at work, files left over, documents that cannot be read or embedded."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import rag.index
import rag.repair
from rag.chunking import ChunkSettings
from rag.corpus import Corpus, Document, Section, Skipped
from rag.database import Database
from rag.documents import load_corpus
from rag.embedder import Progress, Vectors
from rag.errors import DamagedIndexError, RagError, RagRequestError
from rag.index import Index, remove_index
from rag.layout import IndexSettings
from rag.repair import repair_index
from rag.search import SearchSettings
from rag.store import Store
from rag.verification import verify_index
from rag.writer_lock import writing
from tests.rag.hash_embedder import HashEmbedder, make_corpus

SETTINGS = ChunkSettings(24, 4)
TEXTS = {f"docs/{name}.md": f"# {name}\nAll about {name}.\n## Food\nWhat {name} eat. " * 3 for name in ("cats", "dogs")}


@pytest.fixture
def made(folder: Path) -> Path:
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        index.sync(make_corpus(TEXTS))
    return folder


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".writer")}


def corpus(texts: dict[str, str], *skipped: str) -> Corpus:
    return Corpus(make_corpus(texts).documents, tuple(Skipped(source, "permission denied") for source in skipped))


def test_verifying_between_a_commit_and_its_files_finds_no_damage(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment in which a sync has committed, and the derived files are still those of the generation before."""
    seen = []
    put = rag.index.put_derived_in_place

    def looked_at(folder: Path, store: Store) -> None:
        seen.append(verify_index(folder))
        put(folder, store)

    monkeypatch.setattr(rag.index, "put_derived_in_place", looked_at)
    with Index.open(made, HashEmbedder()) as index:
        index.sync(make_corpus({"new.txt": "Fresh words."}))
        index.verify()
    (during,) = seen
    assert during.generation == 2
    assert during.ok, during.findings
    assert any("a writer is at work" in note for note in during.notes)


def test_verify_finds_missing_files_while_nobody_writes_and_keeps_nobody_waiting(made: Path) -> None:
    (made / "lexical-1.postings").unlink()
    assert [finding.part for finding in verify_index(made).findings] == ["lexical file"]
    with writing(made, 0):
        assert verify_index(made).ok, "this cannot be told from a sync at work"
        assert not verify_index(made, locked=True).ok


def test_repair_waits_for_the_writer_before_it_looks(made: Path) -> None:
    (made / "vectors-1.faiss").unlink()
    with writing(made, 0), pytest.raises(RagError, match="being written by another process"):
        repair_index(made, wait_seconds=0.05)
    assert repair_index(made).rebuilt == ("vectors file",)


def test_removing_an_index_leaves_the_users_files(made: Path) -> None:
    for name in ("vectors-mine.npy", "lexical-notes.txt", "index.sqlite.bak", "vectors-1.faiss.bak", ".embedded.txt"):
        (made / name).write_text("mine")
    (made / "vectors-dir").mkdir()
    (made / "vectors-dir" / "precious.txt").write_text("mine")
    (made / "vectors-7.faiss").mkdir()
    mine = {path.name for path in made.iterdir()} - {"index.sqlite", "vectors-1.faiss", "lexical-1.postings"}
    for name in (
        "vectors-2.faiss.tmp",
        "lexical-0.postings.tmp",
        "repaired.sqlite-wal",
        "index.sqlite-shm",
        ".embedded",
    ):
        (made / name).write_text("an index's")
    with writing(made, 0), pytest.raises(RagError, match="being written by another process"):
        remove_index(made, wait_seconds=0.05)
    assert (made / "index.sqlite").exists(), "nothing goes while somebody writes"
    remove_index(made)
    assert {path.name for path in made.iterdir()} == mine
    assert (made / "vectors-dir" / "precious.txt").read_text() == "mine"


class KnowsNoDogs(HashEmbedder):
    """A static model: a text of which it knows no word has no direction."""

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        rows = super().encode_passages(texts, progress)
        rows[["ŋŋŋ" in text for text in texts]] = 0
        return rows


def test_a_text_that_embeds_to_zero_is_left_out_and_named(folder: Path) -> None:
    text = "Plain words at first. " * 8 + "\n\n" + "ŋŋŋ " * 30 + "\n\n" + "Plain words at last. " * 8
    with Index.create_or_open(folder, KnowsNoDogs(), SETTINGS) as index:
        report = index.sync(make_corpus({"a.txt": text, "b.txt": "ŋŋŋ", "c.txt": "More plain words."}))
        assert (report.added, report.chunks) == (3, index.chunk_count)
        assert any(place.startswith("b.txt, characters 0 to 3") for place in report.unembeddable)
        named = [place for place in report.unembeddable if place.startswith("a.txt, characters ")]
        assert named, "the position is told"
        assert {place.split(",")[0] for place in report.unembeddable} == {"a.txt", "b.txt"}
        positions = [chunk.position for chunk in index.chunks(["a.txt"])]
        assert positions == list(range(len(positions))), "no gap stays"
        assert len(positions) > 1
        assert not any("ŋ" in chunk.text for chunk in index.chunks())
        assert index.document_ids() == ["a.txt", "b.txt", "c.txt"]
        index.verify()
        assert index.sync(make_corpus({"a.txt": text, "b.txt": "ŋŋŋ", "c.txt": "More plain words."})).unchanged == 3
    assert verify_index(folder).ok


class NotANumber(HashEmbedder):
    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        rows = super().encode_passages(texts, progress)
        rows[["dogs" in text for text in texts]] = np.nan
        return rows


def test_what_is_no_number_names_its_document_and_stores_nothing(folder: Path) -> None:
    with Index.create_or_open(folder, NotANumber(), SETTINGS) as index:
        with pytest.raises(RagError, match=r"not of unit length \(nan\) for chunk \d of docs/dogs\.md; nothing was"):
            index.sync(make_corpus(TEXTS))
        assert index.generation == 0


def change(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "index.sqlite")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "trap",
    [
        "CREATE TRIGGER chunks_text_evil AFTER INSERT ON documents BEGIN UPDATE documents SET title = 'evil'; END",
        "CREATE VIEW chunks_text_view AS SELECT 1",
        "CREATE TABLE chunks_text_content (x)",
        "CREATE INDEX chunks_text_index ON chunks (text)",
        "CREATE VIRTUAL TABLE chunks_text_more USING fts5 (x)",
    ],
)
def test_a_name_like_the_full_texts_own_exempts_nothing(made: Path, trap: str) -> None:
    change(made, trap)
    with pytest.raises(DamagedIndexError, match="its tables are not those that they should be"):
        Index.open(made, HashEmbedder())


def test_nothing_in_a_file_is_trusted_before_its_tables_are_known(made: Path) -> None:
    database = Database.open(made / "index.sqlite", 1, checked=False)
    assert database.value("PRAGMA trusted_schema") == 0
    database.close()


def test_a_reader_keeps_no_sync_waiting(made: Path) -> None:
    reader = sqlite3.connect(made / "index.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM chunks").fetchall()
    waited = []
    with Index.open(made, HashEmbedder(), wait_seconds=3600) as index:  # which would be noticed
        thread = threading.Thread(target=lambda: waited.append(index.sync(make_corpus({"new.txt": "Fresh words."}))))
        thread.start()
        thread.join(timeout=120)
        assert [report.generation for report in waited] == [2]
        assert (made / "index.sqlite-wal").stat().st_size > 0, "the reader still needs what was there before"
        reader.execute("COMMIT")
    assert not (made / "index.sqlite-wal").exists() or (made / "index.sqlite-wal").stat().st_size == 0
    reader.close()


def test_the_journal_is_moved_in_at_closing_while_others_have_the_index_open(made: Path, tmp_path: Path) -> None:
    reader = sqlite3.connect(made / "index.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM chunks").fetchall()
    with Index.open(made, HashEmbedder()) as index:
        index.sync(make_corpus({"new.txt": "Fresh words."}))
        reader.execute("COMMIT")
    assert (made / "index.sqlite-wal").stat().st_size == 0
    (tmp_path / "copy").mkdir()
    shutil.copy(made / "index.sqlite", tmp_path / "copy" / "index.sqlite")
    reader.close()
    with Index.open(tmp_path / "copy") as copy:
        assert copy.document_ids() == ["new.txt"]


@pytest.mark.parametrize("skipped", ["docs/dogs.md", "docs", "."])
def test_what_cannot_be_read_for_a_moment_stays(made: Path, skipped: str) -> None:
    cats = {"docs/cats.md": TEXTS["docs/cats.md"]}
    with Index.open(made, HashEmbedder()) as index:
        report = index.sync(corpus(cats, skipped))
        assert (report.kept, report.removed, report.unchanged, report.generation) == (("docs/dogs.md",), 0, 1, 1)
        assert index.search("dogs", SearchSettings("lexical"))[0].chunk.document_id == "docs/dogs.md"
        report = index.sync(corpus(cats, "docs/dogs.md.bak", "docs/do", "other"))
        assert (report.kept, report.removed) == ((), 1), "of which nothing is said is gone for good"
        assert index.document_ids() == ["docs/cats.md"]


def test_an_archive_that_cannot_be_read_keeps_what_was_in_it(folder: Path) -> None:
    texts = {"a.zip!/x.md": "One of them.", "a.zip!/in/y.md": "Two of them.", "https://h.org/p": "A page of the web."}
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        index.sync(make_corpus(texts))
        report = index.sync(corpus({}, "a.zip", "https://h.org/p"))
        assert (set(report.kept), report.removed) == (set(texts), 0)
        assert index.sync(corpus({}, "a.zip!/x.md")).kept == ("a.zip!/x.md",)
        assert index.document_ids() == ["a.zip!/x.md"]


def test_a_file_that_is_empty_for_a_moment_and_one_that_is_gone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    for name in ("a", "b"):
        Path(f"docs/{name}.txt").write_text(f"Words of {name}.")
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        index.sync(load_corpus(["docs"]))
        Path("docs/a.txt").write_text("")
        Path("docs/b.txt").unlink()
        report = index.sync(load_corpus(["docs"]))
        assert (report.kept, report.removed) == (("docs/a.txt",), 1)
        Path("docs/a.txt").unlink()
        assert index.sync(load_corpus(["docs"])).removed == 1
        assert index.document_ids() == []


OPENER = """
import sys, time
from pathlib import Path
import rag.index, tests.rag.hash_embedder as hashed
from rag.chunking import ChunkSettings
print("ready", flush=True)
sys.stdin.readline()
for number in range(15):
    while not Path(sys.argv[1], f"go{number}").exists():
        time.sleep(0.0005)
    rag.index.Index.create_or_open(
        Path(sys.argv[1], f"index{number}"), hashed.HashEmbedder(), ChunkSettings(24, 4), wait_seconds=60
    ).close()
"""


def test_many_may_make_one_index_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPENER, str(tmp_path)]
    root = Path(__file__).parents[2]
    openers = [
        subprocess.Popen(
            command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for opener in openers:
        assert opener.stdout is not None and opener.stdin is not None
        assert opener.stdout.readline() == "ready\n"
        opener.stdin.write("\n")
        opener.stdin.flush()
    for number in range(15):
        (tmp_path / f"go{number}").touch()
    errors = [opener.communicate(timeout=120)[1] for opener in openers]
    assert [opener.returncode for opener in openers] == [0] * 4, "\n".join(errors)
    assert all(verify_index(tmp_path / f"index{number}").ok for number in range(15))


def test_making_an_index_waits_for_who_holds_the_file(folder: Path) -> None:
    """SQLite's own change to a journal waits for nobody."""
    folder.mkdir()
    (folder / "index.sqlite").touch()
    reader = sqlite3.connect(folder / "index.sqlite", isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, reader.rollback)
    timer.start()
    Index.create_or_open(folder, HashEmbedder(), SETTINGS, wait_seconds=60).close()
    timer.join()
    reader.close()


def test_a_wrong_id_in_a_derived_file_is_the_files_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the middle of a large file of clusters, which no opening reads whole."""
    texts = {f"{number}.txt": f"Words of {number}, and what{number % 7} they say." for number in range(1100)}
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS, IndexSettings("ivf", "int8")) as index:
        index.sync(make_corpus(texts))
        expected = {hit.chunk.document_id for hit in index.search("Words of 977", SearchSettings("dense", 3))}
    path = folder / "vectors-1.faiss"
    content = path.read_bytes()
    with Index.open(folder) as index:
        (wanted,) = index._store.chunk_ids(["977.txt"])
    old, new = wanted.to_bytes(8, "little"), (999_999).to_bytes(8, "little")
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    monkeypatch.setattr("rag.vectors_file.VectorsFile.broken_blocks", lambda self, everything: [])
    with Index.open(folder, HashEmbedder()) as index:
        hits = index.search("Words of 977", SearchSettings("dense", 3))
        assert {hit.chunk.document_id for hit in hits} == expected
    assert not path.exists() or path.read_bytes() != content.replace(old, new), "it is not used again"
    monkeypatch.undo()
    Index.open(folder, HashEmbedder()).close()
    assert verify_index(folder).ok


LEFT = (
    "lexical-0.postings",
    "lexical-1.postings.tmp",
    "lexical-7.postings.tmp",
    "repaired.sqlite",
    "repaired.sqlite-wal",
)


@pytest.mark.parametrize("left", LEFT)
def test_leftovers_are_noted_and_taken_away(made: Path, left: str) -> None:
    whole = visible(made)
    (made / left).write_bytes(b"half of it")
    verification = verify_index(made)
    assert verification.ok
    assert verification.notes == (f"{left} is left over; the next sync takes it away",)
    Index.open(made, HashEmbedder()).close()
    assert visible(made) == whole
    with Index.open(made, HashEmbedder()) as index:
        (made / left).write_bytes(b"half of it")
        assert index.sync(make_corpus(TEXTS)).unchanged == 2
    assert visible(made) == whole


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["_copy", "take_over", "settle", "put_derived_in_place"])
def test_a_repair_that_is_cut_off_loses_nothing_that_is_whole(
    made: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The last commit lies in the journal alone, as after a kill: it must go with its database at every moment."""
    holder = sqlite3.connect(made / "index.sqlite", isolation_level=None)
    holder.execute("BEGIN")
    holder.execute("SELECT count(*) FROM chunks").fetchall()
    with Index.open(made, HashEmbedder()) as index:
        index.sync(make_corpus({**TEXTS, "docs/new.md": "# New\nFresh words."}))
    change(made, "UPDATE texts SET text = 'else' WHERE document = 1")
    assert (made / "index.sqlite-wal").stat().st_size > 0

    def killed(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        owner = Database if moment in ("take_over", "settle") else rag.repair
        patched.setattr(owner, moment, killed)
        with pytest.raises(Killed):
            repair_index(made)
    holder.close()
    dropped = repair_index(made).dropped
    assert dropped in (("docs/cats.md",), ()), "what was found before the stop is done, or done again"
    with Index.open(made) as index:
        assert index.document_ids() == ["docs/dogs.md", "docs/new.md"]
    assert verify_index(made).ok
    assert "repaired.sqlite" not in visible(made)


def test_a_repair_does_not_wait_for_ever(made: Path) -> None:
    change(made, "UPDATE texts SET text = 'else' WHERE document = 1")
    other = sqlite3.connect(made / "index.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RagError, match=r"is being written by another process \(waited 0\.05 s\)"):
        repair_index(made, wait_seconds=0.05)
    other.rollback()
    other.close()
    assert repair_index(made).dropped == ("docs/cats.md",)


def test_who_has_the_index_open_sees_the_repair(made: Path) -> None:
    with Index.open(made, HashEmbedder()) as reader:
        assert reader.search("cats")
        change(made, "UPDATE texts SET text = 'else' WHERE document = 1")
        assert repair_index(made).dropped == ("docs/cats.md",)
        assert reader.document_ids() == ["docs/dogs.md"]
        assert {hit.chunk.document_id for hit in reader.search("cats dogs", SearchSettings(top_k=50))} == {
            "docs/dogs.md"
        }
        assert reader.sync(make_corpus(TEXTS)).added == 1
    assert verify_index(made).ok


def test_half_a_character_is_a_wrong_request(made: Path) -> None:
    half = "\ud800"
    with Index.open(made, HashEmbedder()) as index:
        for document in (
            Document(half, "t", "x", (Section((), 0, 1),)),
            Document("a", half, "x", (Section((), 0, 1),)),
            Document("a", "t", half, (Section((), 0, 1),)),
            Document("a", "t", "x", (Section((half,), 0, 1),)),
            Document("a", "t", "x", (Section((), 0, 1),), half),
            Document("a", "t", "x", (Section((), 0, 1),), "", {half: 1}),
        ):
            with pytest.raises(RagRequestError, match="half of a character"):
                index.sync(Corpus((document,)))
        with pytest.raises(RagRequestError, match="no text in UTF-8"):
            index.search("cats", documents=[half])
        with pytest.raises(RagRequestError, match="no text in UTF-8"):
            index.chunks([half])
        index.search(half)
        index.verify()


def test_a_closed_index_says_so(made: Path) -> None:
    index = Index.open(made, HashEmbedder())
    index.close()
    index.close()
    attempts = (lambda: index.search("cats"), index.documents, lambda: index.sync(make_corpus({})), index.verify)
    for attempt in attempts:
        with pytest.raises(RagRequestError, match="has been closed; open it again"):
            attempt()
