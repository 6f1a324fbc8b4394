"""Where a text may be cut: blocks, list items, sentences, lines, words. All are spans without space at either end, in
order, and together hold every character that is no space."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# (start, end) in characters of the whole text.
Span = tuple[int, int]
# Takes a text and a span of it, gives the smaller spans in order.
Cut = Callable[[str, Span], list[Span]]

# What opens a fence of code, at any depth; its marks are the group.
FENCE = re.compile(r"[ \t]*(`{3,}(?=[^`]*$)|~{3,})")
_ITEM = re.compile(r"[ \t]*(?:[-+*]|\d{1,9}[.)])(?:[ \t]|$)")
_CODE = re.compile(r" {4}|\t|>>> |\|")
# A Latin full stop needs a space behind it; a CJK one does not. A run of stops is tried at its first one alone: a
# megabyte of dots would otherwise be tried from every dot on.
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[\"'”’」』）]*")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Block:
    """A paragraph, a whole list, or code; `cuts` are the ways to take it apart, coarsest first."""

    span: Span
    cuts: tuple[Cut, ...]


def trimmed(text: str, span: Span) -> Span | None:
    """The span without the space at its ends; None where nothing else is in it."""
    body = text[span[0] : span[1]]
    left = len(body) - len(body.lstrip())
    return None if left == len(body) else (span[0] + left, span[0] + len(body.rstrip()))


def sentences(text: str, span: Span) -> list[Span]:
    """Cuts after full stops, question and exclamation marks."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text, *span)]
    return _between(text, span, ends)


def items(text: str, span: Span) -> list[Span]:
    """Cuts before each line that starts a list item."""
    return _between(text, span, [start for start, end in line_spans(text, span) if _ITEM.match(text, start, end)])


def line_spans(text: str, span: Span) -> Iterator[Span]:
    """(start, end) of each line of a span, its newline included. Only "\\n" ends a line: form feeds and such stay
    inside."""
    start, stop = span
    while start < stop:
        found = text.find("\n", start, stop)
        end = stop if found < 0 else found + 1
        yield start, end
        start = end


def lines(text: str, span: Span) -> list[Span]:
    """Cuts at newlines."""
    return _between(text, span, [end for _, end in line_spans(text, span)])


def words(text: str, span: Span) -> list[Span]:
    """Cuts at space."""
    return [found.span() for found in _WORD.finditer(text, *span)]


def halves(text: str, span: Span) -> list[Span]:
    """Cuts in the middle: for a word that is too long. A single character stays whole."""
    return _between(text, span, [(span[0] + span[1]) // 2])


PROSE: tuple[Cut, ...] = (sentences, words)
LIST: tuple[Cut, ...] = (items, sentences, words)
CODE: tuple[Cut, ...] = (lines, words)


def blocks(text: str, span: Span) -> list[Block]:
    """Paragraphs, lists with everything indented under them, fenced and indented code, doctests, tables."""
    found: list[Block] = []
    start, cuts = span[0], PROSE  # of the block that grows
    growing = after_blank = False
    fence: str | None = None

    def close(end: int) -> None:
        inner = trimmed(text, (start, end)) if growing else None
        if inner is not None:
            found.append(Block(inner, cuts))

    for line_start, line_end in line_spans(text, span):
        line = text[line_start:line_end]
        mark = line.strip()
        if fence is not None:
            if len(mark) >= len(fence) and set(mark) == {fence[0]}:
                fence = None
                if cuts is CODE:  # a fence inside a list goes on as the list
                    close(line_end)
                    growing = False
            continue
        if not mark:
            after_blank = True
            continue
        opening, item, indented = FENCE.match(line), _ITEM.match(line), line[0] in " \t"
        goes_on = growing and not (
            (opening and not (cuts is LIST and indented))
            or (after_blank and not (cuts is LIST and (indented or item)) and not (cuts is CODE and indented))
            or (item and cuts is PROSE)
        )
        if not goes_on:
            close(line_start)
            start, growing = line_start, True
            cuts = CODE if opening or (_CODE.match(line) and not item) else LIST if item else PROSE
        fence = opening.group(1) if opening else None
        after_blank = False
    close(span[1])
    return found


def _between(text: str, span: Span, cuts: list[int]) -> list[Span]:
    edges = [span[0], *cuts, span[1]]
    parts = (trimmed(text, (left, right)) for left, right in itertools.pairwise(edges) if left < right)
    return [part for part in parts if part is not None]
