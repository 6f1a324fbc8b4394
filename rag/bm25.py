"""BM25 over postings: the best texts for some terms, without looking at every text that holds a common one.

score(text) = sum over the query's distinct terms of idf(term) * times * (K1 + 1) / (times + K1 * (1 - B + B * length /
mean length)), with idf = ln(1 + (n - df + 0.5) / (df + 0.5)), which is never negative: the formula of Lucene.

The terms are read rarest first, since those add most to a text. As soon as what the others can add
together is less than what the best texts have already, no text is looked for any more, and the common terms are looked
up for the texts found alone (MaxScore: Turtle and Flood, Information Processing & Management 31, 1995). What comes out
is what scoring every text would give.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rag.postings import Ids, Mask, Postings, Rows, dampings, mean_length, weights

Scores = npt.NDArray[np.float64]

# What sums of float32 may be off by, relatively: bounds are drawn this much wider.
_SLACK = 1e-5
# Of fewer texts than one in so many, each is looked up; of more, the lists are read and the others passed over.
_FEW = 64


@dataclass(frozen=True)
class Segment:
    """Postings, of which some rows may be gone since. `gone_terms` ascending and `gone_times` say how many rows of a
    term are."""

    postings: Postings
    alive: Mask | None
    gone_terms: Rows
    gone_times: Rows

    @classmethod
    def of(cls, postings: Postings, alive: Mask | None = None) -> Segment:
        """`alive` is bool [n]; None where all rows are."""
        none = np.zeros(0, dtype=np.int32)
        if alive is None or bool(alive.all()):
            return cls(postings, None, none, none)
        dead = np.flatnonzero(~alive[postings.rows])
        terms = np.searchsorted(postings.starts, dead, side="right") - 1
        gone, times = np.unique(terms, return_counts=True)
        return cls(postings, alive, gone.astype(np.int32), times.astype(np.int32))

    @property
    def size(self) -> int:
        return self.postings.size if self.alive is None else int(np.count_nonzero(self.alive))

    @property
    def total_length(self) -> int:
        lengths = self.postings.lengths if self.alive is None else self.postings.lengths[self.alive]
        return int(lengths.sum(dtype=np.int64))

    def frequency(self, place: int) -> int:
        """How many rows hold the term of this number."""
        at = int(np.searchsorted(self.gone_terms, place))
        gone = int(self.gone_times[at]) if at < len(self.gone_terms) and self.gone_terms[at] == place else 0
        return int(self.postings.starts[place + 1] - self.postings.starts[place]) - gone


@dataclass(frozen=True)
class _Term:
    """A query's term in one segment: its number there, its rarity over all segments, and the most it can add."""

    place: int
    idf: float
    most: float


Question = Sequence[Sequence[_Term]]


class Bm25:
    """Scores over several segments as if they were one. Safe to use from several threads."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = tuple(segments)
        self.size = sum(segment.size for segment in segments)
        self._mean = max(sum(segment.total_length for segment in segments) / max(self.size, 1), 1e-9)
        self._dampings = [dampings(segment.postings.lengths, self._mean) for segment in segments]
        # A segment's peaks are right for its own mean length; a longer mean holds less against length.
        own = [mean_length(segment.postings.lengths) for segment in segments]
        self._wider = [(1 + _SLACK) * max(1.0, self._mean / mean) for mean in own]
        self._local = threading.local()

    def ask(self, terms: Sequence[str]) -> Question:
        """For each segment the terms that it holds, the rarest first."""
        known: list[list[_Term]] = [[] for _ in self.segments]
        for term in dict.fromkeys(terms):
            places = [segment.postings.place(term) for segment in self.segments]
            pairs = [(s, place) for s, place in zip(self.segments, places, strict=True) if place is not None]
            frequency = sum(segment.frequency(place) for segment, place in pairs)
            idf = math.log(1 + (self.size - frequency + 0.5) / (frequency + 0.5))
            for number, place in enumerate(places):
                if place is not None:
                    peak = float(self.segments[number].postings.peaks[place])
                    known[number].append(_Term(place, idf, idf * peak * self._wider[number]))
        # Every segment adds up in the same order, so that equal texts have equal scores.
        return [sorted(of_segment, key=lambda term: -term.idf) for of_segment in known]

    def best(self, question: Question, limit: int, among: Ids | None = None) -> list[tuple[int, float]]:
        """Up to `limit` (chunk id, score), best first and of equals the lower id, of texts that hold a term. `among`,
        int64 ascending, restricts to these ids; what is rare is said of all texts all the same."""
        found_ids: list[Ids] = []
        found_scores: list[Scores] = []
        for number, (segment, known) in enumerate(zip(self.segments, question, strict=True)):
            if not known or limit < 1:
                continue
            rows = None if among is None else _rows_of(segment, among)
            if rows is not None and len(rows) * _FEW < segment.postings.size:
                scores = self._looked_up(number, known, rows)
            else:
                allowed = segment.alive if rows is None else _mask(segment.postings.size, rows)
                rows, scores = self._pruned(number, known, limit, allowed)
            hits = scores > 0
            found_ids.append(segment.postings.ids[rows[hits]])
            found_scores.append(scores[hits])
        if not found_ids:
            return []
        ids, scores = np.concatenate(found_ids), np.concatenate(found_scores)
        order = np.lexsort((ids, -scores))[:limit]
        return list(zip(ids[order].tolist(), scores[order].tolist(), strict=True))

    def scores(self, question: Question, ids: Ids) -> Scores:
        """float64 [n]: the scores of these chunk ids, int64 ascending; 0 for one that holds no term or is not there."""
        scores = np.zeros(len(ids), dtype=np.float64)
        for number, (segment, known) in enumerate(zip(self.segments, question, strict=True)):
            if not segment.postings.size:
                continue
            rows = np.searchsorted(segment.postings.ids, ids).clip(max=segment.postings.size - 1).astype(np.int32)
            here = segment.postings.ids[rows] == ids
            if segment.alive is not None:
                here &= segment.alive[rows]
            scores[here] = self._looked_up(number, known, rows[here])
        return scores

    def _looked_up(self, number: int, known: Sequence[_Term], rows: Rows) -> Scores:
        """float64 [n]: the scores of these rows, in any order."""
        scores = np.zeros(len(rows), dtype=np.float64)
        for term in known:
            self._add(number, term, rows, scores)
        return scores

    def _add(self, number: int, term: _Term, rows: Rows, scores: Scores) -> None:
        """Adds what the term counts in `rows` to their `scores`."""
        listed, times = self.segments[number].postings.entries(term.place)
        places = np.searchsorted(listed, rows)
        places[places == len(listed)] = 0
        hits = np.flatnonzero(listed[places] == rows)
        damping = self._dampings[number][rows[hits]]
        scores[hits] += term.idf * weights(times[places[hits]], damping)

    def _pruned(self, number: int, known: Sequence[_Term], limit: int, allowed: Mask | None) -> tuple[Rows, Scores]:
        """(rows, their scores), the best `limit` among them."""
        postings = self.segments[number].postings
        rest = [*np.cumsum([term.most for term in reversed(known)])[::-1].tolist(), 0.0]
        scores = self._scratch(number)
        found: list[Rows] = []
        count, read, bar = 0, 0, 0.0
        for term in known:
            if count >= limit and rest[read] < bar:
                break
            rows, times = postings.entries(term.place)
            if allowed is not None:
                here = allowed[rows]
                rows, times = rows[here], times[here]
            before = scores[rows]
            scores[rows] = before + term.idf * weights(times, self._dampings[number][rows])
            found.append(rows[before == 0])
            count, read = count + len(found[-1]), read + 1
            if count >= limit and read < len(known):
                bar = _bar(scores[np.concatenate(found)], limit)
        candidates = np.concatenate(found)
        sums = scores[candidates]
        scores[candidates] = 0.0  # the scratch is clean again for the next query
        for at in range(read, len(known)):
            worth = sums + rest[at] >= bar
            candidates, sums = candidates[worth], sums[worth]
            self._add(number, known[at], candidates, sums)
            bar = max(bar, _bar(sums, limit))
        return candidates, sums

    def _scratch(self, number: int) -> Scores:
        """float64 [rows of the segment], all zero: this thread's own, for the sums of one query."""
        kept: dict[int, Scores] = self._local.__dict__.setdefault("scratch", {})
        if number not in kept:
            kept[number] = np.zeros(self.segments[number].postings.size, dtype=np.float64)
        return kept[number]


def _bar(scores: Scores, limit: int) -> float:
    """What a text must reach to be among the best `limit`."""
    if len(scores) < limit:
        return 0.0
    return float(np.partition(scores, len(scores) - limit)[len(scores) - limit]) * (1 - _SLACK)


def _rows_of(segment: Segment, among: Ids) -> Rows:
    """The living rows of these chunk ids."""
    ids = segment.postings.ids
    places = np.searchsorted(ids, among)
    inside = places < len(ids)
    places, among = places[inside], among[inside]
    rows: Rows = places[ids[places] == among].astype(np.int32)
    return rows if segment.alive is None else rows[segment.alive[rows]]


def _mask(size: int, rows: Rows) -> Mask:
    mask = np.zeros(size, dtype=np.bool_)
    mask[rows] = True
    return mask
