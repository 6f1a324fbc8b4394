"""Sources into documents: what is read, what is skipped and why, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rag.files
from rag.documents import Document, Limits, Section, Skipped, fingerprint_sources, load_corpus
from rag.errors import RagRequestError


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: str, content: str | bytes) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return file


def ids(*sources: str) -> list[str]:
    return [document.id for document in load_corpus(sources).documents]


def test_a_folder_is_read_in_order_without_what_is_hidden() -> None:
    for path in (
        "docs/b.md",
        "docs/a.txt",
        "docs/sub/c.rst",
        "docs/sub/d.MARKDOWN",
        "docs/.hidden.md",
        "docs/.git/x.md",
    ):
        write(path, f"text of {path}")
    assert ids("docs/") == ["docs/a.txt", "docs/b.md", "docs/sub/c.rst", "docs/sub/d.MARKDOWN"]
    assert ids("./docs") == ids("docs")


def test_absolute_paths_and_single_files_keep_the_name_they_were_given(tmp_path: Path) -> None:
    file = write("notes/one.txt", "one")
    assert ids("notes/one.txt") == ["notes/one.txt"]
    assert ids(str(file.resolve())) == [(tmp_path / "notes/one.txt").as_posix()]


def test_a_file_named_twice_is_read_once() -> None:
    write("docs/a.md", "a")
    Path("docs/link.md").symlink_to("a.md")
    assert ids("docs", "docs/a.md", "docs/*.md", "docs") == ["docs/a.md"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"a\0b", "holds NUL bytes, so it is not text"),
        (b"caf\xe9", "not UTF-8 (byte 0xe9 at offset 3); save it as UTF-8"),
        ("é".encode("utf-16") + b"x", "not UTF-16 (byte 0x78 at offset 4); save it as UTF-8"),
        ("a\0b".encode("utf-16"), "holds NUL characters, so it is not text"),
    ],
)
def test_what_is_no_text_is_skipped_by_name(content: bytes, reason: str) -> None:
    write("docs/bad.md", content)
    write("docs/good.md", "good")
    corpus = load_corpus(["docs"])
    assert [document.id for document in corpus.documents] == ["docs/good.md"]
    assert corpus.skipped == (Skipped("docs/bad.md", reason),)


def test_files_without_a_reader_are_named() -> None:
    write("docs/a.md", "a")
    write("docs/logo.png", b"\x89PNG")
    write("docs/LICENSE", "words")
    assert load_corpus(["docs"]).skipped == (
        Skipped("docs/LICENSE", "no reader for a file without a suffix"),
        Skipped("docs/logo.png", "no reader for .png"),
    )


def test_a_named_file_without_a_reader_is_a_wrong_request() -> None:
    write("logo.png", b"\x89PNG")
    with pytest.raises(RagRequestError, match=r"logo\.png: no reader for \.png; the readers take .*\.markdown, \.md, "):
        load_corpus(["logo.png"])


def test_too_large_a_file_is_skipped() -> None:
    write("docs/a.md", "a" * 1_000_001)
    write("docs/b.md", "a" * 1_000_000)
    limits = Limits(bytes=1_000_000)
    corpus = load_corpus(["docs"], limits=limits)
    assert [document.id for document in corpus.documents] == ["docs/b.md"]
    assert corpus.skipped == (Skipped("docs/a.md", "1.0 MB, more than the 1.0 MB that one file may have"),)
    assert fingerprint_sources(["docs"], limits=limits) != fingerprint_sources(["docs"])


def test_too_long_a_text_is_skipped() -> None:
    write("docs/a.md", "é" * 101)
    write("docs/b.md", "é" * 100)
    corpus = load_corpus(["docs"], limits=Limits(characters=100))
    assert [document.id for document in corpus.documents] == ["docs/b.md"]
    assert corpus.skipped == (Skipped("docs/a.md", "more than the 100 characters that one document may have"),)


def test_links_that_lead_back_up_or_nowhere_end() -> None:
    write("docs/sub/a.md", "a")
    Path("docs/sub/up").symlink_to("..")
    Path("docs/sub/again").symlink_to("../..")
    Path("docs/gone.md").symlink_to("nothing.md")
    corpus = load_corpus(["docs"])
    assert [document.id for document in corpus.documents] == ["docs/sub/a.md"]
    assert corpus.skipped == (Skipped("docs/gone.md", "a link that leads nowhere"),)
    assert ids("docs/**/*.md") == ["docs/sub/a.md"]


def test_a_pipe_is_not_waited_for() -> None:
    write("docs/a.md", "a")
    os.mkfifo("docs/pipe.md")
    assert load_corpus(["docs"]).skipped == (Skipped("docs/pipe.md", "not a regular file"),)


def test_what_became_a_pipe_since_it_was_found_is_not_waited_for() -> None:
    os.mkfifo("pipe.md")
    with pytest.raises(OSError, match="not a regular file"):
        rag.files.open_regular(Path("pipe.md"))


def test_a_name_that_is_not_utf8_is_skipped_and_printable() -> None:
    Path("docs").mkdir()
    try:
        Path(os.fsdecode(b"docs/\xff.md")).write_text("a")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    corpus = load_corpus(["docs"])
    assert corpus.documents == ()
    corpus.skipped[0].source.encode("utf-8")
    assert corpus.skipped[0].reason == "its name is not UTF-8"
    fingerprint_sources(["docs"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_skipped() -> None:
    write("docs/a.md", "a").chmod(0)
    write("docs/shut/b.md", "b")
    Path("docs/shut").chmod(0)
    try:
        assert load_corpus(["docs"]).skipped == (
            Skipped("docs/a.md", "permission denied"),
            Skipped("docs/shut", "permission denied"),
        )
    finally:
        Path("docs/shut").chmod(0o700)


def test_an_unreadable_file_is_skipped_even_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    write("docs/a.md", "a")

    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(rag.files.os, "open", refuse)
    assert load_corpus(["docs"]).skipped == (Skipped("docs/a.md", "permission denied"),)
    fingerprint_sources(["docs"])


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_decides(codec: str) -> None:
    write("a.md", "# Ünïcode\r\n日本語 🐝\n".encode(codec))
    (document,) = load_corpus(["a.md"]).documents
    assert document.text == "# Ünïcode\n日本語 🐝\n"
    assert document.title == "Ünïcode"


def test_bom_and_foreign_newlines_go() -> None:
    write("a.md", b"\xef\xbb\xbf# Title\r\nbody\rend\r\n")
    (document,) = load_corpus(["a.md"]).documents
    assert document.text == "# Title\nbody\nend\n"
    assert document.title == "Title"


@pytest.mark.parametrize("source", ["dosc", "docs/recipies.md", "docs/sub/none/x.md"])
def test_a_missing_path_is_a_wrong_request(source: str) -> None:
    write("docs/recipes.md", "a")
    with pytest.raises(RagRequestError, match=f"there is no file or folder {source}"):
        load_corpus([source])
    with pytest.raises(RagRequestError):
        fingerprint_sources([source])


def test_a_missing_path_says_what_is_near() -> None:
    write("docs/recipes.md", "a")
    with pytest.raises(RagRequestError, match=r"did you mean docs/recipes\.md\?"):
        load_corpus(["docs/recipies.md"])
    with pytest.raises(RagRequestError, match=r"did you mean docs\?"):
        load_corpus(["dosc/recipes.md"])


def test_globs() -> None:
    for path in ("a.md", "docs/b.md", "docs/c.txt", "docs/deep/d.md", "docs/deep/er/e.md", "other/f.md"):
        write(path, path)
    assert ids("docs/*.md") == ["docs/b.md"]
    assert ids("docs/*") == ["docs/b.md", "docs/c.txt"]
    assert ids("docs/**/*.md") == ["docs/b.md", "docs/deep/d.md", "docs/deep/er/e.md"]
    assert ids("docs/**") == ["docs/b.md", "docs/c.txt", "docs/deep/d.md", "docs/deep/er/e.md"]
    assert ids("*.md") == ["a.md"]
    assert ids("[do]*/?.md") == ["docs/b.md", "other/f.md"]
    with pytest.raises(RagRequestError, match=r"no file matches the glob docs/\*\.rst"):
        load_corpus(["docs/*.rst"])
    with pytest.raises(RagRequestError, match=r"there is no folder dcs .*did you mean docs"):
        load_corpus(["dcs/*.md"])


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob() -> None:
    write("a[1].md", "a")
    assert ids("a[1].md") == ["a[1].md"]


@pytest.mark.parametrize("sources", [[""], ["  "], "docs"])
def test_sources_that_name_nothing(sources: list[str]) -> None:
    with pytest.raises(RagRequestError):
        load_corpus(sources)


def test_the_fingerprint_is_of_names_and_contents() -> None:
    write("docs/a.md", "one")
    write("docs/b.md", "two")
    write("docs/logo.png", b"1")
    first = fingerprint_sources(["docs"])
    assert fingerprint_sources(["docs"]) == first
    write("docs/logo.png", b"2")
    assert fingerprint_sources(["docs"]) == first
    write("docs/a.md", "onf")
    changed = fingerprint_sources(["docs"])
    assert changed != first
    Path("docs/a.md").rename("docs/c.md")
    renamed = fingerprint_sources(["docs"])
    assert renamed not in (first, changed)
    Path("docs/c.md").unlink()
    assert fingerprint_sources(["docs"]) not in (first, changed, renamed)


def test_the_fingerprint_does_not_run_names_and_contents_together() -> None:
    write("a/x.md", "bc")
    write("b/x.md", "c")
    prints = {fingerprint_sources([folder]) for folder in ("a", "b")}
    Path("a/x.md").rename("a/xb.md")
    write("a/xb.md", "c")
    assert len({*prints, fingerprint_sources(["a"])}) == 3


@given(st.text(max_size=40), st.text(max_size=10), st.text(max_size=10))
def test_the_hash_of_a_document_is_of_its_content(text: str, title: str, heading: str) -> None:
    document = Document("a", title, text, (Section((heading,), 0, len(text)),))
    assert document.sha256 == Document("b", title, text, document.sections).sha256
    assert document.sha256 != Document("a", title + "x", text, document.sections).sha256
    assert document.sha256 != Document("a", title, text + "x", document.sections).sha256
    assert document.sha256 != Document("a", title, text, ()).sha256
    assert document.sha256 != Document("a", title, text, (Section((heading, "x"), 0, len(text)),)).sha256
    assert document.sha256 != Document("a", title, text, (Section((heading,), 0, len(text), 1),)).sha256
    assert document.sha256 != Document("a", title, text, document.sections, "elsewhere").sha256
    assert document.sha256 != Document("a", title, text, document.sections, metadata={"author": "x"}).sha256
    one, other = {"a": 1, "b": True}, {"b": True, "a": 1}
    assert Document("a", title, text, (), metadata=one).sha256 == Document("a", title, text, (), metadata=other).sha256
