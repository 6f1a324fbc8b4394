"""The numbers that a metric gives for rows and models: what every statistic starts from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hfkit.errors import WorkError
from hfkit.evaluation.metric import Metric, Numbers
from hfkit.evaluation.rows import Answer, Row

# What a metric may raise, a user's own above all; each is told with the row that it came up at.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric over rows that every model has numbers for.

    Attributes:
        ids: of the rows that are scored.
        groups: of each of them; rows of one group are resampled together.
        numbers: model -> float64 [rows, numbers].
        faults: rows that the metric could not score, a sentence each; they are left out for all models.
    """

    metric: Metric
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    numbers: Mapping[str, Numbers]
    faults: tuple[str, ...] = ()

    def only(self, ids: Collection[str]) -> Measured:
        """The same over those of its rows that `ids` names, for a slice."""
        wanted = frozenset(ids)
        kept = [place for place, id in enumerate(self.ids) if id in wanted]
        return replace(
            self,
            ids=tuple(self.ids[place] for place in kept),
            groups=tuple(self.groups[place] for place in kept),
            numbers={model: numbers[kept] for model, numbers in self.numbers.items()},
            faults=(),
        )

    def row_values(self, model: str) -> dict[str, float]:
        """Row id -> the metric's value for that row alone; rows without one are not in it."""
        values = self.metric.value(self.numbers[model]) if self.ids else np.empty(0)
        return {id: float(value) for id, value in zip(self.ids, values, strict=True) if np.isfinite(value)}


def measure(metric: Metric, rows: Sequence[Row], answers: Mapping[str, Sequence[Answer]]) -> Measured:
    """Score the answers of each model, one a row in the order of `rows`.

    A row counts only where every model has numbers for it, so that every comparison is paired. A row at which the
    metric raises, or gives what is not a number, is the metric's fault and no model's: it is left out and named.

    Raises:
        WorkError: the metric does not give one entry a row, or as many numbers for each, or raises on rows together
            that it scores one by one.
    """
    faults: dict[str, str] = {}
    found: dict[str, list[Sequence[float] | None]] = {}
    for model, said in answers.items():
        found[model] = _scored(metric, rows, said, model, faults)
    kept = [place for place in range(len(rows)) if all(of[place] is not None for of in found.values())]
    return Measured(
        metric=metric,
        ids=tuple(rows[place].id for place in kept),
        groups=tuple(rows[place].group for place in kept),
        numbers=_aligned(metric, {model: [numbers[place] for place in kept] for model, numbers in found.items()}),
        faults=tuple(f"{metric.name}: row {id}: {fault}" for id, fault in faults.items()),
    )


def _scored(
    metric: Metric, rows: Sequence[Row], answers: Sequence[Answer], model: str, faults: dict[str, str]
) -> list[Sequence[float] | None]:
    """The metric's numbers for each row; None, and an entry in `faults`, where it has none that can be used."""
    try:
        numbers = metric.rows(rows, answers)
    except FAULTS:
        # One by one, to name the rows. Then again together, since a metric may look at all rows, for their labels say.
        faulty = {place: fault for place, fault in enumerate(_faults(metric, rows, answers)) if fault is not None}
        sound = [place for place in range(len(rows)) if place not in faulty]
        faults |= {rows[place].id: f"{fault}, at the answer of {model}" for place, fault in faulty.items()}
        try:
            some = metric.rows([rows[place] for place in sound], [answers[place] for place in sound])
        except FAULTS as error:
            raise WorkError(f"the metric {metric.name} failed on the answers of {model}: {_said(error)}") from error
        given = dict(zip(sound, some, strict=True))
        numbers = [given.get(place) for place in range(len(rows))]
    if len(numbers) != len(rows):
        raise WorkError(f"the metric {metric.name} gave {len(numbers)} entries for {len(rows)} rows")
    for place, entry in enumerate(numbers):
        if entry is not None and not np.isfinite(np.asarray(entry, np.float64)).all():
            faults[rows[place].id] = f"what it gives is not a number, at the answer of {model}"
            numbers[place] = None
    return numbers


def _faults(metric: Metric, rows: Sequence[Row], answers: Sequence[Answer]) -> list[str | None]:
    found: list[str | None] = []
    for row, answer in zip(rows, answers, strict=True):
        try:
            metric.rows([row], [answer])
        except FAULTS as error:
            found.append(_said(error))
        else:
            found.append(None)
    return found


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _aligned(metric: Metric, found: Mapping[str, Sequence[Sequence[float] | None]]) -> dict[str, Numbers]:
    lengths = {len(entry) for entries in found.values() for entry in entries if entry is not None}
    if len(lengths) > 1:
        raise WorkError(f"the metric {metric.name} gave now {min(lengths)} numbers for a row and now {max(lengths)}")
    width = max(lengths, default=0)
    return {model: np.asarray(entries, np.float64).reshape(len(entries), width) for model, entries in found.items()}
