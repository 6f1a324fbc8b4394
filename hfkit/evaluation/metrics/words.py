"""Exact match and token F1 as SQuAD scores them (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1).

Grounded rows, those with the fact `gold`, are compared without their citation marks; those that no passage answers are
not scored by their words: what counts there is to abstain.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics.gold import gold_passages
from hfkit.evaluation.metrics.row_mean import RowMean, RowScore, reply_score
from hfkit.evaluation.rows import GenerationRow
from rag.answer import without_citations

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(prediction: str, reference: str) -> float:
    """1 where both have the same words in the same order, else 0."""
    return float(words(prediction) == words(reference))


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of the precision and recall of shared words, counted with repetition. Two empty texts agree."""
    predicted, expected = words(prediction), words(reference)
    if not predicted or not expected:
        return float(predicted == expected)
    shared = sum((Counter(predicted) & Counter(expected)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def metric(name: str) -> Metric:
    if name == "exact_match":
        return RowMean(name, "exact match", _best(exact_match), is_binary=True)
    return RowMean(name, "token F1", _best(token_f1))


def _best(score: Callable[[str, str], float]) -> RowScore:
    def best(reply: str, row: GenerationRow) -> float | None:
        gold = gold_passages(row)
        if gold is None:
            return max((score(reply, reference) for reference in row.references), default=None)
        if not gold:
            return None
        said = without_citations(reply)
        return max((score(said, without_citations(reference)) for reference in row.references), default=None)

    return reply_score(best)
