"""Packs the pieces of a long text into spans of bounded size."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from rag.segments import Cut, Span, blocks, halves

# Texts in, tokens of each out: what the embedder would see, its special tokens and passage prompt included.
TokenCounter = Callable[[Sequence[str]], list[int]]
# A tokenizer may take a word of any length for a single unknown token. So that no such word makes a chunk that nobody
# can read, every token is taken to stand for at most this many characters.
CHARACTERS_PER_TOKEN = 8
_Sized = tuple[Span, int]
_REMEMBERED = 1_000_000


class Sizes:
    """What texts cost in tokens, by adding up their words: each word goes through the tokenizer once.

    The sum is exact for tokenizers that cut at space first (WordPiece) and close for the others; whoever needs to be
    sure counts the finished text.
    """

    def __init__(self, count: TokenCounter) -> None:
        self._count = count
        self._words: dict[str, int] = {}
        self._gaps: dict[str, int] = {"": 0, " ": 0}
        self._empty: int | None = None

    def learn(self, texts: Iterable[str]) -> None:
        """Counts the words of many texts in one call."""
        if len(self._words) > _REMEMBERED:
            self._words.clear()
        new = sorted({word for text in texts for word in text.split()} - self._words.keys())
        if new:
            # Behind another word, because that is where most words stand: a space is a part of the word to many
            # tokenizers.
            base, *counts = self._count(["a", *(f"a {word}" for word in new)])
            self._words.update(zip(new, (max(tokens - base, 0) for tokens in counts), strict=True))

    def of(self, text: str) -> int:
        """Tokens without those that are added to every text, at least one."""
        try:
            return self._known(text)
        except KeyError:
            self.learn([text])
            return self._known(text)

    def of_spans(self, text: str, spans: Iterable[Span]) -> list[_Sized]:
        """Each span with its tokens. The words of all are learnt in one call."""
        parts = [(span, text[span[0] : span[1]]) for span in spans]
        try:
            return [(span, self._known(part)) for span, part in parts]
        except KeyError:
            self.learn(part for _, part in parts)
            return [(span, self._known(part)) for span, part in parts]

    def _known(self, text: str) -> int:
        """Raises KeyError where a word has not been learnt."""
        return max(sum(map(self._words.__getitem__, text.split())), least_tokens(text), 1)

    def gaps(self, text: str, pieces: list[Span]) -> list[int]:
        """Tokens of what lies before each piece: blank lines and indentation cost in some tokenizers. A single space
        counts nothing, for it is counted with the word."""
        between = ["", *(text[left[1] : right[0]] for left, right in itertools.pairwise(pieces))]
        # A tokenizer need not read a megabyte of blank lines: by its length alone it fills a chunk.
        new = sorted({gap for gap in between if len(gap) <= 100 and gap not in self._gaps})
        if new:
            empty, *counts = self._count(["", *new])
            self._gaps.update(zip(new, (max(tokens - empty, 0) for tokens in counts), strict=True))
        return [max(self._gaps.get(gap, 0), len(gap) // CHARACTERS_PER_TOKEN) for gap in between]


def least_tokens(text: str) -> int:
    """What a text counts at least, whatever the tokenizer says."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def packed_spans(text: str, span: Span, room: int, overlap: int, sizes: Sizes) -> list[Span]:
    """Spans of at most `room` tokens as far as adding up tells, filled one after the other: whole blocks where they
    fit, else their parts. Each repeats up to `overlap` tokens of whole sentences from the end of the one before.
    """
    pieces: list[_Sized] = []
    sentences: list[_Sized] = []  # or list items or lines: what an overlap is made of
    found = blocks(text, span)
    for block, (whole, tokens) in zip(found, sizes.of_spans(text, [block.span for block in found]), strict=True):
        parts = sizes.of_spans(text, block.cuts[0](text, whole)) if overlap or tokens > room else []
        sentences += parts
        pieces += [(whole, tokens)] if tokens <= room else _fitting(parts, block.cuts[1:], room, text, sizes)
    return _filled(text, pieces, sentences, room, overlap, sizes)


def fitting_spans(text: str, spans: Iterable[Span], room: int, sizes: Sizes) -> list[Span]:
    """The spans, those over `room` tokens cut up into words."""
    cut: list[Span] = []
    for span, tokens in sizes.of_spans(text, spans):
        cut += [span] if tokens <= room else packed_spans(text, span, room, 0, sizes)
    return cut


def sentence_sizes(text: str, span: Span, sizes: Sizes) -> list[_Sized]:
    """The sentences, list items and lines of a span, each with its tokens."""
    return sizes.of_spans(text, [part for block in blocks(text, span) for part in block.cuts[0](text, block.span)])


def repeated_start(sentences: list[_Sized], chunk: Span, limit: int) -> tuple[int, int] | None:
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


def _filled(
    text: str, pieces: list[_Sized], sentences: list[_Sized], room: int, overlap: int, sizes: Sizes
) -> list[Span]:
    gaps = sizes.gaps(text, [piece for piece, _ in pieces])
    spans: list[Span] = []
    start, end, used = pieces[0][0][0], pieces[0][0][0], 0
    for ((piece_start, piece_end), tokens), gap in zip(pieces, gaps, strict=True):
        if used and used + gap + tokens > room:
            spans.append((start, end))
            repeated = repeated_start(sentences, (start, end), min(overlap, room - tokens - gap))
            start, used = (piece_start, 0) if repeated is None else repeated
        used += tokens + (gap if used else 0)
        end = piece_end
    return [*spans, (start, end)]


def _fitting(pieces: list[_Sized], cuts: tuple[Cut, ...], room: int, text: str, sizes: Sizes) -> list[_Sized]:
    """The pieces, those over `room` taken apart by the first of `cuts`, their parts by the next, and at last halved."""
    fitting: list[_Sized] = []
    for span, tokens in pieces:
        if tokens <= room or span[1] - span[0] == 1:
            fitting.append((span, tokens))
        else:
            parts = sizes.of_spans(text, cuts[0](text, span) if cuts else halves(text, span))
            fitting += _fitting(parts, cuts[1:], room, text, sizes)
    return fitting
