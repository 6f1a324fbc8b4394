"""Two rankings of the same chunks into one."""

from __future__ import annotations

import numpy as np

from rag.bm25 import Scores

# The constant that Cormack, Clarke and Buettcher (SIGIR 2009) found best; their results hardly depend on it.
_RANK_OFFSET = 60


def convex(dense: Scores, lexical: Scores, dense_weight: float) -> Scores:
    """float64 [n], from 0 to 1: either arm stretched over these candidates to 0..1, and added with the weights
    `dense_weight` and one minus it. A lexical score of 0 says that there is no common word."""
    return dense_weight * stretched(dense) + (1 - dense_weight) * stretched(lexical)


def reciprocal_ranks(dense: Scores, lexical: Scores) -> Scores:
    """float64 [n]: 1 / (60 + rank) of either arm, added; equal scores share the best of their ranks, and a chunk
    without a common word has no lexical rank."""
    ranked: Scores = 1 / (_RANK_OFFSET + _ranks(dense))
    return ranked + np.where(lexical > 0, 1 / (_RANK_OFFSET + _ranks(lexical)), 0.0)


def stretched(scores: Scores) -> Scores:
    """float64 [n]: to 0..1 by minimum and maximum; equal scores say nothing, and count as 1, or as 0 for no match."""
    if not len(scores):
        return scores
    low, high = float(scores.min()), float(scores.max())
    if high > low:
        between: Scores = (scores - low) / (high - low)
        return between
    return np.where(scores > 0, 1.0, 0.0)


def _ranks(scores: Scores) -> Scores:
    """From 1 for the highest; equal scores have the same."""
    ranks: Scores = (1 + np.searchsorted(np.sort(-scores), -scores)).astype(np.float64)
    return ranks
