"""A folder in BEIR's layout: each row of `corpus.jsonl` is a document."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from rag.corpus import Corpus, Document, Section, Skipped
from rag.errors import RagRequestError
from rag.limits import Limits
from rag.readers.decoding import printable
from rag.readers.draft import one_line, scalars

PREFIX = "beir:"
_NAMES = ("corpus.jsonl", "corpus.jsonl.gz")
_LONGEST_LINE = 50_000_000


def is_source(source: str) -> bool:
    return source.startswith(PREFIX)


def read_source(source: str, limits: Limits) -> Corpus:
    """The documents of `beir:FOLDER`. A document's id is its `_id`, its text the title, a space and the text.

    The title is the heading of one section that holds the rest: what is embedded is then the very "title text" of those
    who measure on BEIR, and of a document that takes several chunks each one carries the title.

    Raises:
        RagRequestError: the folder or its corpus is not there, or cannot be read.
    """
    path = corpus_file(source)
    documents: list[Document] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()
    try:
        for number, line in enumerate(_lines(path), start=1):
            if not line.strip():
                continue
            document = _document(line, path, limits)
            if isinstance(document, str):
                skipped.append(Skipped(f"{path.as_posix()}:{number}", document))
            elif document.id in seen:
                skipped.append(Skipped(f"{path.as_posix()}:{number}", f"a second row with the _id {document.id}"))
            else:
                seen.add(document.id)
                documents.append(document)
    except (OSError, EOFError, zlib.error) as error:
        raise RagRequestError(f"{source}: {path} cannot be read: {error}") from None
    return Corpus(tuple(documents), tuple(skipped))


def corpus_file(source: str) -> Path:
    """Raises RagRequestError where there is none."""
    folder = Path(source.removeprefix(PREFIX))
    found = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    if found is None:
        raise RagRequestError(f"{source}: there is no {' and no '.join(_NAMES)} in {folder}")
    return found


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        while line := stream.readline(_LONGEST_LINE):
            yield line


def _document(line: bytes, path: Path, limits: Limits) -> Document | str:
    """The document of a row, or what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(row, dict) or not isinstance(row.get("_id"), str) or not row["_id"]:
        return "a row must be an object with an _id"
    title, body = row.get("title") or "", row.get("text") or ""
    if not isinstance(title, str) or not isinstance(body, str):
        return "title and text must be strings"
    text = printable(f"{title} {body}".strip())
    if not text:
        return "empty"
    if len(text) > limits.characters:
        return f"more than the {limits.characters:,} characters that one document may have"
    about = row.get("metadata")
    metadata = scalars(about) if isinstance(about, dict) and about else {}
    name = printable(one_line(title))
    both = bool(name and body.strip())
    section = Section((name,) if both else (), len(title.lstrip()) + 1 if both else 0, len(text))
    return Document(printable(row["_id"]), name, text, (section,), path.as_posix(), metadata)
