"""DOCX into text, with python-docx: headings by their style, paragraphs, lists and tables in their order."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rag.corpus import Document
from rag.limits import Limits
from rag.readers.draft import Draft, table
from rag.readers.unreadable import Unreadable
from rag.readers.zipped import check_document

if TYPE_CHECKING:
    from docx.opc.coreprops import CoreProperties
    from docx.table import Table

_HEADING = re.compile(r"heading (\d)", re.I)
# Password-protected Office files, and those of before 2007, are of another container format.
OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def read_docx(id: str, data: bytes, limits: Limits) -> Document:
    """A Word document; footnotes, comments, headers and footers are left out.

    Raises:
        Unreadable: it is no DOCX, is protected by a password, over the limits, or has no text.
    """
    import docx
    from docx.opc.exceptions import PackageNotFoundError
    from docx.text.paragraph import Paragraph

    check_office(data)
    check_document(data, limits, "DOCX")
    try:
        document = docx.Document(io.BytesIO(data))
    except (PackageNotFoundError, KeyError, ValueError) as error:
        raise Unreadable(f"damaged, or no DOCX: {error}") from None
    draft = Draft(limits)
    listed: list[str] = []
    for item in document.iter_inner_content():
        if not isinstance(item, Paragraph):
            draft.block("\n".join(listed))
            listed = []
            draft.block(table(_rows(item)))
            continue
        text = item.text
        style = item.style.name if item.style is not None and item.style.name is not None else ""
        if style.startswith("List"):
            listed.append(f"- {' '.join(text.split())}")
            continue
        draft.block("\n".join(listed))
        listed = []
        heading = _HEADING.match(style)
        if style == "Title" or heading:
            draft.heading(1 if heading is None else int(heading.group(1)) + 1, text)
        else:
            draft.block(text)
    draft.block("\n".join(listed))
    return draft.document(id, document.core_properties.title, core_metadata(document.core_properties))


def check_office(data: bytes) -> None:
    if data.startswith(OLD_OFFICE):
        raise Unreadable("protected by a password, or an Office file of before 2007; save it as DOCX or PPTX")


def core_metadata(properties: CoreProperties) -> dict[str, object]:
    """What an Office file says of itself."""
    dates = {"created": properties.created, "modified": properties.modified}
    return {
        "author": properties.author,
        "subject": properties.subject,
        "keywords": properties.keywords,
        "category": properties.category,
        "language": properties.language,
        **{key: value.isoformat() for key, value in dates.items() if value is not None},
    }


def _rows(found: Table) -> Iterator[list[str]]:
    for row in found.rows:
        cells: list[str] = []
        before = None
        for cell in row.cells:
            if cell._tc is not before:  # a merged cell is given once for each column that it spans
                cells.append(cell.text)
            before = cell._tc
        yield cells
