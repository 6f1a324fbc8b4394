"""Which of the ranked candidates are shown: caps per document, nothing twice, and variety where it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rag.embedder import Vectors
from rag.fusion import stretched


@dataclass(frozen=True)
class Candidate:
    """A chunk that may be shown, as the rankings know it. `document` is the document's id."""

    id: int
    document: str
    position: int
    score: float
    similarity: float


def choose(
    ranked: Sequence[Candidate],
    limit: int,
    *,
    per_document: int | None = None,
    neighbours: int = 0,
    diversity: float = 0.0,
    vectors: Vectors | None = None,
) -> list[Candidate]:
    """Up to `limit` of `ranked` (best first), one after the other: the best that is left, unless its document has
    `per_document` already or an earlier one shows it among its `neighbours` before and after.

    With a `diversity` above 0 the best that is left is the one of the highest maximal marginal relevance (Carbonell and
    Goldstein, SIGIR 1998): (1 - diversity) * relevance - diversity * (the highest cosine to one chosen before), where
    the relevance is the score stretched to 0..1 over all candidates. `vectors`, float32 [n, dimension], are the
    candidates' unit rows, and needed then. Of equals the one that is ranked higher comes first.
    """
    chosen: list[Candidate] = []
    taken: Counter[str] = Counter()
    shown: set[tuple[str, int]] = set()
    open_ = np.ones(len(ranked), dtype=np.bool_)
    relevance = stretched(np.array([candidate.score for candidate in ranked], dtype=np.float64))
    nearest = np.zeros(len(ranked), dtype=np.float64)
    at = 0
    while len(chosen) < limit and at < len(ranked):
        if diversity > 0:
            worth = np.where(open_, (1 - diversity) * relevance - diversity * nearest, -np.inf)
            place = int(np.argmax(worth))
            if not open_[place]:
                break
            open_[place] = False
        else:
            place, at = at, at + 1
        candidate = ranked[place]
        full = per_document is not None and taken[candidate.document] >= per_document
        if full or (candidate.document, candidate.position) in shown:
            continue
        chosen.append(candidate)
        taken[candidate.document] += 1
        around = range(candidate.position - neighbours, candidate.position + neighbours + 1)
        shown.update((candidate.document, position) for position in around)
        if diversity > 0 and vectors is not None:
            # Rounded, so that equal texts are equal whatever order a sum was made in.
            cosines = (vectors @ vectors[place]).astype(np.float64).round(6)
            nearest = cosines if len(chosen) == 1 else np.maximum(nearest, cosines)
    return chosen
