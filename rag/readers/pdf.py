"""PDF into text, page by page, with pypdf."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rag.corpus import Document
from rag.limits import Limits
from rag.readers.draft import Draft
from rag.readers.unreadable import Empty, Unreadable

if TYPE_CHECKING:
    from pypdf import PdfReader

_MAGIC = b"%PDF-"
_BOOKMARKS = 10_000


def read_pdf(id: str, data: bytes, limits: Limits) -> Document:
    """One section a page, under the bookmarks that lead to it. Title, author, subject, keywords and dates are those
    that the file says.

    Raises:
        Unreadable: it is no PDF, is cut off or protected by a password, has too many pages, or has no text.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, PyPdfError

    if _MAGIC not in data[:1024]:
        raise Unreadable("is not a PDF, whatever its name says")
    if b"%%EOF" not in data[-2048:]:
        raise Unreadable("cut off: the end of the PDF is missing")
    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        # Many a PDF is encrypted with an empty password, only to forbid printing.
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("protected by a password")
        count = len(reader.pages)
    except DependencyError:
        raise Unreadable("protected by a password, or encrypted in a way that needs the package cryptography") from None
    except PyPdfError as error:
        raise Unreadable(f"damaged PDF: {error}") from None
    if count > limits.pages:
        raise Unreadable(f"{count:,} pages, more than the {limits.pages:,} that one document may have")
    draft = Draft(limits)
    paths = _bookmarks(reader)
    path: tuple[str, ...] = ()
    for number in range(count):
        path = paths.get(number, path)
        draft.under(path)
        draft.section(page=number + 1)
        draft.block(reader.pages[number].extract_text())
    info = reader.metadata
    described: dict[str, object] = {"pages": count}
    if info is not None:
        described |= {"author": info.author, "subject": info.subject, "keywords": info.keywords}
        described |= {"created": info.creation_date_raw, "modified": info.modification_date_raw}
        for key in ("created", "modified"):
            described[key] = _date(str(described[key] or ""))
    try:
        return draft.document(id, str(info.title or "") if info is not None else None, described)
    except Empty:
        raise Empty(f"holds no text on its {count} pages; they may be scanned pictures") from None


def _date(raw: str) -> str:
    """`D:20240131...` as 2024-01-31; anything else as it is."""
    digits = raw.removeprefix("D:")[:8]
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if len(digits) == 8 and digits.isdecimal() else raw


def _bookmarks(reader: PdfReader) -> dict[int, tuple[str, ...]]:
    """Page, counted from 0 -> titles of the first bookmark that leads there and of those above it. A file whose
    bookmarks are broken has none."""
    from pypdf.errors import PyPdfError

    paths: dict[int, tuple[str, ...]] = {}
    seen = 0
    try:
        # Lists lie in lists: each holds what is below the bookmark before it.
        waiting: list[tuple[list[object], tuple[str, ...]]] = [(list(reader.outline), ())]
        while waiting and seen < _BOOKMARKS:
            level, above = waiting.pop()
            path = above
            for item in level:
                seen += 1
                if isinstance(item, list):
                    waiting.append((item, path))
                else:
                    path = (*above, str(item.title))  # type: ignore[attr-defined]
                    page = reader.get_destination_page_number(item)  # type: ignore[arg-type]
                    if page is not None and page >= 0 and len(path) <= 6:
                        paths.setdefault(page, path)
    except (PyPdfError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return {}
    return paths
