"""Word sequences that are found wherever they stand in other texts, millions of them in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes: TypeAlias = NDArray[np.uint64]
    Numbers: TypeAlias = NDArray[np.int64]

# A sequence is looked for by its first words: by all of them up to _EXACT, else by as many as the largest of these.
_EXACT = 8
_ANCHORS = (32, 16, 8)

_WRAP = 1 << 64
_BASE = 0x9DDFEA08EB382D69
# Stands for the end of a text, so that no sequence runs on into the next.
_BORDER = 0x2545F4914F6CDD1D
_BLOCK_WORDS = 100_000


class HashTable:
    """Hashes and what each stands for; each is told once."""

    def __init__(self, hashes: array[int], values: array[int]) -> None:
        import numpy as np

        self._hashes = np.array(hashes, dtype=np.uint64)
        order = np.argsort(self._hashes, kind="stable")
        self._hashes, self._values = self._hashes[order], np.array(values, dtype=np.int64)[order]
        self._told = np.zeros(len(order), dtype=bool)

    def look_up(self, hashes: array[int] | Hashes) -> Iterator[tuple[int, int]]:
        """(place in `hashes`, value) for those that had not been told before, each with the first place."""
        import numpy as np

        wanted, places = np.unique(np.array(hashes, dtype=np.uint64), return_index=True)
        first = np.searchsorted(self._hashes, wanted, "left")
        after = np.searchsorted(self._hashes, wanted, "right")
        hit = np.flatnonzero(after > first)
        for place, start, end in zip(places[hit].tolist(), first[hit].tolist(), after[hit].tolist(), strict=True):
            if not self._told[start]:
                self._told[start:end] = True
                yield from ((place, value) for value in self._values[start:end].tolist())


@dataclass(frozen=True, slots=True)
class _Anchored:
    """The sequences that are looked for by as many of their first words.

    Attributes:
        anchors: the hashes of those words, sorted, once for each length that such a sequence has.
        lengths: those lengths.
        wholes: the sequences themselves.
    """

    anchors: Hashes
    lengths: Numbers
    wholes: HashTable


class WordSequences:
    """Word sequences of test rows, found wherever they stand in other texts.

    Every word has a 64-bit number, Python's own keyed hash of it. The hash of a sequence x is the sum of x[i] * BASE**i
    modulo 2**64; from running sums over a text, that of any stretch of it comes by one subtraction and one
    multiplication.
    """

    def __init__(self) -> None:
        self._running = _RunningSums()
        self._waiting: list[Sequence[str]] = []
        self._words = 0
        # One entry a sequence: the hashes of its anchor and of all of it, its length and its value.
        self._anchors, self._wholes = array("Q"), array("Q")
        self._lengths, self._values = array("L"), array("Q")

    def add(self, words: Sequence[str], value: int) -> None:
        """`value` (below 2**63) is what is told where the words are found."""
        self._waiting.append(words)
        self._lengths.append(len(words))
        self._values.append(value)
        self._words += len(words)
        if self._words >= _BLOCK_WORDS:
            self._hash_waiting()

    def finder(self) -> SequenceFinder:
        import numpy as np

        self._hash_waiting()
        lengths = np.array(self._lengths, dtype=np.int64)
        anchors, wholes, values = (np.array(column) for column in (self._anchors, self._wholes, self._values))
        anchored = {}
        for anchor in (*range(1, _EXACT), *_ANCHORS):
            ours = np.flatnonzero(_anchor_lengths(lengths) == anchor)
            if len(ours):
                pairs = np.unique(np.stack([anchors[ours], lengths[ours].astype(np.uint64)], axis=1), axis=0)
                table = HashTable(array("Q", wholes[ours].tobytes()), array("Q", values[ours].tobytes()))
                anchored[anchor] = _Anchored(pairs[:, 0].copy(), pairs[:, 1].astype(np.int64), table)
        return SequenceFinder(self._running, anchored)

    def _hash_waiting(self) -> None:
        import numpy as np

        if not self._waiting:
            return
        lengths = np.array([len(words) for words in self._waiting], dtype=np.int64)
        # Behind each sequence stands the word that ends it.
        starts = np.cumsum(lengths + 1) - lengths - 1
        self._running.over(self._waiting)
        self._anchors.frombytes(self._running.hashes(starts, _anchor_lengths(lengths)).tobytes())
        self._wholes.frombytes(self._running.hashes(starts, lengths).tobytes())
        self._waiting, self._words = [], 0


class SequenceFinder:
    """Looks for the sequences of WordSequences in texts, many texts at a time."""

    def __init__(self, running: _RunningSums, anchored: dict[int, _Anchored]) -> None:
        self._running = running
        self._anchored = anchored

    def inside(self, texts: Sequence[Sequence[str]]) -> Iterator[tuple[int, int]]:
        """(number of the text, value) for every sequence that stands in a text and was not found before."""
        import numpy as np

        count = self._running.over(texts)
        ends = np.cumsum([len(words) + 1 for words in texts])
        for length, sought in self._anchored.items():
            if length > count:
                continue
            windows = self._running.hashes(np.arange(count - length + 1), length)
            first = np.searchsorted(sought.anchors, windows)
            starts = np.flatnonzero(sought.anchors[np.minimum(first, len(sought.anchors) - 1)] == windows)
            # At each such place a sequence of any of the lengths that go with the anchor may stand.
            after = np.searchsorted(sought.anchors, windows[starts], "right")
            several = after - first[starts]
            within = np.arange(several.sum()) - np.repeat(np.cumsum(several) - several, several)
            lengths = sought.lengths[np.repeat(first[starts], several) + within]
            starts = np.repeat(starts, several)
            fits = starts + lengths <= count
            starts, lengths = starts[fits], lengths[fits]
            texts_of = np.searchsorted(ends, starts, "right")
            for place, value in sought.wholes.look_up(self._running.hashes(starts, lengths)):
                yield int(texts_of[place]), value


class _RunningSums:
    """Of the words of one text after another; hashes of any stretch of them."""

    def __init__(self) -> None:
        import numpy as np

        self._powers = self._inverses = self._sums = np.ones(0, dtype=np.uint64)

    def over(self, texts: Iterable[Sequence[str]]) -> int:
        """Take these texts in place of the last; how many words they have, with one behind each that no text holds."""
        import numpy as np

        words = array("q")
        for text in texts:
            words.extend(map(hash, text))
            words.append(_BORDER)
        self._grow(len(words))
        numbers = np.array(words, dtype=np.int64).view(np.uint64) * self._powers[: len(words)]
        self._sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(numbers, dtype=np.uint64)])
        return len(words)

    def hashes(self, starts: Numbers, lengths: Numbers | int) -> Hashes:
        """Of the stretches of `lengths` words that begin at `starts`."""
        hashes: Hashes = (self._sums[starts + lengths] - self._sums[starts]) * self._inverses[starts]
        return hashes

    def _grow(self, length: int) -> None:
        """Have the powers of the base, and their inverses, for texts of `length` words."""
        import numpy as np

        if length <= len(self._powers):
            return
        bases = np.full((2, length), [[_BASE], [pow(_BASE, -1, _WRAP)]], dtype=np.uint64)
        bases[:, 0] = 1
        self._powers, self._inverses = np.cumprod(bases, axis=1, dtype=np.uint64)


def _anchor_lengths(lengths: Numbers) -> Numbers:
    import numpy as np

    anchors = np.minimum(lengths, _EXACT)
    for anchor in sorted(_ANCHORS):
        anchors[lengths >= anchor] = anchor
    return anchors
