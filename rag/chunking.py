"""Documents into chunks: retrievable pieces, sized in the embedder's own tokens, each an exact span of its document."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from rag.corpus import Document
from rag.errors import RagRequestError
from rag.packing import TokenCounter, packed_spans, recursive_spans
from rag.segments import Span, trimmed

__all__ = ["Chunk", "ChunkSettings", "TokenCounter", "chunk_document", "embedded_text"]

Splitter = Literal["structure", "recursive"]

# Part of every index's manifest: raise it when the same settings start to give other chunks.
CHUNKER_VERSION = 1


@dataclass(frozen=True)
class ChunkSettings:
    """How documents are cut. Raises RagRequestError for values that cannot hold."""

    tokens: int = 200
    """The most tokens an embedded chunk has, its heading path and the embedder's special tokens included; >= 16."""
    overlap: int = 30
    """The most tokens of whole sentences that a chunk repeats from the one before it in the same section."""
    splitter: Splitter = "structure"
    """`structure` keeps paragraphs, lists and code whole where they fit; `recursive` is LangChain's splitter."""

    def __post_init__(self) -> None:
        if self.tokens < 16:
            raise RagRequestError(f"chunk.tokens is {self.tokens}; a chunk needs at least 16")
        if not 0 <= self.overlap < self.tokens:
            raise RagRequestError(f"chunk.overlap is {self.overlap}; it must be from 0 to chunk.tokens - 1")
        if self.splitter not in ("structure", "recursive"):
            raise RagRequestError(f"chunk.splitter is {self.splitter!r}; it must be structure or recursive")

    def check_fits(self, embedder: str, max_tokens: int) -> None:
        """Raises RagRequestError where the embedder would cut chunks of this size short."""
        if self.tokens > max_tokens:
            raise RagRequestError(
                f"chunk.tokens is {self.tokens}, but the embedder {embedder} reads at most {max_tokens} tokens; "
                f"set chunk.tokens to {max_tokens} or less"
            )


@dataclass(frozen=True)
class Chunk:
    """One retrievable piece: `text == document.text[start:end]`.

    `heading_path` is the section's, shortened where it would fill more than half of the chunk. `tokens` counts
    `embedded_text` as the embedder sees it. `position` counts the document's chunks from 0.
    """

    document_id: str
    position: int
    heading_path: tuple[str, ...]
    start: int
    end: int
    text: str
    tokens: int

    @property
    def embedded_text(self) -> str:
        """What the embedder reads for this chunk."""
        return embedded_text(self.heading_path, self.text)


def embedded_text(heading_path: Sequence[str], text: str) -> str:
    """The heading path on a line of its own, then the text."""
    return f"{' > '.join(heading_path)}\n{text}"


def chunk_document(document: Document, settings: ChunkSettings, count: TokenCounter) -> list[Chunk]:
    """Cuts one document, section by section; every character that is no space comes into a chunk.

    A section that fits is one chunk. A longer one is packed from its blocks (paragraphs, whole lists, whole code
    fences); a block that does not fit is taken apart into sentences, list items or lines, those into words, and a
    single monster word into runs of characters. Nothing that the embedder sees is over `settings.tokens`. The same
    input gives the same chunks.

    Raises:
        RagRequestError: `settings.tokens` leaves no room for text.
    """
    bodies: list[tuple[tuple[str, ...], Span]] = []
    for section in document.sections:
        span = trimmed(document.text, (section.start, section.end))
        if span is not None:
            bodies.append((section.heading_path, span))
    headings = _fitting_headings({path for path, _ in bodies}, settings.tokens // 2, count)
    whole = count([embedded_text(headings[path], document.text[start:end]) for path, (start, end) in bodies])
    chunks: list[Chunk] = []
    for (path, span), tokens in zip(bodies, whole, strict=True):
        fits = tokens <= settings.tokens
        pieces = [(span, tokens)] if fits else _split(document.text, span, headings[path], settings, count)
        for (start, end), piece_tokens in pieces:
            text = document.text[start:end]
            chunks.append(Chunk(document.id, len(chunks), headings[path], start, end, text, piece_tokens))
    return chunks


def _split(
    text: str, span: Span, heading_path: tuple[str, ...], settings: ChunkSettings, count: TokenCounter
) -> list[tuple[Span, int]]:
    """Spans and tokens of the chunks of a section that does not fit into one."""
    fixed = count([embedded_text(heading_path, "")])[0]
    available = room = settings.tokens - fixed
    # Adding up what pieces cost is exact for most tokenizers but not for all (a space or a joint may cost a token): the
    # packed chunks are counted as they will be embedded, and packed tighter until they hold.
    while room > 0:
        if settings.splitter == "recursive":
            spans = recursive_spans(text, span, room, settings.overlap, count)
        else:
            spans = packed_spans(text, span, room, settings.overlap, count)
        tokens = count([embedded_text(heading_path, text[start:end]) for start, end in spans])
        if max(tokens) <= settings.tokens:
            return list(zip(spans, tokens, strict=True))
        tighter = room * available // (max(tokens) - fixed)
        room = min(room - 1, max(tighter, 1))
    raise RagRequestError(
        f"chunk.tokens is {settings.tokens}: the heading {' > '.join(heading_path)!r} and the embedder's own "
        f"tokens take {fixed}, which leaves no room for the text; raise chunk.tokens"
    )


def _fitting_headings(
    paths: Collection[tuple[str, ...]], budget: int, count: TokenCounter
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Each heading path as its chunks carry it: shortened where it alone would pass `budget` tokens."""
    ordered = sorted(paths)
    fitting: dict[tuple[str, ...], tuple[str, ...]] = {}
    for path, tokens in zip(ordered, count([embedded_text(path, "") for path in ordered]), strict=True):
        shorter = path
        while tokens > budget and shorter:
            shorter = _shortened(shorter)
            tokens = count([embedded_text(shorter, "")])[0]
        fitting[path] = shorter
    return fitting


def _shortened(path: tuple[str, ...]) -> tuple[str, ...]:
    """One step shorter: without a heading in the middle, then without the first, then the last one cut short."""
    if len(path) > 1:
        middle = len(path) // 2 if len(path) > 2 else 0
        return path[:middle] + path[middle + 1 :]
    kept = path[0].rstrip("…")[: len(path[0]) * 3 // 4 - 1]
    return (f"{kept}…",) if kept else ()
