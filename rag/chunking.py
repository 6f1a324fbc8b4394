"""Documents into chunks: retrievable pieces, sized in the embedder's own tokens, each an exact span of its document."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rag.corpus import Document
from rag.errors import RagRequestError
from rag.langchain_splitters import LANGCHAIN_SPLITTERS, LangChainSplitter, langchain_spans
from rag.packing import Sizes, TokenCounter, least_tokens, packed_spans
from rag.segments import Span, trimmed

__all__ = ["Chunk", "ChunkSettings", "TokenCounter", "chunk_document", "chunk_documents", "embedded_text"]

Splitter = Literal["structure"] | LangChainSplitter

# Part of every index's manifest: raise it when the same settings start to give other chunks.
CHUNKER_VERSION = 2

# Documents are cut in groups of about so many characters, so that the tokenizer gets few and long lists to count.
_GROUP = 2_000_000


@dataclass(frozen=True)
class ChunkSettings:
    """How documents are cut. Raises RagRequestError for values that cannot hold."""

    tokens: int = 200
    """The most tokens an embedded chunk has, its heading path and the embedder's special tokens included; >= 16."""
    overlap: int = 30
    """The most tokens of whole sentences that a chunk repeats from the one before it in the same section."""
    splitter: Splitter = "structure"
    """`structure` keeps paragraphs, lists, tables and code whole where they fit; the others are LangChain's."""

    def __post_init__(self) -> None:
        if self.tokens < 16:
            raise RagRequestError(f"chunk.tokens is {self.tokens}; a chunk needs at least 16")
        if not 0 <= self.overlap < self.tokens:
            raise RagRequestError(f"chunk.overlap is {self.overlap}; it must be from 0 to chunk.tokens - 1")
        if self.splitter not in ("structure", *LANGCHAIN_SPLITTERS):
            names = ", ".join(("structure", *LANGCHAIN_SPLITTERS))
            raise RagRequestError(f"chunk.splitter is {self.splitter!r}; it must be one of {names}")

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
    `embedded_text` as the embedder sees it. `position` counts the document's chunks from 0. `page` is the section's,
    from 1; None where the format has none.
    """

    document_id: str
    position: int
    heading_path: tuple[str, ...]
    start: int
    end: int
    text: str
    tokens: int
    page: int | None = None

    @property
    def embedded_text(self) -> str:
        """What the embedder reads for this chunk."""
        return embedded_text(self.heading_path, self.text)


def embedded_text(heading_path: Sequence[str], text: str) -> str:
    """The heading path on a line of its own, then the text."""
    return f"{' > '.join(heading_path)}\n{text}"


def chunk_document(document: Document, settings: ChunkSettings, count: TokenCounter) -> list[Chunk]:
    """Cuts one document: `chunk_documents` for a list of one."""
    return next(chunk_documents([document], settings, count))


def chunk_documents(
    documents: Iterable[Document], settings: ChunkSettings, count: TokenCounter
) -> Iterator[list[Chunk]]:
    """Cuts documents, section by section, and gives the chunks of each in turn; every character that is no space comes
    into a chunk.

    A section that fits is one chunk. A longer one is packed from its blocks (paragraphs, whole lists, tables, whole
    code fences); a block that does not fit is taken apart into sentences, list items or lines, those into words, and a
    single monster word into runs of characters. Nothing that the embedder sees is over `settings.tokens`, and no
    chunk's text has more than eight characters for each of them. The same input gives the same chunks.

    Raises:
        RagRequestError: `settings.tokens` leaves no room for text.
    """
    sizes = Sizes(count)
    for group in _groups(documents):
        yield from _chunk_group(group, settings, count, sizes)


@dataclass
class _Body:
    """The text of one section on its way to chunks."""

    document: Document
    section_path: tuple[str, ...]
    span: Span
    page: int | None
    heading_path: tuple[str, ...] = ()
    fixed: int = 0
    """Tokens of the heading path and of what the embedder adds to every text."""
    room: int = 0
    """Tokens that the text may take: less than are there where adding up what pieces cost says too little."""
    whole: bool = True
    """Not split so far."""
    spans: list[Span] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def _groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    group: list[Document] = []
    characters = 0
    for document in documents:
        group.append(document)
        characters += len(document.text)
        if characters > _GROUP:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _chunk_group(
    documents: Sequence[Document], settings: ChunkSettings, count: TokenCounter, sizes: Sizes
) -> Iterator[list[Chunk]]:
    bodies = [_bodies(document) for document in documents]
    every = [body for of_document in bodies for body in of_document]
    headings = _fitting_headings({body.section_path for body in every}, settings.tokens // 2, count)
    texts = [body.document.text[body.span[0] : body.span[1]] for body in every]
    # A text with no more characters than a chunk has tokens is tried whole, unread.
    sizes.learn(text for text in texts if len(text) > settings.tokens)
    for body, text in zip(every, texts, strict=True):
        body.heading_path, body.fixed = headings[body.section_path]
        body.room = settings.tokens - body.fixed
        # Near the limit only counting can tell, and whole is better.
        near = len(text) <= settings.tokens or sizes.of(text) <= settings.tokens * 5 // 4
        body.whole = near
        body.spans = [body.span] if near else _split(body, settings, sizes)
    _count_until_they_hold(every, settings, count, sizes)
    for of_document in bodies:
        chunks: list[Chunk] = []
        for body in of_document:
            for (start, end), tokens in zip(body.spans, body.tokens, strict=True):
                text = body.document.text[start:end]
                identity = (body.document.id, len(chunks), body.heading_path)
                chunks.append(Chunk(*identity, start, end, text, tokens, body.page))
        yield chunks


def _bodies(document: Document) -> list[_Body]:
    """The sections that hold more than space."""
    found: list[_Body] = []
    for section in document.sections:
        span = trimmed(document.text, (section.start, section.end))
        if span is not None:
            found.append(_Body(document, section.heading_path, span, section.page))
    return found


def _count_until_they_hold(bodies: Sequence[_Body], settings: ChunkSettings, count: TokenCounter, sizes: Sizes) -> None:
    """Counts the chunks as they will be embedded, and packs those bodies tighter in which one is too long.

    Adding up what pieces cost is exact for most tokenizers but not for all: a space or a joint may cost a token.
    """
    waiting = list(bodies)
    while waiting:
        texts = [
            embedded_text(body.heading_path, body.document.text[start:end])
            for body in waiting
            for start, end in body.spans
        ]
        counts = iter(count(texts))
        over: list[_Body] = []
        for body in waiting:
            body.tokens = [next(counts) for _ in body.spans]
            lengths = [least_tokens(body.document.text[start:end]) for start, end in body.spans]
            most = max(max(body.tokens), max(lengths))
            if most > settings.tokens:
                if not body.whole:
                    tighter = body.room * (settings.tokens - body.fixed) // max(most - body.fixed, 1)
                    body.room = min(body.room - 1, max(tighter, 1))
                body.whole = False
                body.spans = _split(body, settings, sizes)
                over.append(body)
        waiting = over


def _split(body: _Body, settings: ChunkSettings, sizes: Sizes) -> list[Span]:
    """Spans of the chunks of a section, with what `body.room` leaves for each."""
    if body.room < 1:
        raise RagRequestError(
            f"chunk.tokens is {settings.tokens}: the heading {' > '.join(body.heading_path)!r} and the embedder's own "
            f"tokens take {body.fixed}, which leaves no room for the text; raise chunk.tokens"
        )
    if settings.splitter == "structure":
        return packed_spans(body.document.text, body.span, body.room, settings.overlap, sizes)
    return langchain_spans(settings.splitter, body.document.text, body.span, body.room, settings.overlap, sizes)


def _fitting_headings(
    paths: Collection[tuple[str, ...]], budget: int, count: TokenCounter
) -> dict[tuple[str, ...], tuple[tuple[str, ...], int]]:
    """Each heading path as its chunks carry it, shortened where it alone would pass `budget` tokens, and its tokens."""
    ordered = sorted(paths)
    fitting: dict[tuple[str, ...], tuple[tuple[str, ...], int]] = {}
    for path, tokens in zip(ordered, count([embedded_text(path, "") for path in ordered]), strict=True):
        shorter = path
        while shorter and max(tokens, least_tokens(" > ".join(shorter))) > budget:
            shorter = _shortened(shorter)
            tokens = count([embedded_text(shorter, "")])[0]
        fitting[path] = shorter, tokens
    return fitting


def _shortened(path: tuple[str, ...]) -> tuple[str, ...]:
    """One step shorter: without a heading in the middle, then without the first, then the last one cut short."""
    if len(path) > 1:
        middle = len(path) // 2 if len(path) > 2 else 0
        return path[:middle] + path[middle + 1 :]
    kept = path[0].rstrip("…")[: len(path[0]) * 3 // 4 - 1]
    return (f"{kept}…",) if kept else ()
