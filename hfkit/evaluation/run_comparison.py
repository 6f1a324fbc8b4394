"""Finished runs side by side: what differs in their recipes and data, what they cost, and how they score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from hfkit.artifact import Artifact, DamagedArtifact, read_artifact
from hfkit.errors import RequestError
from hfkit.evaluation.measuring import Measured
from hfkit.evaluation.metrics.row_mean import RowMean
from hfkit.evaluation.predictions import Prediction, predictions_file, read_predictions
from hfkit.evaluation.result import EvaluateResult, MetricInfo, Score
from hfkit.evaluation.rows import Answer, Row
from hfkit.evaluation.statistics import Pair, differences, resample
from hfkit.recipe import load_recipe
from hfkit.run import RECIPE, Run
from hfkit.stage import STAGE_NAMES
from hfkit.training.metrics_log import METRICS, read_metrics
from hfkit.training.result import TrainResult


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True)


class Cost(_Found):
    """What making a stage took."""

    seconds: float
    peak_memory_bytes: int


class Losses(_Found):
    """In nats a trained token: the mean over the last logged steps, and the least that a validation found."""

    training: float
    validation: float | None
    steps: int


class ComparedRun(_Found):
    """One run. `data` is the fingerprint of what it was trained and tested on; None where it has no such stage."""

    label: str
    folder: str
    data: str | None
    cost: dict[str, Cost]
    losses: Losses | None
    scores: dict[str, dict[str, dict[str, Score]]]
    gates_held: int | None
    gates: int | None


class RecipeDifference(_Found):
    """A key that the recipes do not agree on, and what each says; null where a recipe does not have it."""

    key: str
    values: tuple[JsonValue, ...]


class PairedDifference(_Found):
    """`run` against `reference`, the same model label of both, on the rows that both answered.

    `left_out` counts rows of either run that the other did not answer, or was asked otherwise.
    """

    task: str
    model: str
    metric: MetricInfo
    run: str
    reference: str
    rows: int
    left_out: int
    difference: float
    interval: tuple[float, float] | None
    p_value: float
    p_adjusted: float
    in_words: str


class RunComparison(_Found):
    """What `hfkit compare` says. `metrics` is task -> metric -> what it is; `remarks` are sentences."""

    runs: tuple[ComparedRun, ...]
    recipe: tuple[RecipeDifference, ...]
    same_data: bool | None
    metrics: dict[str, dict[str, MetricInfo]]
    paired: tuple[PairedDifference, ...]
    remarks: tuple[str, ...]


class _OpenRun:
    """A run's folder, read."""

    def __init__(self, named: Path) -> None:
        self.folder = _run_folder(named)
        self.label = self.folder.name
        self.artifacts: dict[str, Artifact] = {}
        for stage in STAGE_NAMES:
            try:
                artifact = read_artifact(self.folder / stage)
            except DamagedArtifact as error:
                raise RequestError(f"{named}: {error}; run `hfkit run` with its recipe to make it again") from error
            if artifact is not None:
                self.artifacts[stage] = artifact
        if not self.artifacts:
            raise RequestError(f"{named}: no stage of this run has finished, so there is nothing to compare")
        self.recipe = _recipe_of(self.folder)
        self.result = self._result()

    def _result(self) -> EvaluateResult:
        if "evaluate" not in self.artifacts:
            return EvaluateResult()
        try:
            return EvaluateResult.model_validate(self.artifacts["evaluate"].result)
        except ValidationError as error:
            raise RequestError(
                f"{self.folder / 'evaluate'}: made by another version of hfkit; run `hfkit evaluate` with its recipe"
            ) from error


def compare_runs(named: Sequence[Path], *, confidence: float = 0.95) -> RunComparison:
    """Line up runs, each a run's folder or a recipe whose run lies in `runs/`.

    Raises:
        RequestError: fewer than two are named, one twice, or one is no finished run.
    """
    runs = [_OpenRun(path) for path in named]
    if len({run.folder.resolve() for run in runs}) < max(2, len(runs)):
        raise RequestError("compare needs at least two runs, each named once")
    labels = [run.label for run in runs]
    for run in runs:
        if labels.count(run.label) > 1:
            run.label = run.folder.as_posix()
    data = [run.artifacts["data"].fingerprint for run in runs if "data" in run.artifacts]
    remarks: list[str] = []
    return RunComparison(
        runs=tuple(_compared(run) for run in runs),
        recipe=tuple(_recipe_differences([run.recipe for run in runs])),
        same_data=len(set(data)) == 1 if len(data) == len(runs) else None,
        metrics={
            name: {metric.name: metric for metric in task.metrics}
            for run in reversed(runs)
            for name, task in run.result.tasks.items()
        },
        paired=tuple(_paired(runs, confidence, remarks)),
        remarks=tuple(remarks),
    )


def _run_folder(named: Path) -> Path:
    if named.is_dir():
        return named
    if named.is_file():
        return Run(load_recipe(named, ())).folder
    raise RequestError(f"{named}: there is no such run folder and no such recipe")


def _recipe_of(folder: Path) -> dict[str, JsonValue]:
    """The recipe as the run resolved it: key by key, lists as they are."""
    path = folder / RECIPE
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(read, dict):
        raise RequestError(f"{path}: is no recipe")
    return _flat(read)


def _flat(mapping: Mapping[str, JsonValue], prefix: str = "") -> dict[str, JsonValue]:
    flat: dict[str, JsonValue] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _recipe_differences(recipes: Sequence[Mapping[str, JsonValue]]) -> list[RecipeDifference]:
    keys = dict.fromkeys(key for recipe in recipes for key in recipe if key != "name")
    found = [RecipeDifference(key=key, values=tuple(recipe.get(key) for recipe in recipes)) for key in keys]
    return [one for one in found if any(value != one.values[0] for value in one.values)]


def _compared(run: _OpenRun) -> ComparedRun:
    gates = run.result.gates if "evaluate" in run.artifacts else None
    return ComparedRun(
        label=run.label,
        folder=run.folder.as_posix(),
        data=run.artifacts["data"].fingerprint if "data" in run.artifacts else None,
        cost={
            stage: Cost(seconds=artifact.seconds, peak_memory_bytes=artifact.peak_memory_bytes)
            for stage, artifact in run.artifacts.items()
        },
        losses=_losses(run),
        scores={name: task.scores for name, task in run.result.tasks.items()},
        gates_held=None if gates is None else sum(gate.holds for gate in gates),
        gates=None if gates is None else len(gates),
    )


def _losses(run: _OpenRun) -> Losses | None:
    if "train" not in run.artifacts:
        return None
    try:
        result = TrainResult.model_validate(run.artifacts["train"].result)
    except ValidationError as error:
        raise RequestError(
            f"{run.folder / 'train'}: made by another version of hfkit; run `hfkit train` with its recipe"
        ) from error
    lines = read_metrics(run.folder / "train" / METRICS)
    validated = [line.loss for line in lines if line.split == "validation" and line.loss is not None]
    return Losses(training=result.loss, validation=min(validated, default=None), steps=result.steps)


def _paired(runs: Sequence[_OpenRun], confidence: float, remarks: list[str]) -> list[PairedDifference]:
    """Every run against each one before it; corrected after Holm over all of these differences."""
    pairs: list[Pair] = []
    about: list[tuple[str, str, MetricInfo, int]] = []
    for reference, run in combinations(runs, 2):
        for name in run.result.tasks:
            if name in reference.result.tasks:
                for model, metric, measured, left_out in _on_same_rows(run, reference, name, remarks):
                    pairs.append(Pair(resample(measured), run.label, reference.label))
                    about.append((name, model, metric, left_out))
    found = []
    for pair, (name, model, metric, left_out), one in zip(
        pairs, about, differences(pairs, confidence=confidence), strict=True
    ):
        if one is None:
            continue
        found.append(
            PairedDifference(
                task=name,
                model=model,
                metric=metric,
                run=one.model,
                reference=one.reference,
                rows=len(pair.resampled.measured.ids),
                left_out=left_out,
                difference=one.difference,
                interval=one.interval,
                p_value=one.p_value,
                p_adjusted=one.p_adjusted,
                in_words=one.in_words,
            )
        )
    return found


def _on_same_rows(
    run: _OpenRun, reference: _OpenRun, name: str, remarks: list[str]
) -> list[tuple[str, MetricInfo, Measured, int]]:
    """(model, metric, scores of both runs, rows left out) for what both runs asked in the same words."""
    ours, theirs = _predictions(run, name), _predictions(reference, name)
    same = [id for id, one in ours.items() if id in theirs and _question(one) == _question(theirs[id])]
    left_out = len(ours) + len(theirs) - 2 * len(same)
    between = f"{name}: {run.label} and {reference.label}"
    if not same:
        remarks.append(f"{between} have no rows in common, so their scores are not compared row by row.")
        return []
    if left_out:
        remarks.append(f"{between} are compared on the {len(same):,} rows that both answered; {left_out:,} are not.")
    task, other = run.result.tasks[name], reference.result.tasks[name]
    found = []
    for model in task.scores:
        if model not in other.scores:
            continue
        if all(ours[id].answers[model] == theirs[id].answers[model] for id in same):
            remarks.append(f"{between}: {model} answered the same on all {len(same):,} rows.")
            continue
        for metric in task.metrics:
            scored = [
                id
                for id in same
                if metric.name in ours[id].scores.get(model, {}) and metric.name in theirs[id].scores.get(model, {})
            ]
            if not scored or not _is_mean(run, name, model, metric, ours):
                continue
            numbers = {
                one.label: np.array([(predictions[id].scores[model][metric.name], 1.0) for id in scored])
                for one, predictions in ((run, ours), (reference, theirs))
            }
            groups = tuple(ours[id].row.group for id in scored)
            found.append((model, metric, Measured(_row_mean(metric), tuple(scored), groups, numbers), left_out))
    return found


def _predictions(run: _OpenRun, name: str) -> dict[str, Prediction]:
    folder = run.folder / "evaluate"
    if not predictions_file(folder, name).is_file():
        return {}
    return {prediction.row.id: prediction for prediction in read_predictions(folder, name)}


def _question(prediction: Prediction) -> JsonValue:
    """What was asked, without what it is filed under."""
    asked: dict[str, JsonValue] = prediction.row.model_dump(mode="json", exclude={"id", "group", "slices"})
    return asked


def _is_mean(run: _OpenRun, name: str, model: str, metric: MetricInfo, predictions: Mapping[str, Prediction]) -> bool:
    """Whether the metric is the mean of its rows' scores. BLEU, say, is not, and cannot be compared by them."""
    score = run.result.tasks[name].scores[model].get(metric.name)
    of_rows = [one.scores[model][metric.name] for one in predictions.values() if metric.name in one.scores[model]]
    if score is None or score.value is None or len(of_rows) != score.rows:
        return False
    return abs(sum(of_rows) / len(of_rows) - score.value) <= 1e-9 * max(1.0, abs(score.value))


def _row_mean(metric: MetricInfo) -> RowMean:
    return RowMean(metric.name, metric.title, _scored_already, metric.higher_is_better, metric.is_binary)


def _scored_already(row: Row, answer: Answer) -> float | None:
    raise AssertionError("these rows were scored when they were answered")
