"""loss.png: the course of a run in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hfkit.training.metrics_log import MetricsLine

LOSS_PLOT = "loss.png"

_TRAINED, _VALIDATED, _RATE = "#4c72b0", "#c44e52", "#8c8c8c"


def draw_losses(lines: Sequence[MetricsLine], path: Path, title: str, best_step: int | None) -> None:
    """Training and validation loss, below them the metrics of replies where there are any, and the learning rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trained = [line for line in lines if line.split == "train"]
    validated = [line for line in lines if line.split == "validation"]
    metrics = sorted({name for line in validated for name in line.metrics if name != "loss"})
    heights = [3.0, *([1.6] if metrics else []), 1.0]
    figure = Figure(figsize=(8, 1.3 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    figure.suptitle(title)

    losses = [(line.step, line.loss) for line in trained if line.loss is not None]
    marker = "." if len(losses) < 60 else ""
    axes[0].plot(*zip(*losses, strict=True), color=_TRAINED, marker=marker, linewidth=1.2, label="training")
    kept_out = [(line.step, line.loss) for line in validated if line.loss is not None]
    if kept_out:
        axes[0].plot(*zip(*kept_out, strict=True), color=_VALIDATED, marker="o", linewidth=1.6, label="validation")
    axes[0].set_ylabel("loss (nats a trained token)")
    if metrics:
        for name in metrics:
            found = [(line.step, line.metrics[name]) for line in validated if name in line.metrics]
            axes[1].plot(*zip(*found, strict=True), marker="o", linewidth=1.4, label=name)
        axes[1].set_ylabel("validation")
        axes[1].legend(loc="best", frameon=False)
    if best_step is not None:
        for axis in axes[:-1]:
            axis.axvline(best_step, color="black", linestyle=":", linewidth=1, label="best")
    axes[0].legend(loc="upper right", frameon=False)
    rates = [(line.step, line.learning_rate) for line in trained if line.learning_rate is not None]
    axes[-1].plot(*zip(*rates, strict=True), color=_RATE, linewidth=1.2)
    axes[-1].set_ylabel("learning rate")
    axes[-1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes[-1].set_ylim(bottom=0)
    axes[-1].set_xlabel("optimiser step")
    for axis in axes:
        axis.grid(alpha=0.25)
    figure.savefig(path, dpi=120)
