"""Paired comparisons that say how sure they are.

Rows from one document are alike, so the document, not the row, is what is drawn at random: intervals come from a
bootstrap over documents (Efron and Tibshirani 1993, chapter 8; percentile method), p-values from a permutation test
that swaps the two models document by document (Good 2005, Permutation, Parametric and Bootstrap Tests, chapter 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hfkit.evaluation.result import Comparison

RESAMPLES = 10_000
FEWEST_DOCUMENTS = 2


def compare(
    base: Sequence[float],
    tuned: Sequence[float],
    documents: Sequence[str],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two models' scores on the same rows. All three sequences have one entry a row, and at least one.

    Raises:
        ValueError: there are no rows, or the sequences differ in length.
    """
    if not base or not len(base) == len(tuned) == len(documents):
        raise ValueError("a comparison needs the same rows, at least one, from both models")
    sums, counts = _by_document(np.asarray(tuned, float) - np.asarray(base, float), documents)
    low, high = np.quantile(_bootstrap(sums, counts, seed), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Comparison(
        base=float(np.mean(base)),
        tuned=float(np.mean(tuned)),
        difference=float(sums.sum() / counts.sum()),
        interval=(float(low), float(high)),
        confidence=confidence,
        p_value=_sign_flip_p_value(sums, seed),
        rows=len(base),
        documents=len(counts),
    )


def interval(
    scores: Sequence[float], documents: Sequence[str], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Holds the mean of `scores`, at least one, with `confidence` (two-sided); from the bootstrap over documents."""
    sums, counts = _by_document(np.asarray(scores, float), documents)
    low, high = np.quantile(_bootstrap(sums, counts, seed), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def lower_bound(scores: Sequence[float], documents: Sequence[str], *, confidence: float, seed: int = 0) -> float | None:
    """What the mean of `scores` is at least, with one-sided `confidence`; from the bootstrap over documents.

    None for fewer than FEWEST_DOCUMENTS: resampling one document says nothing about others.
    """
    sums, counts = _by_document(np.asarray(scores, float), documents)
    if len(counts) < FEWEST_DOCUMENTS:
        return None
    return float(np.quantile(_bootstrap(sums, counts, seed), 1 - confidence))


def _by_document(
    values: NDArray[np.float64], documents: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum of `values` and the number of rows for each document: two arrays [documents]."""
    names, which = np.unique(np.asarray(documents), return_inverse=True)
    sums = np.bincount(which, weights=values, minlength=len(names))
    return sums.astype(np.float64), np.bincount(which, minlength=len(names)).astype(np.float64)


def _bootstrap(sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Means over rows of resampled documents: [RESAMPLES]. A thousand at a time, to bound the memory."""
    random = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES // 1000):
        drawn = random.integers(0, len(sums), size=(1000, len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)


def _sign_flip_p_value(sums: NDArray[np.float64], seed: int) -> float:
    """Two-sided; what was observed counts as one of the permutations, so it is never 0 (Phipson and Smyth 2010)."""
    random = np.random.default_rng(seed)
    observed = abs(sums.sum())
    as_large = 0
    for _ in range(RESAMPLES // 1000):
        signs = random.integers(0, 2, size=(1000, len(sums))) * 2 - 1
        as_large += int((np.abs(signs @ sums) >= observed - 1e-12).sum())
    return (as_large + 1) / (RESAMPLES + 1)
