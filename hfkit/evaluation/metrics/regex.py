"""Whether a reply matches a regular expression, or says by it what the reference says."""

from __future__ import annotations

import re

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics.bounded_search import Searcher
from hfkit.evaluation.metrics.row_mean import RowMean, reply_score
from hfkit.evaluation.metrics.words import exact_match
from hfkit.evaluation.rows import GenerationRow

PATTERN = "pattern"


def metric(name: str, *, pattern: str | None = None) -> Metric:
    """1 where `pattern` is found in the reply. Where it has a group and the row has references, what the group of its
    last match holds must be one of them, compared as exact_match does. Without `pattern` each row has its own, as the
    fact `pattern`; rows without one are not scored. A search that does not come to an end is a fault of its row.

    Raises:
        ValueError: `pattern` is not a regular expression of Python.
    """
    shared = None if pattern is None else _compiled(pattern)
    searcher = Searcher()

    def score(reply: str, row: GenerationRow) -> float | None:
        wanted = shared if shared is not None else _own(row)
        if wanted is None:
            return None
        said = searcher.last_group(wanted.pattern, reply)
        if said is None or not wanted.groups or not row.references:
            return float(said is not None)
        return max(exact_match(said, reference) for reference in row.references)

    return RowMean(name, "pattern found", reply_score(score), is_binary=True)


def _own(row: GenerationRow) -> re.Pattern[str] | None:
    fact = row.facts.get(PATTERN)
    return _compiled(fact) if isinstance(fact, str) else None


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"regex: {pattern!r} is not a regular expression: {error}") from error
