"""HTML into text: headings, paragraphs, lists, tables and code; nothing that is not shown to a reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rag.corpus import Document
from rag.limits import Limits
from rag.readers.decoding import decode
from rag.readers.draft import Draft, fenced, table
from rag.readers.unreadable import Unreadable

if TYPE_CHECKING:
    from lxml.etree import _Element

# fmt: off
# What is no part of a page's text: programs, styles, navigation, forms, what is embedded from elsewhere.
_LEFT_OUT = {
    "applet", "aside", "audio", "button", "canvas", "datalist", "dialog", "embed", "footer", "head", "iframe", "input",
    "map", "menu", "nav", "noscript", "object", "script", "select", "style", "svg", "template", "textarea", "video",
}
_BLOCKS = {
    "address", "article", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "form", "header", "hr", "html", "legend", "li", "main", "ol", "p", "section", "summary",
    "ul",
}
# fmt: on
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_ENCODINGS = re.compile(
    r"(?:utf-?8|us-ascii|latin-?1|(?:iso-?8859|windows|cp)[-_]?\d+(?:[-_]\d+)?|koi8-[ru]|shift[-_]jis|euc-(?:jp|kr)|"
    r"gb2312|gbk|gb18030|big5)"
)
_DECLARED = re.compile(
    rb"<(?:meta\b[^>]{0,500}?charset|\?xml\b[^>]{0,500}?encoding)\s*=\s*[\"']?\s*([\w-]{2,40})", re.I
)
_SPACE = re.compile(r"[ \t\n\r\f]+")
# Deeper pages are skipped: no page that somebody wrote is, and the parser leaves out what lies deeper.
_DEEPEST = 2_000
_DESCRIBING = {"author", "date", "description", "keywords", "language", "dcterms.date", "article:published_time"}


def read_html(id: str, data: bytes, limits: Limits) -> Document:
    """A page. Its title is `<title>`; metadata are its language and the usual `<meta>` elements.

    Raises:
        Unreadable: it is no text, is nested too deep, or shows no text.
    """
    draft = Draft(limits)
    title, metadata = write_html(draft, data)
    return draft.document(id, title, metadata)


def write_html(draft: Draft, data: bytes, lowest: int = 0) -> tuple[str, dict[str, object]]:
    """Writes a page's text into a draft and gives its title and metadata; `lowest` is added to heading levels."""
    root = _parsed(_decoded(data))
    if root is None:
        return "", {}
    main = next(_mains(root), root)
    _Writer(draft, lowest).write(main)
    title = root.find(".//title")
    metadata: dict[str, object] = {"language": root.get("lang") or ""}
    for element in root.iter("meta"):
        name = (element.get("name") or element.get("property") or "").lower()
        if name in _DESCRIBING:
            metadata.setdefault(name.rpartition(":")[2].rpartition(".")[2], element.get("content") or "")
    return ("" if title is None else title.text or ""), {key: value for key, value in metadata.items() if value}


def _decoded(data: bytes) -> str:
    """The text, by the byte order mark, the encoding that the page declares, or as UTF-8."""
    declared = _DECLARED.search(data, 0, 4_096)
    name = declared.group(1).decode("ascii").lower() if declared else "utf-8"
    marked = data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"))
    if marked or name in ("utf-8", "utf8") or not _ENCODINGS.fullmatch(name):
        return decode(data)
    try:
        return decode(data.decode(name).encode("utf-8"))
    except (LookupError, UnicodeDecodeError):
        raise Unreadable(f"is not in the encoding {name} that it declares") from None


def _parsed(text: str) -> _Element | None:
    import lxml.etree
    import lxml.html

    parser = lxml.html.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True)
    try:
        # Bytes, because an encoding declared inside would contradict a string.
        root = lxml.html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except lxml.etree.ParserError:
        return None
    deepest = depth = 0
    for event, _ in lxml.etree.iterwalk(root, events=("start", "end")):
        depth += 1 if event == "start" else -1
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise Unreadable(f"its elements lie more than {_DEEPEST:,} deep in each other")
    return root


def _mains(root: _Element) -> Iterator[_Element]:
    """Where a page says what its own text is."""
    yield from root.iter("main")
    for element in root.iter("div", "section"):
        if element.get("role") == "main":
            yield element
    articles = list(root.iter("article"))
    if len(articles) == 1:
        yield from articles


class _Writer:
    """Walks a tree once, without recursion, and writes its text into a draft."""

    def __init__(self, draft: Draft, lowest: int) -> None:
        self._draft = draft
        self._lowest = lowest
        self._inline: list[str] = []
        self._lists: list[int | None] = []  # of each open list, the number of its next item; None in an unordered one
        self._lines: list[str] = []  # of the list that is being written
        self._mark = ""

    def write(self, root: _Element) -> None:
        import lxml.etree

        walk = lxml.etree.iterwalk(root, events=("start", "end"))
        for event, element in walk:
            tag = element.tag if isinstance(element.tag, str) else ""
            if event == "start":
                if tag in _LEFT_OUT or not tag or _hidden(element):
                    walk.skip_subtree()
                elif tag in _HEADINGS:
                    self._close_block()
                    self._close_list()
                    self._draft.heading(_HEADINGS[tag] + self._lowest, _flat(element))
                    walk.skip_subtree()
                elif tag == "table" and element.find(".//table") is None and _is_data(element):
                    self._whole_block(table(_rows(element)))
                    walk.skip_subtree()
                elif tag == "pre":
                    self._whole_block(fenced(_preformatted(element)))
                    walk.skip_subtree()
                else:
                    self._open(tag)
                    self._inline.append(element.text or "")
            else:
                shown = not (tag in _LEFT_OUT or not tag or _hidden(element))
                if shown and not (tag in _HEADINGS or tag == "pre"):
                    self._close(tag)
                if element is not root:
                    self._inline.append(element.tail or "")
        self._close_block()
        self._close_list()

    def _open(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self._close_block()
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            self._close_block()
            number = self._lists[-1] if self._lists else None
            indent = "  " * max(len(self._lists) - 1, 0)
            self._mark = f"{indent}- " if number is None else f"{indent}{number}. "
            if number is not None:
                self._lists[-1] = number + 1
        elif tag == "br":
            self._inline.append("\v")
        elif tag == "img":
            pass
        elif tag in _BLOCKS or tag in ("table", "tr"):
            self._close_block()
        elif tag in ("td", "th"):
            self._inline.append(" ")

    def _close(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self._close_block()
            if self._lists:
                self._lists.pop()
            if not self._lists:
                self._close_list()
        elif tag in _BLOCKS or tag in ("table", "tr"):
            self._close_block()

    def _close_block(self) -> None:
        text = _SPACE.sub(" ", "".join(self._inline))
        self._inline = []
        lines = [line.strip() for line in text.split("\v")]
        text = "\n".join(line for line in lines if line)
        if not text:
            return
        if self._lists or self._mark:
            mark = self._mark or "  " * len(self._lists)
            self._lines.append(mark + text.replace("\n", f"\n{' ' * len(mark)}"))
            self._mark = ""
            if not self._lists:
                self._close_list()
        else:
            self._draft.block(text)

    def _close_list(self) -> None:
        if self._lines:
            self._draft.block("\n".join(self._lines))
        self._lines = []

    def _whole_block(self, text: str) -> None:
        self._close_block()
        if self._lists and text.strip():
            indent = "  " * len(self._lists)
            self._lines.append("\n".join(indent + line for line in text.split("\n")))
        else:
            self._draft.block(text)


def _hidden(element: _Element) -> bool:
    if element.get("hidden") is not None or element.get("aria-hidden") == "true":
        return True
    role = element.get("role")
    style = element.get("style")
    return role in ("navigation", "search", "banner") or (
        style is not None and ("display:none" in style.replace(" ", "").lower())
    )


def _shown(element: _Element) -> Iterator[str]:
    """The pieces of text in an element, but those that no reader sees; "\\v" for a line break."""
    import lxml.etree

    walk = lxml.etree.iterwalk(element, events=("start", "end"))
    for event, inner in walk:
        tag = inner.tag if isinstance(inner.tag, str) else ""
        if event == "start":
            if inner is not element and (tag in _LEFT_OUT or not tag or _hidden(inner)):
                walk.skip_subtree()
            elif tag == "br":
                yield "\v"
            else:
                if tag in _BLOCKS:
                    yield " "
                yield inner.text or ""
        elif inner is not element:
            yield inner.tail or ""


def _flat(element: _Element) -> str:
    # Documentation generators put a link to the heading itself behind it.
    return " ".join("".join(_shown(element)).replace("\v", " ").split()).rstrip("¶#§").rstrip()


def _preformatted(element: _Element) -> str:
    return "".join(_shown(element)).replace("\v", "\n")


def _is_data(element: _Element) -> bool:
    """Not a table that only places things on the page: more than one row, and cells in more than one column."""
    rows = list(element.iter("tr"))
    return len(rows) > 1 and any(len(row) > 1 for row in rows)


def _rows(element: _Element) -> Iterator[list[str]]:
    for row in element.iter("tr"):
        yield [_flat(cell) for cell in row if cell.tag in ("td", "th")]
