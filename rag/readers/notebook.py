"""Notebooks into text: Markdown cells as they are, code cells fenced, and of outputs those that are text."""

from __future__ import annotations

from rag.corpus import Document
from rag.limits import Limits
from rag.markdown import parse_markdown
from rag.readers.decoding import decode, printable
from rag.readers.draft import check_size, fenced, scalars
from rag.readers.json_values import parsed
from rag.readers.unreadable import Empty, Unreadable

_LONGEST_OUTPUT = 10_000


def read_notebook(id: str, data: bytes, limits: Limits) -> Document:
    """A notebook of format 3 or 4, with the headings of its Markdown cells. Metadata: kernel and language.

    Raises:
        Unreadable: it is no notebook, or holds no text.
    """
    notebook = parsed(decode(data), "")
    if not isinstance(notebook, dict):
        raise Unreadable("no notebook: it is not an object with cells")
    worksheets = notebook.get("worksheets")
    holder = worksheets[0] if isinstance(worksheets, list) and worksheets else notebook
    cells = holder.get("cells") if isinstance(holder, dict) else None
    if not isinstance(cells, list):
        raise Unreadable("no notebook: it has no list of cells")
    about = _mapping(notebook.get("metadata"))
    kernel = _mapping(about.get("kernelspec"))
    language = _joined(kernel.get("language")) or _joined(_mapping(about.get("language_info")).get("name"))
    parts = [part for cell in cells for part in _cell(_mapping(cell), language)]
    text = printable("\n\n".join(parts)).replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise Empty("holds no text")
    # A blank line first: a notebook has no front matter, whatever its first cell looks like.
    document = parse_markdown(id, f"\n{text}\n", limits)
    described = {"kernel": _joined(kernel.get("display_name")), "language": language, "cells": len(cells)}
    title = _joined(about.get("title")) or document.title
    return check_size(Document(id, title, document.text, document.sections, metadata=scalars(described)), limits)


def _cell(cell: dict[object, object], language: str) -> list[str]:
    kind = cell.get("cell_type")
    source = _joined(cell.get("source")) or _joined(cell.get("input"))
    if kind == "markdown":
        return [source]
    if kind == "heading":  # of format 3
        level = cell.get("level")
        return [f"{'#' * (level if isinstance(level, int) and 1 <= level <= 6 else 1)} {source}"]
    if kind != "code":
        return []
    outputs = cell.get("outputs")
    said = [_output(_mapping(output)) for output in outputs] if isinstance(outputs, list) else []
    return [fenced(text, name) for text, name in [(source, language), *((text, "") for text in said)] if text.strip()]


def _output(output: dict[object, object]) -> str:
    """What an output says in plain text: printed lines and values, no pictures, no HTML, no error's traceback."""
    if output.get("output_type") == "stream":
        text = _joined(output.get("text"))
    else:
        text = _joined(_mapping(output.get("data")).get("text/plain"))
    return text if len(text) <= _LONGEST_OUTPUT else f"{text[:_LONGEST_OUTPUT]}…"


def _mapping(value: object) -> dict[object, object]:
    return value if isinstance(value, dict) else {}


def _joined(value: object) -> str:
    """A text that may be written as a list of its lines."""
    if isinstance(value, list):
        return "".join(item for item in value if isinstance(item, str))
    return value if isinstance(value, str) else ""
