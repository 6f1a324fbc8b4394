"""Macro F1: the mean over labels of how well each is told from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hfkit.evaluation.metric import Metric, Numbers
from hfkit.evaluation.metrics.choices import likeliest, raw
from hfkit.evaluation.metrics.row_mean import asked_and_said, ratio
from hfkit.evaluation.metrics.words import words
from hfkit.evaluation.rows import Answer, ChoiceRow, Kind, Row


@dataclass(frozen=True, slots=True)
class MacroF1:
    """The mean of the labels' F1, over the labels that are right in some row or said in some (as scikit-learn has it).

    Of choices, labels are the choices of the rows, the same in all. Of replies, they are the first references, and
    compared as exact_match compares: a reply that is none of them is wrong and speaks for no label. The numbers of a
    row, for each label: 1 where it is rightly said, 1 where it is said, 1 where it is right. A failed answer speaks for
    all wrong labels in equal parts, so that it is worth no more than a wrong label drawn at random.
    """

    name: str
    title: str
    kind: Kind
    higher_is_better: bool = True
    is_binary: bool = False

    def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
        told = _choices if self.kind == "choice" else _replies
        labels, right, said = told(rows, answers)
        numbers: list[Sequence[float] | None] = []
        for is_right, is_said in zip(right, said, strict=True):
            if is_right is None:
                numbers.append(None)
                continue
            counts = np.zeros((len(labels), 3))
            counts[is_right, 2] = 1
            if is_said == _FAILED:
                counts[:, 1] = 1 / max(1, len(labels) - 1)
                counts[is_right, 1] = 0
            elif is_said is not None:
                counts[is_said, 1] = 1
                counts[is_said, 0] = is_said == is_right
            numbers.append(counts.ravel().tolist())
        return numbers

    def value(self, sums: Numbers) -> Numbers:
        hits, said, right = (sums[..., place::3] for place in range(3))
        found = ratio(2 * hits, said + right)
        return ratio(np.nansum(found, axis=-1), np.isfinite(found).sum(axis=-1).astype(np.float64))


_FAILED = -1
_Told = tuple[Sequence[str], list[int | None], list[int | None]]
"""Labels, the number of the right one for each row (None: not scored), and of the one that is said (None: none of them;
_FAILED: there is no answer)."""


def _choices(rows: Sequence[Row], answers: Sequence[Answer]) -> _Told:
    labels: tuple[str, ...] = ()
    right: list[int | None] = []
    said: list[int | None] = []
    for row, answer in zip(rows, answers, strict=True):
        if not isinstance(row, ChoiceRow):
            raise TypeError(f"scores choices, and {row.id} is a row of kind {row.kind}")
        labels = labels or row.choices
        if row.choices != labels:
            raise ValueError(f"needs the same labels in every row; {row.id} has others than {', '.join(labels)}")
        right.append(row.correct)
        found = likeliest(row, answer, raw)
        said.append(_FAILED if found is None else found)
    return labels, right, said


def _replies(rows: Sequence[Row], answers: Sequence[Answer]) -> _Told:
    asked = [asked_and_said(row, answer) for row, answer in zip(rows, answers, strict=True)]
    labels = sorted({_label(row.references[0]) for row, _ in asked if row.references})
    places = {label: place for place, label in enumerate(labels)}
    right = [places[_label(row.references[0])] if row.references else None for row, _ in asked]
    return labels, right, [_FAILED if reply is None else places.get(_label(reply)) for _, reply in asked]


def _label(text: str) -> str:
    return " ".join(words(text))


def metric(name: str) -> Metric:
    return MacroF1(name, "macro F1", "choice" if name == "macro_f1" else "generation")
