"""BLEU and chrF, exactly as sacreBLEU has them (Post 2018, arXiv:1804.08771): from 0 to 100, over the whole test set.

The numbers of a row are the counts of n-grams that sacreBLEU itself sums up; what is ours is their value for thousands
of sums at once, where sacreBLEU computes one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from hfkit.evaluation.metric import Metric, Numbers
from hfkit.evaluation.metrics.row_mean import asked_and_said, ratio
from hfkit.evaluation.rows import Answer, Row

_ORDERS = 4


@dataclass(frozen=True, slots=True)
class Bleu:
    """BLEU-4 with sacreBLEU's defaults: exponential smoothing (its `smooth_method="exp"`).

    The numbers of a row: length of the reply, length of the nearest reference, matches of 1- to 4-grams, 1- to 4-grams
    of the reply. A failed answer counts as a reply as long as the first reference in which nothing is right: the empty
    one would leave the precision of the others untouched.
    """

    name: str
    title: str
    counts: BLEU
    higher_is_better: bool = True
    is_binary: bool = False

    def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
        matches = slice(2, 2 + _ORDERS)
        return [_statistics(self.counts, matches, row, answer) for row, answer in zip(rows, answers, strict=True)]

    def value(self, sums: Numbers) -> Numbers:
        said, meant = sums[..., 0], sums[..., 1]
        matches, totals = sums[..., 2 : 2 + _ORDERS], sums[..., 2 + _ORDERS :]
        # The first order without a match counts as half a match, the second as a quarter, and so on.
        halved = np.cumsum((matches == 0) & (totals > 0), axis=-1)
        smoothed = np.where(matches == 0, 0.5**halved, matches)
        with np.errstate(divide="ignore", invalid="ignore"):
            precisions = np.exp(np.log(smoothed / totals).mean(axis=-1))
            brevity = np.where(said < meant, np.exp(1 - meant / said), 1.0)
            scores = 100 * brevity * precisions
        nothing = ~matches.any(axis=-1) | (totals == 0).any(axis=-1)
        return np.where(nothing, 0.0, scores)


@dataclass(frozen=True, slots=True)
class Chrf:
    """chrF (Popović 2015), with `word_order` 2 chrF++. The numbers of a row: for each order of n-grams those of the
    reply, of the reference it is nearest to, and their matches. Failed answers count as in `Bleu`."""

    name: str
    title: str
    counts: CHRF
    higher_is_better: bool = True
    is_binary: bool = False

    def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
        matches = slice(2, None, 3)
        return [_statistics(self.counts, matches, row, answer) for row, answer in zip(rows, answers, strict=True)]

    def value(self, sums: Numbers) -> Numbers:
        said, meant, matches = (sums[..., place::3] for place in range(3))
        # Orders that one side has no n-gram of, as in texts shorter than it, do not count.
        there = (said > 0) & (meant > 0)
        orders = there.sum(axis=-1)
        precision, recall = (
            ratio(np.where(there, matches / np.maximum(side, 1), 0.0).sum(axis=-1), orders) for side in (said, meant)
        )
        weight = float(self.counts.beta) ** 2
        both = np.nan_to_num(weight * precision + recall)
        return np.nan_to_num(100 * ratio((1 + weight) * precision * recall, both))


def _statistics(counts: BLEU | CHRF, matches: slice, row: Row, answer: Answer) -> Sequence[float] | None:
    """What sacreBLEU sums up for one row. Its own name for it has an underscore; nothing public gives it."""
    asked, reply = asked_and_said(row, answer)
    if not asked.references:
        return None
    references = [[reference] for reference in asked.references]
    (found,) = counts._extract_corpus_statistics([asked.references[0] if reply is None else reply], references)
    numbers = np.asarray(found, np.float64)
    if reply is None:
        numbers[matches] = 0
    return [float(number) for number in numbers]


def metric(name: str, *, tokenizer: str = "13a", lowercase: bool = False, word_order: Literal[0, 1, 2] = 0) -> Metric:
    """`tokenizer` is sacreBLEU's name for one: 13a, intl, char, zh, none. `word_order` 2 makes chrF chrF++.

    Raises:
        ValueError: there is no such tokenizer, or it needs what is not installed.
    """
    if name == "chrf":
        title = "chrF" + "+" * word_order
        return Chrf(name, title, CHRF(word_order=word_order))
    if tokenizer not in BLEU.TOKENIZERS:
        raise ValueError(f"bleu has no tokenizer {tokenizer}; there are {', '.join(sorted(BLEU.TOKENIZERS))}")
    try:
        return Bleu(name, "BLEU", BLEU(tokenize=tokenizer, lowercase=lowercase, force=True))
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"bleu: the tokenizer {tokenizer} cannot be used: {error}") from error
