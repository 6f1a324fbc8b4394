"""Confusion and calibration of a task that chooses among the same labels in every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hfkit.evaluation.result import Classes
from hfkit.evaluation.rows import Answer, ChoiceRow, Likelihoods
from hfkit.evaluation.tasks.task import Task

BINS = 10


def classes_of(task: Task, answers: Mapping[str, Sequence[Answer]]) -> Classes | None:
    """None for a task without labels. Rows that a model gave no answer to are in none of its figures."""
    if not task.labels:
        return None
    confusion: dict[str, tuple[tuple[int, ...], ...]] = {}
    calibration: dict[str, tuple[tuple[float, float, int], ...]] = {}
    error: dict[str, float] = {}
    for model, given in answers.items():
        counts = np.zeros((len(task.labels), len(task.labels)), int)
        sure: list[float] = []
        right: list[bool] = []
        for row, answer in zip(task.rows, given, strict=True):
            if not isinstance(row, ChoiceRow) or not isinstance(answer, Likelihoods):
                continue
            shares = probabilities([one.log_likelihood for one in answer.of])
            predicted = int(shares.argmax())
            counts[row.correct, predicted] += 1
            sure.append(float(shares[predicted]))
            right.append(predicted == row.correct)
        confusion[model] = tuple(tuple(int(count) for count in line) for line in counts)
        calibration[model] = calibration_bins(sure, right)
        error[model] = sum(rows * abs(mean - share) for mean, share, rows in calibration[model]) / max(len(sure), 1)
    return Classes(labels=task.labels, confusion=confusion, calibration=calibration, calibration_error=error)


def probabilities(log_likelihoods: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """What the likelihoods of the labels are as shares of one: float64 [labels]."""
    values = np.asarray(log_likelihoods, np.float64)
    shares = np.exp(values - values.max())
    return np.asarray(shares / shares.sum())


def calibration_bins(sure: Sequence[float], right: Sequence[bool]) -> tuple[tuple[float, float, int], ...]:
    """(mean confidence, share right, rows) for ten bins of equal width, those that hold rows (Guo et al. 2017,
    arXiv:1706.04599, section 2). The expected calibration error is the mean gap of the two, weighted by rows."""
    confidence, correct = np.asarray(sure, np.float64), np.asarray(right, np.float64)
    which = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    found = []
    for number in range(BINS):
        inside = which == number
        if inside.any():
            found.append((float(confidence[inside].mean()), float(correct[inside].mean()), int(inside.sum())))
    return tuple(found)
