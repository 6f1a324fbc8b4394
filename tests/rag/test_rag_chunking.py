"""Documents into chunks: exact spans, whole coverage, nothing over the limit."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rag.chunking import Chunk, ChunkSettings, Splitter, chunk_document, chunk_documents
from rag.documents import Document, Section
from rag.errors import RagRequestError
from rag.langchain_splitters import LANGCHAIN_SPLITTERS
from rag.markdown import parse_markdown
from rag.segments import blocks, halves, items, lines, sentences, words

Counter = Callable[[Sequence[str]], list[int]]


def by_word(texts: Sequence[str]) -> list[int]:
    """Like WordPiece: adding up is exact."""
    return [2 + len(text.split()) for text in texts]


def by_character(texts: Sequence[str]) -> list[int]:
    """Space costs too, which adding up the pieces does not see."""
    return [1 + len(text) for text in texts]


def by_four_bytes(texts: Sequence[str]) -> list[int]:
    """Joints cost less than their parts."""
    return [2 + math.ceil(len(text.encode("utf-8")) / 4) for text in texts]


def by_piece(texts: Sequence[str]) -> list[int]:
    """Newlines and punctuation cost a token each, long words one for every five characters."""
    return [2 + sum(math.ceil(len(piece) / 5) for piece in re.findall(r"\w+|[^\w ]", text)) for text in texts]


COUNTERS: list[Counter] = [by_word, by_character, by_four_bytes, by_piece]

TEXTS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "One sentence here. Another one follows! Is this a third? Yes.",
                "Abbreviations, e.g. this one, cut too. Never mind.",
                "日本語の文です。もう一つ。",
                "- first item\n- second item, which is longer\n  and goes on\n\n- third after a blank",
                "1. one\n2. two\n\n   ```\n   code in a list\n   ```\n3. three",
                "```python\ndef f(x):\n    return x\n\n\nprint(f(1))\n```",
                "    indented code\n\n    more of it",
                "| a | b |\n|---|---|\n| 1 | 2 |",
                ">>> 1 + 1\n2",
                "monster" * 40,
                "\x0b\x0c\x1c odd \u2028 spaces \u3000 here \xa0 .",
                "👩‍👩‍👧‍👦" * 6,
                "~~~\nnever closed",
            ]
        ),
        st.text(max_size=60),
    ),
    min_size=1,
    max_size=7,
).map("\n\n".join)

SETTINGS = st.tuples(st.integers(16, 80), st.integers(0, 30)).map(
    lambda pair: ChunkSettings(pair[0], min(pair[1], pair[0] - 1))
)
HEADINGS = st.lists(st.text("ab >", max_size=12), min_size=1, max_size=3).map(tuple)


def of(text: str, heading_path: tuple[str, ...] = ("T",)) -> Document:
    return Document("d", "T", text, (Section(heading_path, 0, len(text)),))


def check(document: Document, chunks: list[Chunk], settings: ChunkSettings, count: Counter) -> None:
    covered: set[int] = set()
    assert [chunk.position for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.document_id == document.id
        assert chunk.text == document.text[chunk.start : chunk.end]
        assert chunk.text == chunk.text.strip() != ""
        assert chunk.tokens == count([chunk.embedded_text])[0] <= settings.tokens
        assert chunk.embedded_text == " > ".join(chunk.heading_path) + "\n" + chunk.text
        assert any(section.start <= chunk.start and chunk.end <= section.end for section in document.sections)
        covered |= set(range(chunk.start, chunk.end))
    for section in document.sections:
        for place in range(section.start, section.end):
            assert place in covered or document.text[place].isspace()
    assert [chunk.start for chunk in chunks] == sorted({chunk.start for chunk in chunks})


@settings(max_examples=150, deadline=None)
@given(TEXTS, HEADINGS, SETTINGS, st.sampled_from(COUNTERS))
@example("\x0b\x0c odd \u2028 spaces \u3000 here .\n\n\x1c" * 2, (">>>>>>",), ChunkSettings(16, 0), by_character)
def test_the_laws_of_chunks(text: str, heading_path: tuple[str, ...], wanted: ChunkSettings, count: Counter) -> None:
    document = of(text, heading_path)
    chunks = chunk_document(document, wanted, count)
    check(document, chunks, wanted, count)
    assert chunks == chunk_document(document, wanted, count)


@settings(max_examples=60, deadline=None)
@given(TEXTS, SETTINGS, st.sampled_from([by_word, by_piece, by_character]))
def test_the_laws_hold_for_langchains_splitter(text: str, wanted: ChunkSettings, count: Counter) -> None:
    document = of(text)
    recursive = ChunkSettings(wanted.tokens, wanted.overlap, "recursive")
    check(document, chunk_document(document, recursive, count), recursive, count)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 9))
def test_the_laws_hold_over_several_sections(text: str, parts: int) -> None:
    edges = sorted({0, len(text), *(len(text) * part // parts for part in range(parts))})
    sections = [Section(("T", f"part {a}"), a, b) for a, b in itertools.pairwise(edges)]
    document = Document("d", "T", text, tuple(sections))
    wanted = ChunkSettings(24, 6)
    check(document, chunk_document(document, wanted, by_word), wanted, by_word)


@given(TEXTS)
def test_every_way_to_cut_keeps_all_text(text: str) -> None:
    whole = (0, len(text))
    cuts = [sentences, items, lines, words, halves]
    for spans in ([block.span for block in blocks(text, whole)], *(cut(text, whole) for cut in cuts)):
        assert "".join("".join(text[a:b].split()) for a, b in spans) == "".join(text.split())
        assert all(text[a:b] == text[a:b].strip() != "" for a, b in spans)
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))


def texts(text: str, tokens: int, overlap: int = 0, splitter: Splitter = "structure") -> list[str]:
    return [chunk.text for chunk in chunk_document(of(text), ChunkSettings(tokens, overlap, splitter), by_word)]


def test_a_section_that_fits_is_one_chunk() -> None:
    text = "  One. Two.\n\n\nThree.  \n"
    assert texts(text, 16) == ["One. Two.\n\n\nThree."]


def test_paragraphs_stay_whole_where_they_fit() -> None:
    first, second = "a " * 9 + "a.", "b " * 9 + "b."
    assert texts(f"{first}\n\n{second}", 16) == [first, second]


def test_code_and_lists_stay_whole_where_they_fit() -> None:
    before = "w " * 8 + "w"
    code = "```\nx = 1\n\ny = 2\n\nz = 3\n```"
    assert texts(f"{before}\n\n{code}\n\nend of it", 16) == [before, code, "end of it"]
    assert texts(f"{code}\na b c d e f. g h i j k l m n.", 16) == [code, "a b c d e f.", "g h i j k l m n."]
    listing = "- a b\n- c d\n\n- e f"
    assert texts(f"{before}\n\n{listing}", 16) == [before, listing]


def test_long_paragraphs_break_at_sentences_and_long_lists_at_items() -> None:
    assert texts("a b c d e. f g h i j. k l m n o. p q r.", 16) == ["a b c d e. f g h i j.", "k l m n o. p q r."]
    one, two, three = (f"- item {number} has more words" for number in range(3))
    assert texts(f"{one}\n{two}\n{three}", 16) == [f"{one}\n{two}", three]
    assert texts("```\na = 1 + 2 + 3\nb = 4 + 5 + 6\n```", 16) == ["```\na = 1 + 2 + 3", "b = 4 + 5 + 6\n```"]


def test_the_overlap_is_whole_sentences() -> None:
    text = "a b c. d e f. g h i. j k l. m n o. p q r. s t u."
    assert texts(text, 16, 4) == [
        "a b c. d e f. g h i. j k l.",
        "j k l. m n o. p q r. s t u.",
    ]
    assert texts(text, 16, 2) == ["a b c. d e f. g h i. j k l.", "m n o. p q r. s t u."]


def test_sections_do_not_overlap_each_other() -> None:
    document = parse_markdown("d.md", "# A\na b c.\n# B\nd e f.\n")
    assert [chunk.text for chunk in chunk_document(document, ChunkSettings(16, 8), by_word)] == ["a b c.", "d e f."]


def test_a_long_heading_is_shortened_and_leaves_room() -> None:
    path = ("Top", "middle " * 30, "last " * 30)
    (chunk,) = chunk_document(of("some text", path), ChunkSettings(16, 0), by_word)
    assert chunk.heading_path[-1].startswith("last last")
    assert chunk.heading_path[-1].endswith("…")
    (kept,) = chunk_document(of("some text", ("Top", "last")), ChunkSettings(16, 0), by_word)
    assert kept.heading_path == ("Top", "last")


def test_no_room_for_text_is_said() -> None:
    with pytest.raises(RagRequestError, match=r"chunk\.tokens is 16: .*raise chunk\.tokens"):
        chunk_document(of("x"), ChunkSettings(16, 0), lambda texts: [40 + len(text) for text in texts])


def test_empty_sections_and_documents_give_nothing() -> None:
    assert chunk_document(of(" \n "), ChunkSettings(16, 0), by_word) == []
    assert chunk_document(Document("d", "T", "text", ()), ChunkSettings(16, 0), by_word) == []


@pytest.mark.parametrize(
    ("tokens", "overlap", "message"),
    [(15, 0, "tokens is 15"), (16, 16, "overlap is 16"), (16, -1, "overlap is -1")],
)
def test_settings_that_cannot_hold(tokens: int, overlap: int, message: str) -> None:
    with pytest.raises(RagRequestError, match=message):
        ChunkSettings(tokens, overlap)


def test_chunks_larger_than_the_embedder_reads_are_refused_with_both_numbers() -> None:
    ChunkSettings(256).check_fits("mini", 256)
    with pytest.raises(RagRequestError, match=r"chunk\.tokens is 257, but the embedder mini reads at most 256"):
        ChunkSettings(257).check_fits("mini", 256)


def test_many_sections_are_counted_in_few_calls() -> None:
    calls: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        calls.append(len(texts))
        return by_word(texts)

    text = "".join(f"# H{number}\nsome words\n" for number in range(500))
    assert len(chunk_document(parse_markdown("d.md", text), ChunkSettings(32, 0), count)) == 500
    assert len(calls) <= 3


def test_langchain_pieces_are_found_where_text_repeats() -> None:
    text = "same words here. " * 40
    wanted = ChunkSettings(16, 8, "recursive")
    check(of(text), chunk_document(of(text), wanted, by_word), wanted, by_word)


@settings(max_examples=80, deadline=None)
@given(
    TEXTS,
    SETTINGS,
    st.sampled_from([by_word, by_piece, by_character, by_four_bytes]),
    st.sampled_from(LANGCHAIN_SPLITTERS),
)
def test_the_laws_hold_for_each_of_langchains_splitters(
    text: str, wanted: ChunkSettings, count: Counter, splitter: Splitter
) -> None:
    document = of(text)
    named = ChunkSettings(wanted.tokens, wanted.overlap, splitter)
    check(document, chunk_document(document, named, count), named, count)


def test_langchains_markdown_splitter_cuts_before_headings() -> None:
    text = f"intro {'w ' * 9}\n\n## Second\n\n{'x ' * 9}\n\n### Third\n\n{'y ' * 9}"
    found = texts(text, 16, splitter="MarkdownTextSplitter")
    assert [chunk.split("\n")[0] for chunk in found[1:]] == ["## Second", "### Third"]


def test_langchains_python_splitter_cuts_before_definitions() -> None:
    code = "".join(f"def f{number}(x):\n    return x + {number} if x else None\n\n" for number in range(4))
    found = texts(code, 16, splitter="PythonCodeTextSplitter")
    assert [chunk.split("(")[0] for chunk in found] == ["def f0", "def f1", "def f2", "def f3"]


def test_an_unknown_splitter_is_named() -> None:
    with pytest.raises(RagRequestError, match=r"chunk\.splitter is 'nltk'; it must be one of structure, recursive, "):
        ChunkSettings(splitter="nltk")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["w" * 50_000, "a" + "\n" * 50_000 + "b", "a" + " " * 50_000 + "b", "。" * 50_000])
@pytest.mark.parametrize("splitter", ["structure", *LANGCHAIN_SPLITTERS])
def test_no_chunk_is_longer_than_eight_characters_for_each_token(text: str, splitter: Splitter) -> None:
    """To WordPiece a word of any length is one unknown token."""
    wanted = ChunkSettings(32, 0, splitter)
    chunks = chunk_document(of(text), wanted, by_word)
    assert max(len(chunk.text) for chunk in chunks) <= 8 * 32
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(text.split())


def test_a_heading_that_is_one_long_word_is_shortened() -> None:
    (chunk,) = chunk_document(of("some text", ("T" * 100_000,)), ChunkSettings(32, 0), by_word)
    assert len(chunk.heading_path[0]) <= 8 * 16


def test_runs_of_stops_are_cut_in_linear_time() -> None:
    assert len(sentences("." * 300_000 + "x. y", (0, 300_004))) == 2


def test_pages_come_along() -> None:
    sections = (Section(("T",), 0, 8, 1), Section(("T",), 8, 16, 2), Section(("T",), 16, 24))
    document = Document("d", "T", "one two three four, five", sections)
    chunks = chunk_document(document, ChunkSettings(16, 0), by_word)
    assert [(chunk.text, chunk.page) for chunk in chunks] == [("one two", 1), ("three fo", 2), ("ur, five", None)]


def test_many_documents_are_cut_as_each_alone_and_counted_in_few_calls() -> None:
    calls: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        calls.append(len(texts))
        return by_piece(texts)

    documents = [
        Document(str(number), "T", text, (Section(("T",), 0, len(text)),))
        for number in range(60)
        for text in [" ".join(f"Sentence {number} number {part} is here." for part in range(number))]
    ]
    wanted = ChunkSettings(40, 10)
    together = list(chunk_documents(documents, wanted, count))
    assert len(calls) < 20
    assert together == [chunk_document(document, wanted, by_piece) for document in documents]
