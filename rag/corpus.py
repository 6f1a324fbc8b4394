"""What a document is: its text, and the sections that cover it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Section:
    """The body under one heading: `Document.text[start:end]`, in characters; the heading's own line is not in it."""

    heading_path: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Document:
    """One text with its sections, which ascend and do not overlap.

    `id` is the path as the user gave it, in POSIX style (`docs/recipes.md`), or `python-docstrings:MODULE`.
    """

    id: str
    title: str
    text: str
    sections: tuple[Section, ...]

    @cached_property
    def sha256(self) -> str:
        """Hex digest of everything but the id: two documents with equal digests give the same chunks."""
        spans = [[list(section.heading_path), section.start, section.end] for section in self.sections]
        return hashlib.sha256(json.dumps([self.title, self.text, spans]).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Skipped:
    """A file that was found and not read, and why, in plain words."""

    source: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """What a list of sources gave: documents with distinct ids in a fixed order, and what was left out."""

    documents: tuple[Document, ...]
    skipped: tuple[Skipped, ...] = ()
