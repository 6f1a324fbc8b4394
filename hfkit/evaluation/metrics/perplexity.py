"""Perplexity and bits per byte of given texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log
from typing import Literal

import numpy as np

from hfkit.evaluation.metric import Metric, Numbers
from hfkit.evaluation.metrics.choices import likelihoods
from hfkit.evaluation.metrics.row_mean import ratio
from hfkit.evaluation.rows import Answer, Likelihood, Row, TextRow

_BITS_OF_A_BYTE = 8.0


@dataclass(frozen=True, slots=True)
class OfText:
    """exp of the mean negative log-likelihood over tokens, or its sum in bits over bytes; both over all texts together.

    The numbers of a row: negative log-likelihood in nats, tokens, bytes. Perplexities compare only models of one
    tokenizer; bits per byte compare any. A text without an answer costs 8 bits a byte, what it takes without any model,
    in tokens as long as those of the texts that have one.
    """

    name: str
    title: str
    per: Literal["token", "byte"]
    higher_is_better: bool = False
    is_binary: bool = False

    def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
        found = [_likelihood(row, answer) for row, answer in zip(rows, answers, strict=True)]
        there = [one for one in found if one is not None]
        token_bytes = sum(one.bytes for one in there) / max(1, sum(one.tokens for one in there)) or 1.0
        numbers: list[Sequence[float] | None] = []
        for row, one in zip(rows, found, strict=True):
            assert isinstance(row, TextRow)
            size = len(row.text.encode("utf-8", "replace"))
            if one is None:
                numbers.append((size * _BITS_OF_A_BYTE * log(2), size / token_bytes, float(size)))
            else:
                numbers.append((-one.log_likelihood, float(one.tokens), float(one.bytes)))
        return numbers

    def value(self, sums: Numbers) -> Numbers:
        if self.per == "byte":
            return ratio(sums[..., 0], sums[..., 2] * log(2))
        with np.errstate(over="ignore"):
            return np.exp(ratio(sums[..., 0], sums[..., 1]))


def _likelihood(row: Row, answer: Answer) -> Likelihood | None:
    if not isinstance(row, TextRow):
        raise TypeError(f"scores texts, and {row.id} is a row of kind {row.kind}")
    found = likelihoods(row, answer, 1)
    return found[0] if found is not None and isfinite(found[0].log_likelihood) else None


def metric(name: str) -> Metric:
    if name == "bits_per_byte":
        return OfText(name, "bits per byte", "byte")
    return OfText(name, "perplexity", "token")
