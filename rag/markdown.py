"""Markdown into sections: ATX and setext headings, with fenced code, raw HTML and front matter respected.

The text stays as it is: a section is a span of it. Heading rules are those of CommonMark 0.31; indented fences (as in
lists) count as fences at any depth, so that a comment in a shell example is never a heading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePath

from rag.corpus import Document, Metadata, Section
from rag.limits import DEFAULTS, Limits
from rag.readers.draft import one_line, scalars, within
from rag.segments import FENCE, line_spans

_ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t]|$)")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_CONTAINER = re.compile(r" {0,3}(?:>|[-+*](?:[ \t]|$)|\d{1,9}[.)](?:[ \t]|$))")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$")
_FRONT_MATTER_END = re.compile(r"(?:---|\.\.\.)[ \t]*$")
_FRONT_MATTER_TITLE = re.compile(r"title:[ \t]*(['\"]?)(.+?)\1[ \t]*$")
_LONGEST_TITLE_LINE = 2_000
_LONGEST_FRONT_MATTER = 65_536
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


def parse_markdown(id: str, text: str, limits: Limits = DEFAULTS) -> Document:
    """A document whose sections are the bodies under its headings, text before the first heading included. Of a heading
    with nothing under it, not even another heading, the section is the line that writes it.

    The title is the front matter's `title`, else the first level-1 heading, else the file's name. A heading path starts
    at the level-1 heading above, or at the title where there is none. Metadata are what else the front matter says.
    `text` has "\\n" newlines.

    Raises:
        Unreadable: it has more headings than sections are allowed.
    """
    body_start, title, front_matter = _front_matter(text)
    headings = list(within(find_headings(text, body_start), limits))
    if title is None:
        title = next((heading.text for heading in headings if heading.level == 1 and heading.text), "")
        title = title or one_line(PurePath(id).stem)
    sections: list[Section] = []
    stack: list[Heading] = []
    if not headings or text[body_start : headings[0].start].strip():
        sections.append(Section((title,), body_start, headings[0].start if headings else len(text)))
    for heading, following in zip_longest(headings, headings[1:]):
        end = len(text) if following is None else following.start
        stack = [*(above for above in stack if above.level < heading.level), heading]
        names = [above.text for above in stack if above.text]
        path = names if stack[0].level == 1 and names else [title, *names]
        alone = following is None or following.level <= heading.level
        if alone and heading.text and not text[heading.end : end].strip():
            sections.append(Section(tuple(path), heading.start, heading.end))
        else:
            sections.append(Section(tuple(path), heading.end, end))
    return Document(id, title, text, tuple(sections), metadata=_metadata(front_matter))


def find_headings(text: str, start: int = 0) -> Iterator[Heading]:
    """The headings of `text[start:]`, top to bottom, with offsets into `text`."""
    fence: str | None = None
    html_end: re.Pattern[str] | None = None
    paragraph: int | None = None  # where the paragraph starts that a setext underline would turn into a heading
    in_container = False  # inside a list item or quotation, whose paragraphs reach to the next blank line
    for line_start, line_end in line_spans(text, (start, len(text))):
        line = text[line_start:line_end].rstrip("\n")
        if fence is not None:
            if _closes(line, fence):
                fence = None
            continue
        if html_end is not None:
            if html_end.search(line):
                html_end = None
            continue
        opening = FENCE.match(line)
        atx = _ATX.match(line)
        setext = _SETEXT.match(line)
        if not line.strip():
            paragraph, in_container = None, False
        elif opening:
            fence, paragraph, in_container = opening.group(1), None, False
        elif atx:
            yield Heading(len(atx.group(1)), _atx_text(line[atx.end() :]), line_start, line_end)
            paragraph, in_container = None, False
        elif setext and paragraph is not None:
            level = 1 if setext.group(1)[0] == "=" else 2
            yield Heading(level, one_line(text[paragraph:line_start]), paragraph, line_end)
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


def _atx_text(rest: str) -> str:
    """What stands behind the opening marks of a heading, without the closing ones."""
    text = rest.strip(" \t")
    opened = text.rstrip("#")
    closed = opened != text and (not opened or opened[-1] in " \t")
    return one_line(opened if closed else text)


def _closes(line: str, fence: str) -> bool:
    mark = line.strip()
    return len(mark) >= len(fence) and set(mark) == {fence[0]}


def _front_matter(text: str) -> tuple[int, str | None, str]:
    """(where the Markdown starts, the title the front matter gives, the front matter); (0, None, "") without one."""
    title: str | None = None
    first = 0
    for number, (start, end) in enumerate(line_spans(text, (0, len(text)))):
        line = text[start:end].rstrip("\n")
        if number == 0:
            if line.rstrip() != "---":
                break
            first = end
        elif _FRONT_MATTER_END.match(line):
            return end, title, text[first:start]
        elif title is None and (found := _FRONT_MATTER_TITLE.match(line[:_LONGEST_TITLE_LINE])):
            title = one_line(found.group(2))
    return 0, None, ""


def _metadata(front_matter: str) -> Metadata:
    """The scalars, and lists of scalars, that stand at the top level of YAML; none where it is not YAML.

    The nodes are read as they are written: nothing is constructed, merged or repeated, whatever a file asks for.
    """
    if not front_matter.strip() or len(front_matter) > _LONGEST_FRONT_MATTER:
        return {}
    import yaml

    try:
        root = yaml.compose(front_matter, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    if not isinstance(root, yaml.MappingNode):
        return {}
    found: dict[str, object] = {}
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode) or key.value.lower() == "title":
            continue
        if isinstance(value, yaml.ScalarNode):
            found[key.value] = _scalar(value.tag, value.value)
        elif isinstance(value, yaml.SequenceNode):
            items = [item.value for item in value.value if isinstance(item, yaml.ScalarNode)]
            found[key.value] = items if len(items) == len(value.value) else None
    return scalars(found)


def _scalar(tag: str, written: str) -> object:
    kind = tag.rpartition(":")[2]
    try:
        if kind == "int":
            return int(written.replace("_", ""))
        if kind == "float":
            return float(written.replace("_", ""))
    except ValueError:  # YAML has numbers that Python writes otherwise: 0x1f, 1:30
        return written
    if kind == "bool":
        return written.lower() in ("true", "yes", "on")
    return None if kind == "null" else written
