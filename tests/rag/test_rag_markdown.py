"""Markdown into sections: headings where CommonMark has them, and no line lost."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.chunking import ChunkSettings, chunk_document
from rag.markdown import find_headings, parse_markdown
from tests.rag.hash_embedder import HashEmbedder

LINES = st.lists(
    st.sampled_from(
        [
            "",
            "words",
            "more words",
            "# One",
            "## Two ##",
            "### Three #not closing",
            "#### ",
            "#no heading",
            "    # indented code",
            "===",
            "---",
            "- item",
            "  under the item",
            "1. first",
            "> quoted",
            "```",
            "~~~",
            "````python",
            "`code`",
            "<!-- open",
            "closed -->",
            "***",
            "a\x0cb\u2028c",
        ]
    ),
    max_size=14,
)


def sections(text: str) -> list[tuple[tuple[str, ...], str]]:
    document = parse_markdown("docs/guide.md", text)
    return [(section.heading_path, text[section.start : section.end]) for section in document.sections]


def headings(text: str) -> list[tuple[int, str]]:
    return [(heading.level, heading.text) for heading in find_headings(text)]


def test_sections_know_the_headings_above_them() -> None:
    text = "intro\n\n# Guide\ntop\n## Install\npip\n### Windows\nexe\n## Use\nrun\n# More\nend"
    assert sections(text) == [
        (("Guide",), "intro\n\n"),
        (("Guide",), "top\n"),
        (("Guide", "Install"), "pip\n"),
        (("Guide", "Install", "Windows"), "exe\n"),
        (("Guide", "Use"), "run\n"),
        (("More",), "end"),
    ]


def test_the_title_stands_in_where_no_level_one_heading_is_above() -> None:
    assert sections("## Install\npip\n") == [(("guide", "Install"), "pip\n")]
    assert sections("just words") == [(("guide",), "just words")]
    assert parse_markdown("docs/guide.md", "## A\n# Late\n").title == "Late"


def test_a_level_may_be_left_out() -> None:
    assert [path for path, _ in sections("# A\n#### Deep\nx\n## B\ny\n")] == [("A",), ("A", "Deep"), ("A", "B")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# One #\n", [(1, "One")]),
        ("   ###   Three   ###  \n", [(3, "Three")]),
        ("# C#\n", [(1, "C#")]),
        ("#\n", [(1, "")]),
        ("####### seven\n", []),
        ("#hashtag\n", []),
        ("    # code\n", []),
        ("One\n===\n", [(1, "One")]),
        ("Two\nlines\n---\n", [(2, "Two lines")]),
        ("\n---\n", []),
        ("- item\n---\n", []),
        ("> quote\n---\n", []),
        ("- item\nlazy\n---\n", []),
        ("```\n# no\n```\n# yes\n", [(1, "yes")]),
        ("````\n```\n# no\n````\n# yes\n", [(1, "yes")]),
        ("~~~\n# no\n```\n# no\n~~~\n# yes\n", [(1, "yes")]),
        ("```sh\n# never closed\n", []),
        ("- run\n\n      ```sh\n      # no\n      ```\n# yes\n", [(1, "yes")]),
        ("``` `a` ```\n# yes\n", [(1, "yes")]),
        ("<!--\n# no\n-->\n# yes\n", [(1, "yes")]),
        ("<!-- one line -->\n# yes\n", [(1, "yes")]),
        ("words\n<!--\n# no\n-->\n# yes\n", [(1, "yes")]),
        ("<pre>\n# no\n</pre>\n# yes\n", [(1, "yes")]),
        ("| a |\n|---|\n", []),
        ("a\x0c\n# yes\n", [(1, "yes")]),
    ],
)
def test_what_is_a_heading(text: str, expected: list[tuple[int, str]]) -> None:
    assert headings(text) == expected


def test_front_matter_is_no_section_and_may_give_the_title() -> None:
    text = "---\ntitle: 'The guide'\ntags: [a]\n---\nintro\n## Install\npip\n"
    assert sections(text) == [(("The guide",), "intro\n"), (("The guide", "Install"), "pip\n")]
    assert parse_markdown("a.md", "---\nnot closed\n\n# One\n").title == "One"


def test_a_heading_without_a_body_is_kept() -> None:
    assert sections("# A\n## B\n") == [(("A",), ""), (("A", "B"), "## B\n")]
    assert sections("# A\n#\n") == [(("A",), "# A\n"), (("A",), "")], "a heading of no words says nothing"


def test_headings_without_a_body_are_found(embedder: HashEmbedder) -> None:
    """Under the heading alone where it is the last of its branch; others stand in the paths of those below."""
    text = "# Guide\n## Reset the device\n\n## Warranty\nTwo years.\n### Exceptions\nNone\n----\n"
    document = parse_markdown("guide.md", text)
    chunks = chunk_document(document, ChunkSettings(32, 0), embedder.count_tokens)
    assert [(chunk.heading_path, chunk.text) for chunk in chunks] == [
        (("Guide", "Reset the device"), "## Reset the device"),
        (("Guide", "Warranty"), "Two years."),
        (("Guide", "Warranty", "Exceptions"), "### Exceptions"),
        (("Guide", "None"), "None\n----"),
    ]


@given(LINES)
def test_no_line_is_lost(lines: list[str]) -> None:
    text = "\n".join(lines)
    document = parse_markdown("guide.md", text)
    found = list(find_headings(text, document.sections[0].start if text.startswith("---") else 0))
    # A heading with nothing under it is a section itself.
    pieces = sorted(
        {(section.start, section.end) for section in document.sections} | {(head.start, head.end) for head in found}
    )
    reached = 0
    for start, end in pieces:
        gap = text[reached:start]
        assert not gap.strip() or (reached == 0 and text.startswith("---")), "lines between the sections"
        assert start >= reached, "sections overlap"
        reached = max(reached, end)
    assert not text[reached:].strip()
    for head in found:
        assert all(word in text[head.start : head.end] for word in head.text.split())
    starts = [section.start for section in document.sections]
    assert starts == sorted(starts)
    assert all(section.heading_path for section in document.sections)


@given(LINES)
def test_headings_are_those_of_commonmark(lines: list[str]) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    # Deliberately not CommonMark's: indented text after a container, and containers that hold headings or fences.
    if any(line.startswith((" ", "- ", "1.", "> ", "a\x0c")) for line in lines):
        return
    text = "\n".join(lines)
    tokens = markdown_it.MarkdownIt("commonmark").parse(text)
    expected = [
        (int(token.tag[1]), " ".join(inline.content.split()))
        for token, inline in itertools.pairwise(tokens)
        if token.type == "heading_open"
    ]
    assert headings(text) == expected


@given(st.text(max_size=200))
def test_any_text_parses_the_same_twice(text: str) -> None:
    assert parse_markdown("a.md", text) == parse_markdown("a.md", text)
