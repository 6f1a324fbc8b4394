"""PPTX into text, with python-pptx: a slide is a page, its title the heading."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rag.corpus import Document
from rag.limits import Limits
from rag.readers.docx import check_office
from rag.readers.draft import Draft, table
from rag.readers.unreadable import Unreadable
from rag.readers.zipped import check_document

if TYPE_CHECKING:
    from pptx.shapes.base import BaseShape


def read_pptx(id: str, data: bytes, limits: Limits) -> Document:
    """A presentation: of each slide the title, texts, tables and notes.

    Raises:
        Unreadable: it is no PPTX, is protected by a password, over the limits, or has no text.
    """
    import pptx
    from pptx.exc import PythonPptxError

    check_office(data)
    check_document(data, limits, "PPTX")
    try:
        presentation = pptx.Presentation(io.BytesIO(data))
    except (PythonPptxError, KeyError, ValueError) as error:
        raise Unreadable(f"damaged, or no PPTX: {error}") from None
    slides = presentation.slides
    if len(slides) > limits.pages:
        raise Unreadable(f"{len(slides):,} slides, more than the {limits.pages:,} that one document may have")
    draft = Draft(limits)
    for number, slide in enumerate(slides, start=1):
        draft.under(())
        draft.section(page=number)
        title = slide.shapes.title
        if title is not None:
            draft.heading(2, title.text_frame.text)
        for shape in slide.shapes:
            if title is None or shape.shape_id != title.shape_id:
                for text in _texts(shape):
                    draft.block(text)
        if slide.has_notes_slide:
            frame = slide.notes_slide.notes_text_frame
            draft.block(frame.text if frame is not None else "")
    core = presentation.core_properties
    dates = {"created": core.created, "modified": core.modified}
    described: dict[str, object] = {
        "author": core.author,
        "subject": core.subject,
        "keywords": core.keywords,
        "category": core.category,
        "language": core.language,
        "pages": len(slides),
        **{key: value.isoformat() for key, value in dates.items() if value is not None},
    }
    return draft.document(id, core.title, described)


def _texts(top: BaseShape) -> Iterator[str]:
    """The texts of a shape and of those grouped in it, in their order."""
    from pptx.shapes.autoshape import Shape
    from pptx.shapes.graphfrm import GraphicFrame
    from pptx.shapes.group import GroupShape

    waiting = [top]
    while waiting:
        shape = waiting.pop()
        if isinstance(shape, GroupShape):
            waiting += reversed(list(shape.shapes))
        elif isinstance(shape, Shape):
            yield shape.text_frame.text.replace("\v", "\n")
        elif isinstance(shape, GraphicFrame) and shape.has_table:
            yield table([cell.text for cell in row.cells] for row in shape.table.rows)
