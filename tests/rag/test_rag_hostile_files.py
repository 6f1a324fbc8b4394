"""Broken and hostile files: each is skipped by name with a reason, or read harmlessly; the rest is read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rag.chunking import ChunkSettings, chunk_documents
from rag.documents import Corpus, Limits, Skipped, fingerprint_sources, load_corpus
from rag.readers.pool import ReaderPool
from tests.rag.hostile_files import (
    SECRET,
    Hostile,
    hostile_files,
    pages,
    pdf,
    shown,
    tarred,
    zipped,
)

HOSTILE = hostile_files()
LIMITS = Limits(memory=2_000_000_000)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them beside good files."""
    place = tmp_path_factory.mktemp("hostile")
    (place / "docs").mkdir()
    for hostile in HOSTILE:
        (place / "docs" / hostile.name).write_bytes(hostile.data())
    (place / "docs" / "good.md").write_text("# Good\n\na good file")
    (place / "docs" / "zz-good.html").write_text("<h1>Good</h1><p>another good file</p>")
    return place


@pytest.fixture(scope="module")
def corpus(place: Path) -> Corpus:
    before = sorted(place.rglob("*"))
    here = Path.cwd()
    os.chdir(place)
    try:
        corpus = load_corpus(["docs"], limits=LIMITS)
    finally:
        os.chdir(here)
    assert sorted(place.rglob("*")) == before  # nothing was unpacked, run or written
    return corpus


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 100
    assert len({hostile.name for hostile in HOSTILE}) == len(HOSTILE)


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name[:40])
def test_each_is_skipped_by_name_or_read_harmlessly(corpus: Corpus, hostile: Hostile) -> None:
    name = f"docs/{hostile.name}"
    documents = [doc for doc in corpus.documents if doc.id == name or doc.id.startswith(f"{name}!/")]
    skipped = [item for item in corpus.skipped if item.source == name or item.source.startswith(f"{name}!/")]
    if hostile.read:
        assert skipped == []
        (document,) = documents
        assert hostile.read in document.text
        assert any(hostile.read in document.text[part.start : part.end] for part in document.sections)
    else:
        assert skipped, f"{len(documents)} documents"
        assert all(item.reason and "\n" not in item.reason for item in skipped)
        assert any(re.search(hostile.skipped, item.reason) for item in skipped), skipped


def test_the_good_files_among_them_are_read(corpus: Corpus) -> None:
    texts = {document.id: document.text for document in corpus.documents}
    assert "a good file" in texts["docs/good.md"]
    assert "another good file" in texts["docs/zz-good.html"]


def test_nothing_secret_or_scripted_becomes_text(corpus: Corpus) -> None:
    for document in corpus.documents:
        assert SECRET not in f"{document.title} {document.text} {dict(document.metadata)}"
        assert "stolen" not in document.text
        document.text.encode("utf-8")
        assert "\0" not in document.text
        assert len(document.title) <= 300
        assert all(len(name) <= 300 for part in document.sections for name in part.heading_path)
        assert all(isinstance(value, (str, int, float, bool)) for value in document.metadata.values())


def test_what_was_read_can_be_cut_in_time_and_into_chunks_of_bounded_length(corpus: Corpus) -> None:
    def count(texts: object) -> list[int]:
        assert isinstance(texts, (list, tuple))
        return [2 + len(text.split()) for text in texts]

    settings = ChunkSettings(64, 8)
    for document, chunks in zip(corpus.documents, chunk_documents(corpus.documents, settings, count), strict=True):
        assert chunks
        for chunk in chunks:
            assert chunk.tokens <= 64
            assert len(chunk.text) <= 8 * 64
            assert chunk.text == document.text[chunk.start : chunk.end]


def test_the_fingerprint_parses_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert fingerprint_sources(["docs"]) == fingerprint_sources(["docs"])


def test_a_file_that_takes_too_long_is_named_and_the_next_is_read(tmp_path: Path) -> None:
    slow = pdf(pages(b"q 1 0 0 1 0 0 cm BT (x) Tj ET Q\n" * 600_000, packed=True))
    (tmp_path / "a.pdf").write_bytes(slow)
    (tmp_path / "b.pdf").write_bytes(pdf(pages(shown("read after it"))))
    limits = Limits(seconds=4)
    corpus = load_corpus([str(tmp_path)], limits=limits)
    assert [document.text.strip() for document in corpus.documents] == ["read after it"]
    (skipped,) = corpus.skipped
    assert skipped.source.endswith("a.pdf")
    assert skipped.reason == "took more than the 4 seconds that reading one file may take" and skipped.passing


def test_an_archive_goes_on_behind_the_member_that_took_too_long(tmp_path: Path) -> None:
    slow = pdf(pages(b"q 1 0 0 1 0 0 cm BT (x) Tj ET Q\n" * 600_000, packed=True))
    members = {"a.md": "# A\n\nbefore", "b.pdf": slow, "c.md": "# C\n\nbehind", "d.html": "<p>last</p>"}
    (tmp_path / "x.zip").write_bytes(zipped(members))
    corpus = load_corpus([str(tmp_path)], limits=Limits(seconds=4))
    assert [document.id.rpartition("/")[2] for document in corpus.documents] == ["a.md", "c.md", "d.html"]
    (skipped,) = corpus.skipped
    assert skipped.source.endswith("x.zip!/b.pdf")
    assert "4 seconds" in skipped.reason


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's address space")
def test_a_file_that_takes_too_much_memory_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[" + b"[],{}," * 2_500_000 + b"[]]")
    (tmp_path / "b.json").write_text('{"a": "small"}')
    corpus = load_corpus([str(tmp_path)], limits=Limits(memory=500_000_000))
    assert [document.text.strip() for document in corpus.documents] == ["a: small"]
    (skipped,) = corpus.skipped
    assert skipped.reason == "takes more memory to read than is allowed" and not skipped.passing


def test_the_limits_hold(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(pages(*[shown("x")] * 4)))
    (tmp_path / "b.csv").write_text("a\n" + "1\n" * 10)
    (tmp_path / "c.zip").write_bytes(zipped({f"{number}.md": "# X\n\nx" for number in range(4)}))
    (tmp_path / "d.tar").write_bytes(tarred([(f"{number}.md", b"0", b"# X\n" + b"x" * 900, "") for number in range(4)]))
    (tmp_path / "e.html").write_text(f"<p>{'x' * 5_000}</p>")
    limits = Limits(pages=3, sections=5, members=3, unpacked=2_500, characters=3_000)
    corpus = load_corpus([str(tmp_path)], limits=limits)
    reasons = {Path(item.source).name: item.reason for item in corpus.skipped}
    assert reasons == {
        "a.pdf": "4 pages, more than the 3 that one document may have",
        "b.csv": "more than the 5 sections that one document may have",
        "c.zip": "4 members, more than the 3 that are allowed",
        "d.tar": "the archive unpacks to more than the 2,500 bytes that are allowed",
        "e.html": "more than the 3,000 characters that one document may have",
    }
    assert [document.id.rpartition("/")[2] for document in corpus.documents] == ["0.md", "1.md"]


def test_a_module_among_the_documents_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's process starts elsewhere: Python would take modules from the folder that it starts in."""
    for name in ("json.py", "lxml.py", "rag.py", "sitecustomize.py"):
        (tmp_path / name).write_text("open('/dev/full' if False else 'pwned', 'w')\n")
    (tmp_path / "a.html").write_text("<p>words</p>")
    monkeypatch.chdir(tmp_path)
    assert [document.id for document in load_corpus(["a.html"]).documents] == ["a.html"]
    assert not (tmp_path / "pwned").exists()


def test_a_reader_leaves_no_process_behind(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>words</p>")
    load_corpus([str(tmp_path)])
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True)
    assert "rag.readers.worker" not in listed.stdout


def test_an_interrupted_reader_ends_its_processes(tmp_path: Path) -> None:
    slow = pdf(pages(b"q 1 0 0 1 0 0 cm BT (x) Tj ET Q\n" * 600_000, packed=True))
    (tmp_path / "x.zip").write_bytes(zipped({"a.pdf": slow, "b.pdf": slow}))
    with pytest.raises(KeyboardInterrupt), ReaderPool(Limits(seconds=500)) as pool:
        pool.read("x.zip", tmp_path / "x.zip")
        time.sleep(1)
        raise KeyboardInterrupt
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True)
    assert "rag.readers.worker" not in listed.stdout


def test_pipes_devices_and_links_that_lead_in_circles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs/named.md").mkdir(parents=True)
    Path("docs/named.md/a.md").write_text("# In a folder that is named like a file\n\nwords")
    os.mkfifo("docs/pipe.md")
    os.mkfifo("docs/pipe.pdf")
    Path("docs/zero.md").symlink_to("/dev/zero")
    Path("docs/random.html").symlink_to("/dev/urandom")
    Path("docs/here.md").symlink_to("here.md")
    Path("docs/one.md").symlink_to("two.md")
    Path("docs/two.md").symlink_to("one.md")
    Path("docs/up").symlink_to("..")
    Path("docs/gone.pdf").symlink_to("nowhere.pdf")
    corpus = load_corpus(["docs"])
    assert [document.id for document in corpus.documents] == ["docs/named.md/a.md"]
    reasons = {item.source: item.reason for item in corpus.skipped}
    assert reasons["docs/pipe.md"] == reasons["docs/pipe.pdf"] == "not a regular file"
    assert reasons["docs/zero.md"] == reasons["docs/random.html"] == "not a regular file"
    assert reasons["docs/gone.pdf"] == "a link that leads nowhere"
    assert reasons["docs/here.md"] == reasons["docs/one.md"] == "too many levels of symbolic links"


def test_folders_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,100 folders in each other; what lies deeper than 1,000 is named, and nothing recurses."""
    monkeypatch.chdir(tmp_path)
    here = os.open(".", os.O_RDONLY)
    try:
        Path("docs").mkdir()
        Path("docs/a.md").write_text("# Top\n\nwords")
        os.chdir("docs")
        for level in range(1_100):
            Path("d").mkdir()
            os.chdir("d")
            if level == 900:
                Path("b.md").write_text("# Down\n\nwords")
        Path("deepest.md").write_text("# Deep\n\nwords")
        os.fchdir(here)
        corpus = load_corpus(["docs"])
        below = load_corpus(["docs/**/d/**/d/**/*.md"])
    finally:
        os.fchdir(here)
        os.close(here)
        subprocess.run(["rm", "-rf", "docs"], cwd=tmp_path, check=True)
    assert [document.id for document in corpus.documents] == ["docs/a.md", f"docs{'/d' * 901}/b.md"]
    (skipped,) = corpus.skipped
    assert skipped == Skipped(f"docs{'/d' * 1_000}", "a folder more than 1,000 folders down is not read")
    assert below.documents == corpus.documents[1:]


def test_paths_longer_than_the_system_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.open(".", os.O_RDONLY)
    try:
        for _ in range(30):
            Path("n" * 200).mkdir()
            os.chdir("n" * 200)
        os.fchdir(here)
        corpus = load_corpus(["."])
    finally:
        os.fchdir(here)
        os.close(here)
        subprocess.run(["rm", "-rf", "n" * 200], cwd=tmp_path, check=True)
    assert corpus.documents == ()
    (skipped,) = corpus.skipped
    assert skipped.reason == "file name too long"
