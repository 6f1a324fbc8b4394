"""Plain text and reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from rag.corpus import Document, Section
from rag.limits import DEFAULTS, Limits
from rag.markdown import parse_markdown
from rag.readers.decoding import decode
from rag.readers.draft import check_length, check_size, one_line, within
from rag.segments import line_spans

_RULE = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*$")


def read_text(id: str, data: bytes, limits: Limits) -> Document:
    """One section, headed by the file's name without its suffix. Raises Unreadable where it is no text, or over the
    limits."""
    return parse_text(id, check_length(decode(data), limits))


def read_markdown(id: str, data: bytes, limits: Limits) -> Document:
    """Raises Unreadable where it is no text, or over the limits."""
    return check_size(parse_markdown(id, check_length(decode(data), limits), limits), limits)


def read_rst(id: str, data: bytes, limits: Limits) -> Document:
    """Raises Unreadable where it is no text, or over the limits. Directives are text: nothing is included or run."""
    return check_size(parse_rst(id, check_length(decode(data), limits), limits), limits)


def parse_text(id: str, text: str) -> Document:
    title = one_line(PurePath(id).stem)
    return Document(id, title, text, (Section((title,), 0, len(text)),))


def parse_rst(id: str, text: str, limits: Limits = DEFAULTS) -> Document:
    """A document whose sections are the bodies under its titles: lines that are underlined, or under- and overlined, in
    one and the same punctuation mark. A style that is met for the first time is a level below those met before.

    Raises:
        Unreadable: it has more titles than sections are allowed.
    """
    headings = list(within(_titles(text), limits))
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
    # The two lines before, nothing else: a file of newlines has as many lines as characters.
    twice_above: tuple[int, str] | None = None
    above: tuple[int, str] | None = None
    after_title = False
    for start, end in line_spans(text, (0, len(text))):
        line = text[start:end].rstrip("\n")
        found = None if above is None or after_title else _title(twice_above, above, line)
        if found is not None:
            yield (*found, end)
        after_title = found is not None
        twice_above, above = above, (start, line)


def _title(twice_above: tuple[int, str] | None, above: tuple[int, str], line: str) -> tuple[str, str, int] | None:
    """(style, title, where its lines start), where `line` underlines the one above."""
    if not line or not _RULE.match(line):
        return None
    mark, (start, name) = line[0], above
    overlined = twice_above is not None and twice_above[1].rstrip() == line.rstrip()
    named = name.strip() and not _RULE.match(name) and (overlined or not name[0].isspace())
    alone = twice_above is None or overlined or not twice_above[1].strip()
    # What is shorter than its title, like "..." under a word, is text.
    long_enough = len(line.rstrip()) >= min(len(name.strip()), 300) and len(line.rstrip()) > 1
    if not (named and alone and long_enough):
        return None
    if overlined and twice_above is not None:
        return f"{mark}{mark}", one_line(name), twice_above[0]
    return mark, one_line(name), start
