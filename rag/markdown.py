"""Markdown into sections: ATX and setext headings, with fenced code, raw HTML and front matter respected.

The text stays as it is: a section is a span of it. Heading rules are those of CommonMark 0.31; indented fences (as in
lists) count as fences at any depth, so that a comment in a shell example is never a heading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from rag.corpus import Document, Section

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r"[ \t]*(`{3,}(?=[^`]*$)|~{3,})")
_CONTAINER = re.compile(r" {0,3}(?:>|[-+*](?:[ \t]|$)|\d{1,9}[.)](?:[ \t]|$))")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$")
_FRONT_MATTER_END = re.compile(r"(?:---|\.\.\.)[ \t]*$")
_FRONT_MATTER_TITLE = re.compile(r"title:[ \t]*(['\"]?)(.+?)\1[ \t]*$")
# Raw HTML in which a # means nothing: how it opens at the start of a line, and what ends it.
_HTML_BLOCKS = (
    (re.compile(r" {0,3}<!--"), re.compile(r"-->")),
    (
        re.compile(r" {0,3}<(?:pre|script|style|textarea)(?:[\s>]|$)", re.I),
        re.compile(r"</(?:pre|script|style|textarea)>", re.I),
    ),
)


@dataclass(frozen=True)
class Heading:
    """One heading: its level 1 to 6, its text, and the span of the lines that write it (newline included)."""

    level: int
    text: str
    start: int
    end: int


def parse_markdown(id: str, text: str) -> Document:
    """A document whose sections are the bodies under its headings, text before the first heading included.

    The title is the front matter's `title`, else the first level-1 heading, else the file's name. A heading path starts
    at the level-1 heading above, or at the title where there is none. `text` has "\\n" newlines.
    """
    body_start, title = _front_matter(text)
    headings = list(find_headings(text, body_start))
    if title is None:
        title = next((heading.text for heading in headings if heading.level == 1 and heading.text), PurePath(id).stem)
    sections: list[Section] = []
    stack: list[Heading] = []
    if not headings or text[body_start : headings[0].start].strip():
        sections.append(Section((title,), body_start, headings[0].start if headings else len(text)))
    ends = [heading.start for heading in headings[1:]] + [len(text)]
    for heading, end in zip(headings, ends, strict=False):
        stack = [*(above for above in stack if above.level < heading.level), heading]
        names = [above.text for above in stack if above.text]
        path = names if stack[0].level == 1 and names else [title, *names]
        sections.append(Section(tuple(path), heading.end, end))
    return Document(id, title, text, tuple(sections))


def find_headings(text: str, start: int = 0) -> Iterator[Heading]:
    """The headings of `text[start:]`, top to bottom, with offsets into `text`."""
    fence: str | None = None
    html_end: re.Pattern[str] | None = None
    paragraph: int | None = None  # where the paragraph starts that a setext underline would turn into a heading
    in_container = False  # inside a list item or quotation, whose paragraphs reach to the next blank line
    for line_start, line_end in _lines(text, start):
        line = text[line_start:line_end].rstrip("\n")
        if fence is not None:
            if _closes(line, fence):
                fence = None
            continue
        if html_end is not None:
            if html_end.search(line):
                html_end = None
            continue
        opening = _FENCE.match(line)
        atx = _ATX.match(line)
        setext = _SETEXT.match(line)
        if not line.strip():
            paragraph, in_container = None, False
        elif opening:
            fence, paragraph, in_container = opening.group(1), None, False
        elif atx:
            yield Heading(len(atx.group(1)), (atx.group(2) or "").strip(), line_start, line_end)
            paragraph, in_container = None, False
        elif setext and paragraph is not None:
            level = 1 if setext.group(1)[0] == "=" else 2
            yield Heading(level, " ".join(text[paragraph:line_start].split()), paragraph, line_end)
            paragraph = None
        elif _RULE.match(line):
            paragraph, in_container = None, False
        elif _CONTAINER.match(line):
            paragraph, in_container = None, True
        elif html := next((ends for opens, ends in _HTML_BLOCKS if opens.match(line)), None):
            html_end = None if html.search(line) else html
            paragraph, in_container = None, False
        elif paragraph is None and not in_container:
            indented_code = line.startswith(("    ", "\t"))
            paragraph = None if indented_code else line_start


def _closes(line: str, fence: str) -> bool:
    mark = line.strip()
    return len(mark) >= len(fence) and set(mark) == {fence[0]}


def _front_matter(text: str) -> tuple[int, str | None]:
    """(where the Markdown starts, the title the front matter gives); (0, None) without front matter."""
    title: str | None = None
    for number, (start, end) in enumerate(_lines(text, 0)):
        line = text[start:end].rstrip("\n")
        if number == 0:
            if line.rstrip() != "---":
                break
        elif _FRONT_MATTER_END.match(line):
            return end, title
        elif title is None and (found := _FRONT_MATTER_TITLE.match(line)):
            title = found.group(2).strip()
    return 0, None


def _lines(text: str, start: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each line, its newline included. Only "\\n" ends a line: form feeds and such stay inside."""
    while start < len(text):
        found = text.find("\n", start)
        end = len(text) if found < 0 else found + 1
        yield start, end
        start = end
