"""The lexical index: postings derived from the store, in mapped files that carry the generation they were built from.

Full text lies in the database too (FTS5), as part of the truth; but its BM25 reads every chunk that holds any of the
query's words, which takes seconds at a million chunks. Every search therefore uses these postings, at every size: one
analysis and one ranking, whatever the size. They need a file of about five bytes for each distinct word of each chunk.

A change does not build them anew. `lexical-G.postings` is either whole, or holds the chunks that came since an older
file, which it names, and which of that one's rows are gone; above a tenth of changes the two become one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from rag.analysis import ANALYSIS_VERSION
from rag.bm25 import Bm25, Question, Scores, Segment
from rag.database_errors import NotWrittenError, explained
from rag.mapped import ArrayFile, DamagedFileError, Stored, write_arrays
from rag.postings import Ids, Mask, Postings, count_terms, joined
from rag.store import Store

NAME = re.compile(r"lexical-(\d+)\.postings(\.tmp)?")
_TEXTS_AT_ONCE = 4096
# Up to here everything becomes one file again at once; it takes a second.
_SMALL = 10_000
_MOST_CHANGED = 0.1
_CHECKED_AT_ONCE = ("ids", "lengths", "vocabulary", "bounds", "starts", "peaks")


class LexicalIndex:
    """BM25 over the chunks of one generation: heading path and text. Safe to use from several threads."""

    def __init__(
        self, token: str, generation: int, base_generation: int, base: Segment, changes: Postings | None
    ) -> None:
        """Use `build`, `read` or `current`."""
        self.token, self.generation = token, generation
        self._base_generation, self._base, self._changes = base_generation, base, changes
        self._bm25 = Bm25([base] + ([] if changes is None else [Segment.of(changes)]))

    @classmethod
    def build(cls, store: Store) -> LexicalIndex:
        """From the store's texts, in memory; call it in a snapshot."""
        generation = store.generation
        return cls(store.token, generation, generation, Segment.of(_counted(store, store.all_ids())), None)

    @classmethod
    def read(cls, folder: Path, store: Store) -> LexicalIndex | None:
        """From the file of the store's generation; None where it is missing, damaged or another's."""
        try:
            found = _read(folder, store, store.generation)
        except (DamagedFileError, OSError):
            return None
        return found if found._bm25.size == store.count_chunks() else None

    @classmethod
    def current(cls, folder: Path, store: Store, loaded: LexicalIndex | None = None) -> LexicalIndex:
        """The store's generation: what is loaded already, or from its file, or what is there of another generation
        with the chunks since, or built anew. Call it in a snapshot."""
        if loaded is not None and loaded.token == store.token:
            return loaded
        if loaded is not None and loaded.token != store.token_of(loaded.generation):
            loaded = None  # the database was replaced by one that became another
        found = cls.read(folder, store)
        if found is not None:
            return found
        for other in [None] if loaded is not None else sorted(_generations(folder), reverse=True):
            with suppress(DamagedFileError, OSError):
                older = loaded if other is None else _read(folder, store, other)
                if older is not None:
                    return older.caught_up(store)
        return cls.build(store)

    def caught_up(self, store: Store) -> LexicalIndex:
        """The store's generation, from this one and the chunks that came and went since.

        Raises:
            DamagedFileError: a file that this one reads from is damaged.
        """
        live = store.all_ids()
        base, changes = self._base.postings, self._changes
        alive = np.isin(base.ids, live, assume_unique=True)
        held = base.ids if changes is None else np.concatenate([base.ids, changes.ids])
        fresh = _counted(store, np.setdiff1d(live, held, assume_unique=True))
        parts: list[tuple[Postings, Mask]] = []
        if changes is not None:
            parts.append((changes, np.isin(changes.ids, live, assume_unique=True)))
        if fresh.size:
            parts.append((fresh, np.ones(fresh.size, dtype=np.bool_)))
        news = sum(int(np.count_nonzero(kept)) for _, kept in parts)
        changed = news + base.size - int(np.count_nonzero(alive))
        token, generation = store.token, store.generation
        if base.size <= _SMALL or changed > _MOST_CHANGED * base.size:
            base.check_all()
            whole = Segment.of(joined([(base, alive), *parts]))
            return LexicalIndex(token, generation, generation, whole, None)
        segment = self._base
        if not np.array_equal(alive, _alive(segment)):
            base.check_all()
            segment = Segment.of(base, alive)
        return LexicalIndex(token, generation, self._base_generation, segment, joined(parts) if news else None)

    def write(self, folder: Path) -> None:
        """Puts the file in place whole or not at all, and takes away those that are needed no more.

        Raises:
            NotWrittenError: the disk is full or cannot be written.
        """
        path = folder / f"lexical-{self.generation}.postings"
        whole = self._base_generation == self.generation
        postings = self._base.postings if whole else self._changes
        described: dict[str, int] = {"base": self._base_generation, "analysis": ANALYSIS_VERSION}
        arrays: dict[str, Stored] = {}
        if postings is not None:
            arrays |= postings.arrays()
        if not whole and self._base.alive is not None:
            arrays |= {
                "gone": np.flatnonzero(~self._base.alive),
                "gone_terms": self._base.gone_terms,
                "gone_times": self._base.gone_times,
            }
        try:
            with explained(path, 0):
                write_arrays(path, self.token, self.generation, described, arrays)
                self.remove_leftovers(folder)
        except OSError as error:
            raise NotWrittenError(
                f"{path} cannot be written: {error}. The index itself is whole: this file will be made again from it"
            ) from error

    def leftovers(self, folder: Path) -> list[Path]:
        """Files of the kind that this one does not read from: of other generations, and half written ones."""
        used = {f"lexical-{generation}.postings" for generation in (self.generation, self._base_generation)}
        return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.name not in used)

    def remove_leftovers(self, folder: Path) -> None:
        """Call it with the writer lock held. Whoever has one of them open keeps it until then."""
        for path in self.leftovers(folder):
            with suppress(OSError):  # Windows keeps a mapped file; the next writer takes it away
                path.unlink()

    @property
    def size(self) -> int:
        """How many chunks."""
        return self._bm25.size

    def ask(self, terms: Sequence[str]) -> Question:
        """Looks the terms of a query up, for `best` and `scores`."""
        return self._bm25.ask(terms)

    def best(self, question: Question, limit: int, among: Ids | None = None) -> list[tuple[int, float]]:
        """Up to `limit` (chunk id, BM25), best first, among these chunk ids (int64 ascending) if given.

        Raises:
            DamagedFileError: the file is damaged where it had to be read.
        """
        return self._bm25.best(question, limit, among)

    def scores(self, question: Question, ids: Ids) -> Scores:
        """float64 [n]: BM25 of these chunk ids, int64 ascending; 0 without a common word.

        Raises:
            DamagedFileError: the file is damaged where it had to be read.
        """
        return self._bm25.scores(question, ids)

    def problems(self, store: Store) -> list[str]:
        """What differs from the store's texts, in words; call it in a snapshot. Counts every text anew."""
        expected = _counted(store, store.all_ids()).arrays()
        parts = [(self._base.postings, _alive(self._base))]
        if self._changes is not None:
            parts.append((self._changes, np.ones(self._changes.size, dtype=np.bool_)))
        try:
            for part, _ in parts:
                part.check_all()
        except DamagedFileError as error:
            return [str(error)]
        found = joined(parts).arrays()
        same = all(np.array_equal(expected[name], found[name]) for name in expected)
        return [] if same else ["the postings file differs from the database"]


def _read(folder: Path, store: Store, generation: int) -> LexicalIndex:
    """From this generation's file and the one it names.

    Raises:
        DamagedFileError, OSError: one of them is damaged, another's, or not there.
    """
    file = _opened(folder, store, generation)
    base_generation = file.described["base"]
    if base_generation == generation:
        return LexicalIndex(file.token, generation, generation, Segment.of(_mapped(file)), None)
    base = Segment.of(_mapped(_opened(folder, store, base_generation)))
    if "gone" in file:
        alive = np.ones(base.postings.size, dtype=np.bool_)
        alive[file.array("gone").astype(np.int64)] = False
        gone_terms, gone_times = (file.array(name).astype(np.int32) for name in ("gone_terms", "gone_times"))
        base = Segment(base.postings, alive, gone_terms, gone_times)
    return LexicalIndex(file.token, generation, base_generation, base, _mapped(file) if "ids" in file else None)


def _opened(folder: Path, store: Store, generation: int) -> ArrayFile:
    file = ArrayFile(folder / f"lexical-{generation}.postings")
    wanted = (store.token_of(generation), generation, ANALYSIS_VERSION)
    if (file.token, file.generation, file.described["analysis"]) != wanted:
        raise DamagedFileError(f"{file.path} is of another index, history or version")
    return file


def _mapped(file: ArrayFile) -> Postings:
    small = {name: file.array(name) for name in _CHECKED_AT_ONCE}
    (rows, times), guard = file.guarded("rows", "times")
    return Postings(
        ids=small["ids"].astype(np.int64, copy=False),
        lengths=small["lengths"].astype(np.int32, copy=False),
        vocabulary=small["vocabulary"].astype(np.uint8, copy=False),
        bounds=small["bounds"].astype(np.int64, copy=False),
        starts=small["starts"].astype(np.int64, copy=False),
        rows=rows.astype(np.int32, copy=False),
        times=times.astype(np.uint8, copy=False),
        peaks=small["peaks"].astype(np.float32, copy=False),
        guard=guard,
    )


def _generations(folder: Path) -> list[int]:
    """Of the files that are there."""
    matches = [NAME.fullmatch(path.name) for path in folder.iterdir()]
    return [int(match[1]) for match in matches if match and not match[2]]


def _counted(store: Store, ids: Ids) -> Postings:
    """The postings of these chunks, ascending."""
    return count_terms(ids, _texts(store, ids))


def _texts(store: Store, ids: Ids) -> Iterator[str]:
    """Heading path and text of these chunks, ascending."""
    for first in range(0, len(ids), _TEXTS_AT_ONCE):
        listed = json.dumps(ids[first : first + _TEXTS_AT_ONCE].tolist())
        query = "SELECT heading, text FROM chunks WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        for heading, text in store.database.rows(query, [listed]):
            yield f"{heading}\n{text}"


def _alive(segment: Segment) -> Mask:
    return np.ones(segment.postings.size, dtype=np.bool_) if segment.alive is None else segment.alive
