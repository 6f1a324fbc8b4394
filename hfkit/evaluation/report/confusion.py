"""Which labels a model takes for which: a matrix, cut to the labels that are mixed up most where there are many."""

from __future__ import annotations

from dataclasses import dataclass

from hfkit.evaluation.result import Classes

MOST_LABELS = 20

# Figures stay readable on it, in light and in dark.
_STRONGEST = 0.45


@dataclass(frozen=True)
class Line:
    """A true label; for each label that was chosen the count, and how strong its cell's colour is (0 to 1)."""

    label: str
    cells: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Confusion:
    model: str
    labels: tuple[str, ...]
    lines: tuple[Line, ...]
    note: str


def confusions(classes: Classes) -> list[Confusion]:
    return [_confusion(classes, model) for model in classes.confusion]


def _confusion(classes: Classes, model: str) -> Confusion:
    counts = classes.confusion[model]
    shown = _shown(counts)
    lines = []
    for true in shown:
        of_label = sum(counts[true]) or 1
        lines.append(
            Line(
                classes.labels[true],
                tuple(
                    (counts[true][chosen], round(_STRONGEST * counts[true][chosen] / of_label, 3)) for chosen in shown
                ),
            )
        )
    left_out = len(classes.labels) - len(shown)
    note = f"{left_out} more labels, which are mixed up less, are not shown; report.json has them." if left_out else ""
    return Confusion(model, tuple(classes.labels[number] for number in shown), tuple(lines), note)


def _shown(counts: tuple[tuple[int, ...], ...]) -> list[int]:
    """The numbers of the labels that are shown, in their order."""
    places = range(len(counts))
    if len(counts) <= MOST_LABELS:
        return list(places)
    wrong = {
        place: sum(counts[place]) + sum(line[place] for line in counts) - 2 * counts[place][place] for place in places
    }
    return sorted(sorted(places, key=lambda place: (-wrong[place], place))[:MOST_LABELS])
