"""What a document is: its text, and the sections that cover it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

# What a document says of itself (author, date, language ...): values are JSON scalars, and None is left out.
Metadata = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Section:
    """The body under one heading: `Document.text[start:end]`, in characters. The heading's own line is not in it; of a
    heading with nothing under it, it is all that there is.

    `page` counts from 1 (a PDF's page, a presentation's slide); None where the format has none.
    """

    heading_path: tuple[str, ...]
    start: int
    end: int
    page: int | None = None


@dataclass(frozen=True)
class Document:
    """One text with its sections, which ascend and do not overlap.

    `id` is the path as the user gave it, in POSIX style (`docs/recipes.md`), or `python-docstrings:MODULE`. `source` is
    the file or address that it was read from (a member of an archive: `a.zip!/docs/x.md`); "" where that is the id.
    """

    id: str
    title: str
    text: str
    sections: tuple[Section, ...]
    source: str = ""
    metadata: Metadata = field(default_factory=dict, hash=False)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of everything but the id: two documents with equal digests give the same chunks."""
        spans = [[list(part.heading_path), part.start, part.end, part.page] for part in self.sections]
        content = [self.title, self.text, spans, self.source, dict(sorted(self.metadata.items()))]
        return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Skipped:
    """A file that was found and not read, and why, in plain words. `passing` says that another time it may be readable
    though nobody changed it: the network failed, or the time was over."""

    source: str
    reason: str
    passing: bool = False


@dataclass(frozen=True)
class Corpus:
    """What a list of sources gave: documents with distinct ids in a fixed order, and what was left out."""

    documents: tuple[Document, ...]
    skipped: tuple[Skipped, ...] = ()
