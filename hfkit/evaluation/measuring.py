"""The numbers that a metric gives for rows and models: what every statistic starts from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np

from hfkit.errors import WorkError
from hfkit.evaluation.metric import Metric, Numbers
from hfkit.evaluation.rows import Answer, Row

_T = TypeVar("_T")
_Entry: TypeAlias = Numbers | None


class _Faulty(Exception):
    """Why what a metric did cannot be used."""


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

    def value(self, sums: Numbers) -> Numbers:
        """The metric's value for sums of its rows' numbers.

        Raises:
            WorkError: the metric raises, or gives something else.
        """
        try:
            values = _from_metric(lambda: np.asarray(self.metric.value(sums), np.float64))
            if values.shape != sums.shape[:-1]:
                raise _Faulty(f"it gave values of shape {values.shape} for sums of shape {sums.shape}")
        except _Faulty as fault:
            raise WorkError(f"the metric {self.metric.name} gives no value for sums of its numbers: {fault}") from fault
        return values

    def row_values(self, model: str) -> dict[str, float]:
        """Row id -> the metric's value for that row alone; rows without one are not in it."""
        values = self.value(self.numbers[model]) if self.ids else np.empty(0)
        return {id: float(value) for id, value in zip(self.ids, values, strict=True) if np.isfinite(value)}


def measure(metric: Metric, rows: Sequence[Row], answers: Mapping[str, Sequence[Answer]]) -> Measured:
    """Score the answers of each model, one a row in the order of `rows`.

    A row counts only where every model has numbers for it, so that every comparison is paired. A row at which the
    metric raises, or gives what is no list of numbers, is the metric's fault and no model's: it is left out and named.

    Raises:
        WorkError: the metric gives now more numbers for a row and now fewer, or fails on rows together that it scores
            one by one.
    """
    faults: dict[str, str] = {}
    found: dict[str, list[_Entry]] = {}
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
) -> list[_Entry]:
    """The metric's numbers for each row; None, and an entry in `faults`, where it has none that can be used."""
    sound = list(range(len(rows)))
    try:
        given = _given(metric, rows, answers)
    except _Faulty:
        # One by one, to name the rows. Then again together, since a metric may look at all rows, for their labels say.
        faulty = {place: fault for place, fault in enumerate(_faults(metric, rows, answers)) if fault is not None}
        sound = [place for place in sound if place not in faulty]
        faults |= {rows[place].id: f"{fault}, at the answer of {model}" for place, fault in faulty.items()}
        try:
            given = _given(metric, [rows[at] for at in sound], [answers[at] for at in sound]) if sound else []
        except _Faulty as fault:
            raise WorkError(f"the metric {metric.name} failed on the answers of {model}: {fault}") from fault
    entries: list[_Entry] = [None] * len(rows)
    for place, entry in zip(sound, given, strict=True):
        try:
            entries[place] = _numbers_of(entry)
        except _Faulty as fault:
            faults[rows[place].id] = f"{fault}, at the answer of {model}"
    return entries


def _faults(metric: Metric, rows: Sequence[Row], answers: Sequence[Answer]) -> list[str | None]:
    found: list[str | None] = []
    for row, answer in zip(rows, answers, strict=True):
        try:
            _given(metric, [row], [answer])
        except _Faulty as fault:
            found.append(str(fault))
        else:
            found.append(None)
    return found


def _given(metric: Metric, rows: Sequence[Row], answers: Sequence[Answer]) -> list[object]:
    """What the metric gives for each row, whatever it is."""
    given: object = _from_metric(lambda: metric.rows(rows, answers))
    if not isinstance(given, Iterable):
        raise _Faulty(f"it gave a {type(given).__name__} where a list with an entry for each row belongs")
    entries = _from_metric(lambda: list(given))
    if len(entries) != len(rows):
        raise _Faulty(f"it gave {len(entries)} entries for {len(rows)} rows")
    return entries


def _numbers_of(entry: object) -> _Entry:
    if entry is None:
        return None
    try:
        numbers = _from_metric(lambda: np.asarray(entry, np.float64))
    except _Faulty as fault:
        raise _Faulty(f"it gave a {type(entry).__name__} where a list of numbers belongs ({fault})") from fault
    if numbers.ndim != 1 or not numbers.size:
        raise _Faulty(f"it gave a {type(entry).__name__} where a list of numbers belongs")
    if not np.isfinite(numbers).all():
        raise _Faulty("what it gives is not a number")
    return numbers


def _from_metric(compute: Callable[[], _T]) -> _T:
    """What a metric computes. It may be a user's, and nobody knows what somebody else's code raises: all of it is the
    metric's fault, and only the user's own interruption may pass."""
    try:
        # Standard output belongs to a verb's result.
        with redirect_stdout(sys.stderr):
            return compute()
    except (Exception, SystemExit) as error:
        said = (str(error).strip() or "without a word").splitlines()[0]
        raise _Faulty(f"{type(error).__name__}: {said[:200]}") from error


def _aligned(metric: Metric, found: Mapping[str, Sequence[_Entry]]) -> dict[str, Numbers]:
    lengths = {len(entry) for entries in found.values() for entry in entries if entry is not None}
    if len(lengths) > 1:
        raise WorkError(f"the metric {metric.name} gave now {min(lengths)} numbers for a row and now {max(lengths)}")
    width = max(lengths, default=0)
    return {model: np.asarray(entries, np.float64).reshape(len(entries), width) for model, entries in found.items()}
