"""Packs the pieces of a long text into spans of bounded size."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache

from rag.segments import Cut, Span, blocks, halves

# Texts in, tokens of each out: what the embedder would see, its special tokens and passage prompt included.
TokenCounter = Callable[[Sequence[str]], list[int]]
_Sized = tuple[Span, int]


def packed_spans(text: str, span: Span, room: int, overlap: int, count: TokenCounter) -> list[Span]:
    """Spans of at most `room` tokens as far as adding up tells, filled one after the other: whole blocks where they
    fit, else their parts. Each repeats up to `overlap` tokens of whole sentences from the end of the one before.
    """
    sizes = _Sizes(text, count)
    pieces: list[_Sized] = []
    found = blocks(text, span)
    for block, sized in zip(found, sizes.of([block.span for block in found]), strict=True):
        pieces += _fitting([sized], block.cuts, room, text, sizes)
    # Sentences, list items or lines: what an overlap is made of.
    sentences = sizes.of([part for block in found for part in block.cuts[0](text, block.span)] if overlap else [])
    gaps = sizes.gaps([piece for piece, _ in pieces])
    spans: list[Span] = []
    start, end, used = pieces[0][0][0], pieces[0][0][0], 0
    for ((piece_start, piece_end), tokens), gap in zip(pieces, gaps, strict=True):
        if used:
            used += gap
        if used and used + tokens > room:
            spans.append((start, end))
            repeated = _overlap(sentences, (start, end), min(overlap, room - tokens - gap))
            start, used = (piece_start, 0) if repeated is None else repeated
        end = piece_end
        used += tokens
    return [*spans, (start, end)]


def recursive_spans(text: str, span: Span, room: int, overlap: int, count: TokenCounter) -> list[Span]:
    """The spans that LangChain's RecursiveCharacterTextSplitter gives, sized in tokens, each with up to `overlap`
    tokens of whole sentences from the one before.

    LangChain is asked for no overlap: its own start index takes the overlap for characters, and is wrong where it is
    counted in tokens; without overlap each piece starts where the one before ended but for space.
    """
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    sizes = _Sizes(text, count)

    @cache
    def length(piece: str) -> int:
        return max(count([piece])[0] - sizes.empty, 0)

    repeated = min(overlap, room // 2)
    splitter = RecursiveCharacterTextSplitter(chunk_size=room - repeated, chunk_overlap=0, length_function=length)
    sentences = sizes.of([part for block in blocks(text, span) for part in block.cuts[0](text, block.span)])
    spans: list[Span] = []
    before = (span[0], span[0])
    for piece in splitter.split_text(text[span[0] : span[1]]):
        start = text.index(piece, before[1], span[1])
        begin = _overlap(sentences, before, repeated) if spans else None
        before = (start, start + len(piece))
        spans.append((start if begin is None else begin[0], before[1]))
    return spans


class _Sizes:
    """Counts tokens of spans, many at a time, without what the tokenizer adds to every text."""

    def __init__(self, text: str, count: TokenCounter) -> None:
        self.text, self.count = text, count
        self.empty = count([""])[0]

    def of(self, spans: list[Span]) -> list[_Sized]:
        """Each span with its tokens, at least one."""
        counts = self.count([self.text[start:end] for start, end in spans])
        return [(span, max(tokens - self.empty, 1)) for span, tokens in zip(spans, counts, strict=True)]

    def gaps(self, pieces: list[Span]) -> list[int]:
        """Tokens of what lies before each piece: blank lines and indentation cost in some tokenizers. A single space
        counts nothing, for most take it into the word."""
        between = ["", *(self.text[left[1] : right[0]] for left, right in itertools.pairwise(pieces))]
        distinct = sorted({gap for gap in between if gap not in ("", " ")})
        counts = dict(zip(distinct, self.count(distinct), strict=True))
        return [max(counts.get(gap, self.empty) - self.empty, 0) for gap in between]


def _fitting(pieces: list[_Sized], cuts: tuple[Cut, ...], room: int, text: str, sizes: _Sizes) -> list[_Sized]:
    """The pieces, those over `room` taken apart by the first of `cuts`, their parts by the next, and at last halved."""
    fitting: list[_Sized] = []
    for span, tokens in pieces:
        if tokens <= room or span[1] - span[0] == 1:
            fitting.append((span, tokens))
        else:
            parts = sizes.of(cuts[0](text, span) if cuts else halves(text, span))
            fitting += _fitting(parts, cuts[1:], room, text, sizes)
    return fitting


def _overlap(sentences: list[_Sized], chunk: Span, limit: int) -> tuple[int, int] | None:
    """(start, tokens) of the last whole sentences of a chunk, up to `limit` tokens and never the whole chunk."""
    position = bisect_left(sentences, chunk[1], key=lambda sized: sized[0][1])
    if position == len(sentences) or sentences[position][0][1] != chunk[1]:
        return None  # it ends within a sentence
    repeated: tuple[int, int] | None = None
    used = 0
    while position >= 0:
        (start, _), tokens = sentences[position]
        used += tokens
        if start <= chunk[0] or used > limit:
            break
        repeated = (start, used)
        position -= 1
    return repeated
