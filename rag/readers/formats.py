"""Which reader takes which file, by its suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from rag.corpus import Document
from rag.limits import Limits
from rag.readers.code import LANGUAGES, read_code, read_python
from rag.readers.delimited import read_csv, read_tsv
from rag.readers.docx import read_docx
from rag.readers.epub import read_epub
from rag.readers.html import read_html
from rag.readers.json_values import read_json, read_jsonl
from rag.readers.notebook import read_notebook
from rag.readers.pdf import read_pdf
from rag.readers.pptx import read_pptx
from rag.readers.text import read_markdown, read_rst, read_text
from rag.readers.unreadable import Unreadable

# Takes a document's id, the file's bytes and the limits; raises Unreadable.
Reader = Callable[[str, bytes, Limits], Document]

# A new format is one line here and one module beside this one, which imports its library inside the functions.
READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".docx": read_docx,
    ".epub": read_epub,
    ".htm": read_html,
    ".html": read_html,
    ".ipynb": read_notebook,
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".markdown": read_markdown,
    ".md": read_markdown,
    ".ndjson": read_jsonl,
    ".pdf": read_pdf,
    ".pptx": read_pptx,
    ".py": read_python,
    ".pyi": read_python,
    ".rst": read_rst,
    ".text": read_text,
    ".tsv": read_tsv,
    ".txt": read_text,
    ".xhtml": read_html,
    **dict.fromkeys(LANGUAGES, read_code),
}
# Read in this process: their readers are a few loops over lines, whose time grows with the length alone.
PLAIN = {".markdown", ".md", ".rst", ".text", ".txt"}
ARCHIVES = {".gz", ".tar", ".tbz2", ".tgz", ".txz", ".zip"}
_PACKED_TARS = (".tar.gz", ".tar.bz2", ".tar.xz")


def is_archive(name: str) -> bool:
    return name.lower().endswith(_PACKED_TARS) or suffix_of(name) in ARCHIVES


def suffix_of(name: str) -> str:
    return PurePath(name).suffix.lower()


def without_reader(name: str) -> str | None:
    """Why no reader takes a file of this name; None where one does."""
    suffix = suffix_of(name)
    if suffix in READERS or is_archive(name):
        return None
    return f"no reader for {suffix}" if suffix else "no reader for a file without a suffix"


def read(id: str, name: str, data: bytes, limits: Limits) -> Document:
    """One file that is no archive; `name` is what its suffix is taken from.

    Raises:
        Unreadable: it gives no document; the message is the reason.
    """
    missing = without_reader(name)
    if missing is not None:
        raise Unreadable(missing)
    return READERS[suffix_of(name)](id, data, limits)
