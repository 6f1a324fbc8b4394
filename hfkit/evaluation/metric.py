"""What a metric is: sums of numbers that rows give, and the value that such sums have.

Every metric is written this way, a mean as well as BLEU, macro F1 or perplexity. So one bootstrap serves all of them:
it draws groups of rows, adds up their numbers, and asks for the value, for thousands of draws at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hfkit.evaluation.rows import Answer, Row

Numbers = NDArray[np.float64]


class Metric(Protocol):
    """A metric of one task.

    Attributes:
        name: as gates say it, such as `token_f1`.
        title: as tables say it, such as "token F1".
        higher_is_better: False for perplexity and its like.
        is_binary: each row is right (1) or wrong (0), and the value is the share of right ones; differences are then
            tested by McNemar's test.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def is_binary(self) -> bool: ...

    def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
        """The numbers of each row, as many for every row; None for a row that this metric does not score.

        A Failed answer gets the worst score that there is, never None: a model must not gain by failing.
        """
        ...

    def value(self, sums: Numbers) -> Numbers:
        """The metric's value for sums over rows: float64 [..., numbers] to float64 [...]; NaN where there is none."""
        ...
