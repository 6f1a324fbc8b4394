"""How much a file may cost: what goes over is skipped and named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what one file may be, and on what reading it may take. The defaults let any honest document pass."""

    bytes: int = 100_000_000
    """Of a file, of an archive's member, of what an address gives."""
    characters: int = 20_000_000
    """Of a document's text."""
    sections: int = 500_000
    """Of a document: headings, pages, rows of a table."""
    pages: int = 10_000
    """Of a PDF; slides of a presentation; chapters of an EPUB."""
    members: int = 10_000
    """Files in an archive, those in archives inside it included; parts of an Office or EPUB file."""
    unpacked: int = 1_000_000_000
    """Bytes that an archive, an Office or an EPUB file unpacks to, archives inside it included."""
    ratio: int = 200
    """How many times its packed size a member may have, once it is over 10 MB."""
    depth: int = 3
    """How many archives may lie in each other, the outermost counted."""
    seconds: float = 60.0
    """To read one file, or one member of an archive."""
    memory: int = 3_000_000_000
    """Bytes of address space of the process that reads all but plain text (where the system can bound it)."""
    download_seconds: float = 60.0
    """To fetch one address, redirects included."""


DEFAULTS = Limits()
