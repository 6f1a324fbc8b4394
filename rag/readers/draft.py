"""A document that grows: readers of formats without a text of their own write it block by block."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TypeVar

from rag.corpus import Document, Section
from rag.limits import Limits
from rag.readers.decoding import printable
from rag.readers.unreadable import Empty, Unreadable, megabytes

LONGEST_HEADING = 300
_LONGEST_VALUE = 1_000
_Item = TypeVar("_Item")
_SPACE = re.compile(r"\s+")


class Draft:
    """Text, and the sections under its headings; blocks are separated by blank lines.

    A heading path starts at the level-1 heading above, or at the title where there is none.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parts: list[str] = []
        self._length = 0
        self._headings: list[tuple[int, str]] = []
        self._first: str | None = None
        # Of each section: the headings above it, where the line of its own begins, and where what is under it does.
        self._starts: list[tuple[tuple[tuple[int, str], ...], int, int, int | None]] = [((), 0, 0, None)]
        self._ends: list[int] = []
        self._page: int | None = None

    def heading(self, level: int, text: str, written: bool = True) -> None:
        """A heading, on a line of its own; what follows is under it. Level 1 is the highest. One that is not `written`
        stands in heading paths alone."""
        name = one_line(text)
        if not name:
            return
        self._ends.append(self._length)
        if level == 1 and self._first is None:
            self._first = name
        self._headings = [*(above for above in self._headings if above[0] < level), (level, name)]
        line = self._length
        if written:
            self._write(f"{name}\n")
        self._start(line)

    def block(self, text: str) -> None:
        """A paragraph, a list, a table, code: anything that a blank line ends."""
        body = text.strip("\n")
        if body.strip():
            self._write(f"{body}\n\n")

    def section(self, page: int | None = None) -> None:
        """What follows is a section of its own under the headings so far, on this page (counted from 1) and all after
        it, too, until another is named."""
        self._ends.append(self._length)
        self._page = self._page if page is None else page
        self._start(self._length)

    def under(self, path: Sequence[str]) -> None:
        """What follows the next `section` is under the title and this path, of which nothing is written."""
        self._headings = list(enumerate((one_line(name) for name in path), start=2))

    def document(self, id: str, title: str | None, metadata: Mapping[str, object]) -> Document:
        """The finished document: `title`, else its first level-1 heading, else the file's name.

        Raises:
            Unreadable: there is no text.
        """
        self._ends.append(self._length)
        text = printable("".join(self._parts))
        name = printable(one_line(title or "") or self._first or PurePath(id).stem)
        sections: list[Section] = []
        below = [found[0] for found in self._starts[1:]]
        for (headings, line, start, page), following, end in zip(self._starts, [*below, ()], self._ends, strict=True):
            if not text[start:end].strip():
                if line == start or following[: len(headings)] == headings:
                    continue
                start, end = line, start  # a heading with nothing under it is found by its own line
            names = [printable(heading) for _, heading in headings]
            top = bool(headings) and headings[0][0] == 1
            sections.append(Section(tuple(names) if top else (name, *names), start, end, page))
        if not sections:
            raise Empty("holds no text")
        return Document(id, name, text, tuple(sections), metadata=scalars(metadata))

    def _start(self, line: int) -> None:
        self._starts.append((tuple(self._headings), line, self._length, self._page))
        if len(self._starts) > self._limits.sections:
            raise Unreadable(_too_many_sections(self._limits))

    def _write(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
        if self._length > self._limits.characters:
            raise Unreadable(too_long(self._limits))


def check_size(document: Document, limits: Limits) -> Document:
    """The document itself; raises Unreadable where it is over the limits."""
    check_length(document.text, limits)
    if len(document.sections) > limits.sections:
        raise Unreadable(_too_many_sections(limits))
    return document


def check_length(text: str, limits: Limits) -> str:
    """The text itself; raises Unreadable where it is longer than a document may be."""
    if len(text) > limits.characters:
        raise Unreadable(too_long(limits))
    return text


def within(headings: Iterable[_Item], limits: Limits) -> Iterator[_Item]:
    """The headings themselves, one by one; raises Unreadable where more come than a document may have sections."""
    for number, heading in enumerate(headings, start=1):
        if number > limits.sections:
            raise Unreadable(_too_many_sections(limits))
        yield heading


def one_line(text: str, longest: int = LONGEST_HEADING) -> str:
    """A text on one line; a heading that goes on for pages is cut, because every chunk under it would repeat it."""
    line = _SPACE.sub(" ", text[: 10 * longest]).strip()
    return line if len(line) <= longest and len(text) <= 10 * longest else f"{line[: longest - 1].rstrip()}…"


def scalars(values: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    """Metadata as JSON scalars: lists of scalars joined by commas, dates in ISO form, all else left out."""
    kept: dict[str, str | int | float | bool] = {}
    for key, value in itertools.islice(values.items(), 100):
        if isinstance(value, str):
            found: str | int | float | bool = one_line(value, _LONGEST_VALUE)
        elif (
            isinstance(value, bool)
            or (isinstance(value, int) and abs(value) < 2**53)
            or (isinstance(value, float) and value - value == 0)
        ):
            found = value
        elif isinstance(value, (list, tuple)) and all(isinstance(item, (str, int, float)) for item in value):
            found = one_line(", ".join(str(item) for item in value[:100]), _LONGEST_VALUE)
        else:
            continue
        if found != "":
            kept[printable(one_line(key, 100))] = printable(found) if isinstance(found, str) else found
    return kept


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table, the first row being its head; a single column as lines."""
    cleaned = [[_SPACE.sub(" ", cell).strip() for cell in row] for row in rows]
    cleaned = [row for row in cleaned if any(row)]
    if all(len(row) == 1 for row in cleaned):
        return "\n".join(row[0] for row in cleaned)
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cleaned]
    return "\n".join([lines[0], f"|{'---|' * len(cleaned[0])}", *lines[1:]])


def fenced(code: str, language: str = "") -> str:
    """Code between fences longer than any that it holds."""
    longest = max((len(found) for found in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{code.strip(chr(10))}\n{fence}"


def too_long(limits: Limits) -> str:
    return f"more than the {limits.characters:,} characters that one document may have"


def over_bytes(size: int, limits: Limits) -> str:
    return f"{megabytes(size)}, more than the {megabytes(limits.bytes)} that one file may have"


def _too_many_sections(limits: Limits) -> str:
    return f"more than the {limits.sections:,} sections that one document may have"
