"""What the evaluate stage found out. Imports nothing heavy: reading a finished run's result must not cost seconds."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from hfkit.evaluation.retrieval_result import RetrievalResult
from hfkit.evaluation.rows import Kind


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True)


class Score(_Found):
    """A metric's value over `rows` rows in `groups` groups; `interval` holds it with the result's confidence, and is
    None where there are too few groups for that. Both are None where there is no value (no row is scored, or it is not
    a number)."""

    value: float | None
    interval: tuple[float, float] | None
    rows: int
    groups: int


class Difference(_Found):
    """A model against the one it is compared with, on the same rows.

    Attributes:
        difference: model - reference, in units of the metric.
        interval: holds the difference with the result's confidence; paired bootstrap over groups. None where there are
            too few groups for that.
        p_value: two-sided. `test` says of which test.
        p_adjusted: after Holm's correction over all differences of the evaluation.
        effect_size: mean of the rows' differences in standard deviations of them (Cohen's d for pairs); for binary
            metrics Cohen's g; None where rows have no score of their own.
        rows_needed: about how many rows would show a difference as large as this one with a power of 0.8; None where
            it is shown already or there is none.
    """

    metric: str
    model: str
    reference: str
    difference: float
    interval: tuple[float, float] | None
    p_value: float
    p_adjusted: float
    test: Literal["permutation", "mcnemar"]
    effect_size: float | None
    rows_needed: int | None
    in_words: str


class MetricInfo(_Found):
    """How a metric is called and which way is better."""

    name: str
    title: str
    higher_is_better: bool
    is_binary: bool


class Slice(_Found):
    """The scores on the rows that have `value` for `key`; `scores` is model -> metric -> score."""

    key: str
    value: str
    rows: int
    scores: dict[str, dict[str, Score]]


class Classes(_Found):
    """For tasks that choose among the same labels in every row: `confusion[model][true][predicted]` counts rows;
    `calibration[model]` has (mean confidence, share right, rows) for bins of the confidence, and
    `calibration_error[model]` is their expected calibration error."""

    labels: tuple[str, ...]
    confusion: dict[str, tuple[tuple[int, ...], ...]]
    calibration: dict[str, tuple[tuple[float, float, int], ...]]
    calibration_error: dict[str, float]


class TaskResult(_Found):
    """One task, every model asked.

    Attributes:
        rows: how many were asked.
        scores: model -> metric -> score.
        differences: of each model that is compared, metric by metric.
        cut_off: model -> replies that did not end by themselves within the limit.
        failed: model -> reason -> rows that got no answer; they count as wrong.
        settings: what answers depend on, such as the generation settings and the prompt.
        remarks: what the reader of a table should know; full sentences.
    """

    kind: Kind
    title: str
    rows: int
    groups: int
    metrics: tuple[MetricInfo, ...]
    scores: dict[str, dict[str, Score]]
    differences: tuple[Difference, ...]
    slices: tuple[Slice, ...] = ()
    classes: Classes | None = None
    cut_off: dict[str, int] = {}
    failed: dict[str, dict[str, int]] = {}
    settings: dict[str, JsonValue] = {}
    remarks: tuple[str, ...] = ()


class HarnessResult(_Found):
    """What lm-evaluation-harness gave: model -> task -> metric -> (value, standard error or None)."""

    version: str
    scores: dict[str, dict[str, dict[str, tuple[float, float | None]]]]


class GateResult(_Found):
    """`at_least` is what the metric, or its lead over what it is compared with, is at least at the gate's confidence
    (one-sided).

    It is None where there are too few test documents, or queries, to say; then the gate does not hold, and `why` says
    how many it would take.
    """

    gate: str
    at_least: float | None
    needed: float
    holds: bool
    why: str | None = None


class EvaluateResult(_Found):
    """What all tasks gave.

    Attributes:
        models: the models asked, in order, with what each is in words; the first is what the others are compared with.
        steps: model -> the optimiser step it was saved at, for checkpoints of the run.
        confidence: of every interval.
    """

    models: dict[str, str] = {}
    steps: dict[str, int] = {}
    confidence: float = 0.95
    tasks: dict[str, TaskResult] = {}
    retrieval: RetrievalResult | None = None
    harness: HarnessResult | None = None
    gates: tuple[GateResult, ...] = ()
