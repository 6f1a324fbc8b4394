"""Postings: for each term the rows it stands in and how often, as plain arrays that can lie in a mapped file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rag.analysis import terms_of_word, words

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int32]
Times = npt.NDArray[np.uint8]
Weights = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

# The constants of BM25: how soon a repeated term saturates, and how much length counts. These are Anserini's, and those
# of BEIR's lexical figures, and suit pieces of a text: all are about equally long but the last one of a section,
# which is short because it was cut there and not because it is terse. In hybrid search they are worth 0.3 to 1.1 points
# of nDCG over 1.2 and 0.75 on a sample of SciFact's training claims, cut into chunks or not, and 0.2 on XQuAD.
K1, B = 0.9, 0.4

# Texts that are counted together: enough for numpy to pay, few enough to stay in the processor's cache.
_BATCH = 4096
_MOST_TIMES = 255
_TERMS_AT_ONCE = 1 << 16


class Guard(Protocol):
    """Knows whether what lies in a file is still what was written."""

    def check(self, start: int, stop: int) -> None:
        """Raises an error of its own where the entries from `start` to `stop` are damaged."""
        ...


@dataclass(frozen=True)
class Postings:
    """The terms of n texts. A row is a text's place, from 0.

    `ids` int64 [n] ascending chunk ids; `lengths` int32 [n], the terms of each text; `vocabulary` uint8, the distinct
    terms in UTF-8, sorted by their bytes and joined; `bounds` int64 [v + 1] where each begins in it; `starts` int64
    [v + 1] where the entries of each begin in `rows` int32 [p], ascending within a term, and `times` uint8 [p], how
    often, 255 standing for more as well; `peaks` float32 [v], the most that one of its entries counts (`weights`, with
    the mean length of these texts).
    """

    ids: Ids
    lengths: Lengths
    vocabulary: npt.NDArray[np.uint8]
    bounds: Ids
    starts: Ids
    rows: Rows
    times: Times
    peaks: Weights
    guard: Guard | None = None

    @property
    def size(self) -> int:
        return len(self.ids)

    def place(self, term: str) -> int | None:
        """The number of a term; None where no text has it."""
        wanted = term.encode("utf-8")
        low, high = 0, len(self.bounds) - 1
        while low < high:
            middle = (low + high) // 2
            if self._term(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self.bounds) - 1 and self._term(low) == wanted else None

    def entries(self, place: int) -> tuple[Rows, Times]:
        """The rows of a term, and how often it stands in each."""
        span = slice(int(self.starts[place]), int(self.starts[place + 1]))
        if self.guard is not None:
            self.guard.check(span.start, span.stop)
        return self.rows[span], self.times[span]

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Every array, by name."""
        return {
            "ids": self.ids,
            "lengths": self.lengths,
            "vocabulary": self.vocabulary,
            "bounds": self.bounds,
            "starts": self.starts,
            "rows": self.rows,
            "times": self.times,
            "peaks": self.peaks,
        }

    def check_all(self) -> None:
        """Has the guard look at every entry."""
        if self.guard is not None:
            self.guard.check(0, len(self.rows))

    def _term(self, place: int) -> bytes:
        return self.vocabulary[int(self.bounds[place]) : int(self.bounds[place + 1])].tobytes()

    def terms(self) -> list[bytes]:
        """The whole vocabulary."""
        joined, bounds = self.vocabulary.tobytes(), self.bounds.tolist()
        return [joined[start:end] for start, end in pairwise(bounds)]


@dataclass(frozen=True)
class _Counted:
    """Some texts on their way into postings: entries sorted by term, then by row. `rows` counts within the whole."""

    terms: npt.NDArray[np.int32]
    rows: Rows
    times: Times


def count_terms(ids: Ids, texts: Iterable[str]) -> Postings:
    """The postings of these texts; `ids` ascend."""
    known: dict[str, tuple[int, ...]] = {}  # a word as it stands -> the numbers of its terms
    numbers: dict[str, int] = {}
    counted: list[_Counted] = []
    lengths = np.zeros(len(ids), dtype=np.int32)
    first = 0
    for batch in _batches(texts):
        found: list[int] = []
        ends: list[int] = []
        for text in batch:
            for word in words(text):
                of_word = known.get(word)
                if of_word is None:
                    of_word = tuple(numbers.setdefault(term, len(numbers)) for term in terms_of_word(word))
                    known[word] = of_word
                found += of_word
            ends.append(len(found))
        sizes = np.diff(np.array(ends, dtype=np.int64), prepend=0).astype(np.int64)
        lengths[first : first + len(batch)] = sizes
        places = np.repeat(np.arange(len(batch), dtype=np.int64), sizes)
        pairs, times = np.unique(np.array(found, dtype=np.int64) * len(batch) + places, return_counts=True)
        counted.append(
            _Counted(
                (pairs // len(batch)).astype(np.int32),
                (pairs % len(batch) + first).astype(np.int32),
                np.minimum(times, _MOST_TIMES).astype(np.uint8),
            )
        )
        first += len(batch)
    return _assembled(ids, lengths, [term.encode("utf-8") for term in numbers], counted)


def joined(parts: Sequence[tuple[Postings, Mask]]) -> Postings:
    """One of several: of each the rows that its mask keeps. No chunk may be kept twice. What comes out is equal to what
    `count_terms` makes of the same texts."""
    ids = np.concatenate([part.ids[kept] for part, kept in parts])
    order = np.argsort(ids, kind="stable")
    new_rows = np.empty(len(ids), dtype=np.int32)
    new_rows[order] = np.arange(len(ids), dtype=np.int32)
    numbers: dict[bytes, int] = {}
    counted: list[_Counted] = []
    first = 0
    for part, kept in parts:
        renamed = np.array([numbers.setdefault(term, len(numbers)) for term in part.terms()], dtype=np.int32)
        to_row = np.full(part.size, -1, dtype=np.int32)
        count = int(np.count_nonzero(kept))
        to_row[kept] = new_rows[first : first + count]
        first += count
        rows = to_row[part.rows]
        staying = rows >= 0
        counts = np.diff(part.starts).astype(np.int64)
        terms = np.repeat(renamed, counts)[staying]
        counted.append(_Counted(terms, rows[staying], part.times[staying]))
    lengths = np.concatenate([part.lengths[kept] for part, kept in parts])[order]
    return _assembled(ids[order], lengths, list(numbers), counted)


def _assembled(
    ids: Ids,
    lengths: npt.NDArray[np.int32],
    vocabulary: Sequence[bytes],
    counted: Sequence[_Counted],
) -> Postings:
    """`counted` speaks of terms by their number in `vocabulary`, which may hold some that no text has any more."""
    total = np.zeros(len(vocabulary), dtype=np.int64)
    for part in counted:
        total += np.bincount(part.terms, minlength=len(vocabulary))
    order = [number for number in sorted(range(len(vocabulary)), key=vocabulary.__getitem__) if total[number]]
    sorted_place = np.full(len(vocabulary), -1, dtype=np.int64)
    sorted_place[order] = np.arange(len(order))
    starts = np.zeros(len(order) + 1, dtype=np.int64)
    np.cumsum(total[order], out=starts[1:])
    rows = np.empty(int(starts[-1]), dtype=np.int32)
    times = np.empty(int(starts[-1]), dtype=np.uint8)
    # Each part is sorted by term, so that its entries of one term go side by side behind those of the parts before.
    free = np.zeros(len(vocabulary), dtype=np.int64)
    free[order] = starts[:-1]
    for part in counted:
        count = np.bincount(part.terms, minlength=len(vocabulary))
        heads = np.flatnonzero(np.diff(part.terms, prepend=-1))
        within = np.arange(len(part.terms)) - np.repeat(heads, np.diff(heads, append=len(part.terms)))
        places = free[part.terms] + within
        rows[places], times[places] = part.rows, part.times
        free += count
    _sort_rows(starts, rows, times)
    kept = [vocabulary[number] for number in order]
    bounds = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum([len(term) for term in kept], out=bounds[1:])
    joined_terms = np.frombuffer(b"".join(kept), dtype=np.uint8)
    return Postings(ids, lengths, joined_terms, bounds, starts, rows, times, _peaks(lengths, starts, rows, times))


def _sort_rows(starts: Ids, rows: Rows, times: Times) -> None:
    """Brings the rows of each term into order, which parts of mixed ids may have left out of it."""
    falls = np.flatnonzero(np.diff(rows) < 0) + 1
    inside = falls[~np.isin(falls, starts)]
    for place in np.unique(np.searchsorted(starts, inside, side="right") - 1):
        span = slice(int(starts[place]), int(starts[place + 1]))
        order = np.argsort(rows[span], kind="stable")
        rows[span], times[span] = rows[span][order], times[span][order]


def _peaks(lengths: Lengths, starts: Ids, rows: Rows, times: Times) -> Weights:
    peaks = np.zeros(len(starts) - 1, dtype=np.float32)
    damping = dampings(lengths, mean_length(lengths))
    for first in range(0, len(peaks), _TERMS_AT_ONCE):
        some = starts[first : first + _TERMS_AT_ONCE + 1]
        span = slice(int(some[0]), int(some[-1]))
        counts = weights(times[span], damping[rows[span]])
        peaks[first : first + _TERMS_AT_ONCE] = np.maximum.reduceat(counts, some[:-1] - some[0])
    return peaks


def mean_length(lengths: Lengths) -> float:
    """The mean; 1 where there is nothing to take it of."""
    return float(lengths.mean()) if len(lengths) and lengths.any() else 1.0


def dampings(lengths: Lengths, mean: float) -> Weights:
    """float32 [n]: what BM25 holds against each text for its length."""
    return (K1 * (1 - B + B * lengths / mean)).astype(np.float32)


def weights(times: Times, damping: Weights) -> Weights:
    """float32: what each entry counts, before its term's rarity: it grows with how often the term stands there, and
    saturates."""
    often = times.astype(np.float32)
    grown: Weights = often * np.float32(K1 + 1) / (often + damping)
    return grown


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    whole = iter(texts)
    while batch := list(islice(whole, _BATCH)):
        yield batch
