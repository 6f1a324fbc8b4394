"""What results are broken down by: the parts that a key of the rows, or their length, cuts a task into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hfkit.evaluation.report.figures import figure
from hfkit.evaluation.rows import Row

LENGTH = "prompt length in characters"
OTHERS = "all others"
_MOST_WORDS = 12
_RANGES = 4


@dataclass(frozen=True)
class Cut:
    """The rows, by their places, whose `key` is `value`: a word, or a range such as `12 to 40`."""

    key: str
    value: str
    rows: tuple[int, ...]


def cuts(rows: Sequence[Row]) -> list[Cut]:
    """The parts of a task, key by key. Rows that lack a key are in none of its parts, and a key that would leave all
    rows in one part is left out.

    Numbers are cut into four ranges that hold about as many rows each, words into the twelve most frequent and the
    rest. The length of the prompt is a key of every task.
    """
    keys = dict.fromkeys(key for row in rows for key in row.slices)
    values: dict[str, dict[int, str | float]] = {
        key: {place: row.slices[key] for place, row in enumerate(rows) if key in row.slices} for key in keys
    }
    values.setdefault(LENGTH, {place: float(prompt_length(row)) for place, row in enumerate(rows)})
    found: list[Cut] = []
    for key, of_rows in values.items():
        parts = _ranges(of_rows) if _are_numbers(of_rows) else _words(of_rows)
        if len(parts) > 1:
            found += [Cut(key, value, tuple(places)) for value, places in parts.items()]
    return found


def prompt_length(row: Row) -> int:
    """Characters of what a model reads before it answers; of a text, those of the text."""
    if row.kind == "text":
        return len(row.text)
    context = row.context if row.kind == "choice" else ""
    return len(context) + sum(len(turn.content) for turn in row.messages)


def _are_numbers(values: Mapping[int, str | float]) -> bool:
    return all(not isinstance(value, str) for value in values.values())


def _words(values: Mapping[int, str | float]) -> dict[str, list[int]]:
    counted = Counter(str(value) for value in values.values())
    kept = {word for word, _ in sorted(counted.items(), key=lambda one: (-one[1], one[0]))[:_MOST_WORDS]}
    parts: dict[str, list[int]] = {word: [] for word in sorted(kept)}
    for place, value in values.items():
        parts.setdefault(str(value) if str(value) in kept else OTHERS, []).append(place)
    return parts


def _ranges(values: Mapping[int, str | float]) -> dict[str, list[int]]:
    numbers = np.array(list(values.values()), float)
    places = np.array(list(values))
    # Of values that are not numbers there is no range to be in.
    places, numbers = places[np.isfinite(numbers)], numbers[np.isfinite(numbers)]
    if not len(numbers):
        return {}
    edges = np.unique(np.quantile(numbers, np.arange(1, _RANGES) / _RANGES, method="lower"))
    parts: dict[str, list[int]] = {}
    for part in range(len(edges) + 1):
        inside = np.searchsorted(edges, numbers, side="left") == part
        if inside.any():
            low, high = numbers[inside].min(), numbers[inside].max()
            name = _number(low) if low == high else f"{_number(low)} to {_number(high)}"
            parts.setdefault(name, []).extend(int(place) for place in places[inside])
    return parts


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else figure(value)
