"""The last number of a reply against the reference's, as GSM8K is scored (Cobbe et al. 2021, arXiv:2110.14168)."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from annotated_types import Ge

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics.row_mean import RowMean, reply_score
from hfkit.evaluation.rows import GenerationRow

# Commas stand between thousands; a point or comma that ends a sentence is none of the number.
_NUMBER = re.compile(r"(?<![\d.])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))")


def last_number(text: str) -> Decimal | None:
    """The last number that `text` names, exactly: `-1,234.50` and `$-1234.5` are one. None where there is none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("$", "")) if found else None


def metric(name: str, *, tolerance: Annotated[float, Ge(0)] = 0.0) -> Metric:
    """`tolerance` is how far apart both may be, in units of the number."""

    def score(reply: str, row: GenerationRow) -> float | None:
        expected = [number for reference in row.references if (number := last_number(reference)) is not None]
        if not expected:
            return None
        said = last_number(reply)
        return float(said is not None and any(abs(said - number) <= Decimal(str(tolerance)) for number in expected))

    return RowMean(name, "right numbers", reply_score(score), is_binary=True)
