"""The report's plots: SVG that stands in the page as a picture, follows its light or dark colours and loads nothing."""

from __future__ import annotations

import io
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from hfkit.evaluation.report.figures import score_with_interval
from hfkit.evaluation.report.tables import slices_of
from hfkit.evaluation.result import Classes, MetricInfo, Score, TaskResult
from hfkit.output import one_line
from hfkit.training.metrics_log import MetricsLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart; the ones that show on light and dark.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = ("o", "s", "D", "^", "v", "P")
_INK, _INK_ON_DARK = "#1f2328", "#e6e8eb"
_LONGEST_NAME = 40

# Its keys are a Literal of some three hundred names.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: every script shows, in the reader's own font
    "svg.hashsalt": "hfkit",  # the same plot is the same file
    "font.family": "sans-serif",
    "text.parse_math": False,  # a label with a dollar sign is no formula
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "grid.alpha": 0.25,
}


@dataclass(frozen=True)
class Plot:
    """A picture as a data URI. `alt` says in words what it shows."""

    uri: str
    alt: str
    width: int
    height: int


def scores_plot(task: TaskResult) -> Plot:
    """A panel for each metric; in it each model's score and interval."""
    with _figure(8, sum(_height(_scored(task, metric)) for metric in task.metrics)) as (figure, plots):
        heights = [_height(_scored(task, metric)) for metric in task.metrics]
        panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, metric in zip(panels, task.metrics, strict=True):
            scored = _scored(task, metric)
            for place, (model, score) in enumerate(scored):
                _whisker(panel, score, place, _look(task, model))
            _name_rows(panel, [model for model, _ in scored])
            panel.set_title(f"{_short(metric.title)} ({_direction(metric)})", loc="left")
    said = [f"{m.title}: {model} {score_with_interval(s)}" for m in task.metrics for model, s in _scored(task, m)]
    return plots.finish(f"Scores with intervals. {'; '.join(said)}.")


def slices_plot(task: TaskResult, key: str, metric: MetricInfo) -> Plot:
    """The scores of every model on each part that `key` cuts the rows into."""
    parts = slices_of(task, key)
    models = [model for model in task.scores if any(metric.name in p.scores.get(model, {}) for p in parts)]
    step = 0.6 / max(1, len(models) - 1)
    with _figure(8, 1.0 + len(parts) * (0.25 + 0.16 * len(models))) as (figure, plots):
        panel = figure.subplots()
        for number, model in enumerate(models):
            for place, part in enumerate(parts):
                if metric.name in part.scores.get(model, {}):
                    where = place + (number * step - 0.3 if len(models) > 1 else 0)
                    _whisker(panel, part.scores[model][metric.name], where, _look(task, model))
            panel.plot([], [], color=_look(task, model)[0], marker=_look(task, model)[1], label=_short(model))
        _name_rows(panel, [f"{_short(part.value)} ({part.rows} rows)" for part in parts])
        panel.set_xlabel(f"{_short(metric.title)} ({_direction(metric)})")
        panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    return plots.finish(f"{metric.title} by {key}, each part with its interval; the table beside it has the figures.")


def curve_plot(task: TaskResult, steps: dict[str, int], losses: Sequence[MetricsLine]) -> Plot:
    """Each metric over the run's checkpoints with its interval as a band, and below the losses of training."""
    curves = [(metric, _curve(task, metric, steps)) for metric in task.metrics]
    curves = [(metric, curve) for metric, curve in curves if len(curve) > 1]
    trained = [(one.step, one.loss) for one in losses if one.split == "train" and one.loss is not None]
    validated = [(one.step, one.loss) for one in losses if one.split == "validation" and one.loss is not None]
    panels_count = len(curves) + bool(trained or validated)
    with _figure(8, 2.1 * panels_count + 0.4) as (figure, plots):
        panels = figure.subplots(panels_count, 1, squeeze=False, sharex=True)[:, 0]
        for panel, (metric, curve), colour in zip(panels, curves, cycle(_COLOURS), strict=False):
            at = [step for step, _, _, _ in curve]
            panel.fill_between(
                at, [low for _, _, low, _ in curve], [high for _, _, _, high in curve], color=colour, alpha=0.2
            )
            panel.plot(at, [value for _, value, _, _ in curve], color=colour, marker="o")
            panel.set_title(f"{_short(metric.title)} ({_direction(metric)})", loc="left")
            panel.grid()
        if trained or validated:
            if trained:
                panels[-1].plot(*zip(*trained, strict=True), color=_COLOURS[0], label="training")
            if validated:
                panels[-1].plot(*zip(*validated, strict=True), color=_COLOURS[1], marker="o", label="validation")
            panels[-1].set_title("loss in nats a token (lower is better)", loc="left")
            panels[-1].legend()
            panels[-1].grid()
        panels[-1].set_xlabel("optimiser step")
    said = [f"{metric.title}: " + ", ".join(f"step {c[0]} {c[1]:.3f}" for c in curve) for metric, curve in curves]
    return plots.finish(f"Scores over the checkpoints of the run. {'; '.join(said)}.")


def calibration_plot(classes: Classes) -> Plot:
    """How often each model is right against how sure it is; on the diagonal it is as right as it is sure."""
    with _figure(5, 4.6) as (figure, plots):
        panel = figure.subplots()
        panel.plot([0, 1], [0, 1], color=_INK, linestyle=":", linewidth=1)
        for (model, bins), colour, marker in zip(
            classes.calibration.items(), cycle(_COLOURS), cycle(_MARKERS), strict=False
        ):
            most = max((rows for _, _, rows in bins), default=1) or 1
            shown = [(sure, right, rows) for sure, right, rows in bins if rows]
            panel.plot(
                [sure for sure, _, _ in shown], [right for _, right, _ in shown], color=colour, label=_short(model)
            )
            sizes = [12 + 90 * rows / most for _, _, rows in shown]
            panel.scatter(
                [sure for sure, _, _ in shown], [right for _, right, _ in shown], sizes, color=colour, marker=marker
            )
        # Room for the marks of those that are never or always sure.
        panel.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="confidence", ylabel="share that is right")
        panel.legend(loc="upper left")
        panel.grid()
    errors = [f"{model} {error:.3f}" for model, error in classes.calibration_error.items()]
    return plots.finish(
        f"Calibration: share of right answers by confidence. Expected calibration error: {', '.join(errors)}."
    )


class _Drawing:
    """The SVG of a figure, once it is drawn."""

    svg: str = ""
    width: int = 0
    height: int = 0

    def finish(self, alt: str) -> Plot:
        encoded = b64encode(self.svg.encode("utf-8")).decode("ascii")
        return Plot(f"data:image/svg+xml;base64,{encoded}", one_line(alt), self.width, self.height)


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, _Drawing]]:
    """A figure of so many inches, without pyplot and so without a display, and where its SVG goes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    drawing = _Drawing()
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, drawing
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing.svg = _follows_the_page(written.getvalue())
    drawing.width, drawing.height = round(width * 96), round(height * 96)


def _follows_the_page(svg: str) -> str:
    """Our ink becomes the current colour, which is light where the reader's system is dark."""
    style = f"svg{{color:{_INK}}}@media(prefers-color-scheme:dark){{svg{{color:{_INK_ON_DARK}}}}}"
    body = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    return re.sub(r"(<svg[^>]*>)", lambda opening: f"{opening[1]}<style>{style}</style>", body, count=1)


def _scored(task: TaskResult, metric: MetricInfo) -> list[tuple[str, Score]]:
    return [(model, scores[metric.name]) for model, scores in task.scores.items() if metric.name in scores]


def _curve(task: TaskResult, metric: MetricInfo, steps: dict[str, int]) -> list[tuple[int, float, float, float]]:
    """(step, score, low, high) of the run's checkpoints, by step."""
    curve = []
    for model, score in _scored(task, metric):
        if model in steps and score.value is not None:
            low, high = score.interval or (score.value, score.value)
            curve.append((steps[model], score.value, low, high))
    return sorted(curve)


def _whisker(panel: Axes, score: Score, place: float, look: tuple[str, str]) -> None:
    if score.value is None:
        return
    colour, marker = look
    if score.interval is not None:
        panel.plot(score.interval, (place, place), color=colour, linewidth=2, solid_capstyle="butt")
    panel.plot([score.value], [place], color=colour, marker=marker, markersize=6)


def _name_rows(panel: Axes, names: Sequence[str]) -> None:
    panel.set_yticks(range(len(names)), [_short(name) for name in names])
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="x")


def _look(task: TaskResult, model: str) -> tuple[str, str]:
    number = list(task.scores).index(model)
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]


def _height(scored: Sequence[object]) -> float:
    return 0.75 + 0.28 * len(scored)


def _direction(metric: MetricInfo) -> str:
    return "higher is better" if metric.higher_is_better else "lower is better"


def _short(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
