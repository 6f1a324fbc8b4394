"""Plain text and reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from rag.corpus import Document, Section
from rag.limits import Limits
from rag.markdown import parse_markdown
from rag.readers.decoding import decode
from rag.readers.draft import check_size, one_line

_RULE = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*$")


def read_text(id: str, data: bytes, limits: Limits) -> Document:
    """One section, headed by the file's name without its suffix. Raises Unreadable where it is no text."""
    return check_size(parse_text(id, decode(data)), limits)


def read_markdown(id: str, data: bytes, limits: Limits) -> Document:
    """Raises Unreadable where it is no text."""
    return check_size(parse_markdown(id, decode(data)), limits)


def read_rst(id: str, data: bytes, limits: Limits) -> Document:
    """Raises Unreadable where it is no text. Directives are text: nothing is included or run."""
    return check_size(parse_rst(id, decode(data)), limits)


def parse_text(id: str, text: str) -> Document:
    title = one_line(PurePath(id).stem)
    return Document(id, title, text, (Section((title,), 0, len(text)),))


def parse_rst(id: str, text: str) -> Document:
    """A document whose sections are the bodies under its titles: lines that are underlined, or under- and overlined, in
    one and the same punctuation mark. A style that is met for the first time is a level below those met before."""
    headings = list(_titles(text))
    title = headings[0][1] if headings else one_line(PurePath(id).stem)
    styles_of = [style for style, *_ in headings]
    styles = list(dict.fromkeys(styles_of))
    sections: list[Section] = []
    stack: list[str] = []
    first = headings[0][2] if headings else len(text)
    if text[:first].strip() or not headings:
        sections.append(Section((title,), 0, first))
    ends = [start for _, _, start, _ in headings[1:]] + [len(text)]
    levels = [styles.index(style) for style in styles_of]
    for (_, name, start, body), level, below, end in zip(headings, levels, [*levels[1:], 0], ends, strict=False):
        stack = [*stack[:level], name]
        path = tuple(stack) if stack[0] == title else (title, *stack)
        # Of a title with nothing under it, not even another title, the section is the lines that write it.
        alone = below <= level and not text[body:end].strip()
        sections.append(Section(path, start, body) if alone else Section(path, body, end))
    return Document(id, title, text, tuple(sections))


def _titles(text: str) -> Iterator[tuple[str, str, int, int]]:
    """(style, title, where its lines start, where its body starts)."""
    lines: list[tuple[int, str]] = []
    start = 0
    for line in text.split("\n"):
        lines.append((start, line))
        start += len(line) + 1
    number = 1
    while number < len(lines):
        line = lines[number][1]
        above = lines[number - 1][1]
        mark = line[0] if line and _RULE.match(line) else ""
        overlined = bool(mark) and number > 1 and lines[number - 2][1].rstrip() == line.rstrip()
        named = above.strip() and not _RULE.match(above) and (overlined or not above[0].isspace())
        # What is shorter than its title, like "..." under a word, is text.
        alone = number < 2 or overlined or not lines[number - 2][1].strip()
        if mark and named and alone and len(line.rstrip()) >= min(len(above.strip()), 300) and len(line.rstrip()) > 1:
            begin = lines[number - 2 if overlined else number - 1][0]
            after = lines[number + 1][0] if number + 1 < len(lines) else len(text)
            yield f"{mark}{mark}" if overlined else mark, one_line(above), begin, after
            number += 2
        else:
            number += 1
