"""Whether two runs of one recipe came to the same: bit for bit, or by how much not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hfkit.artifact import Artifact, file_sha256
from hfkit.data.card import DataResult
from hfkit.evaluation.result import EvaluateResult
from hfkit.models.tuned import ADAPTER, MODEL
from hfkit.reproducing.origin import Origin
from hfkit.stage import StageName

_WEIGHTS = ".safetensors"


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True)


class Weights(_Found):
    """The trained weights of both runs, by the SHA-256 of their files.

    Attributes:
        files: path -> (then, here); None where there is no such file.
        largest_difference: of any one weight; None where the bits are the same, or the weights cannot be compared.
        at: the tensor that it stands in.
        remark: why they cannot be compared.
    """

    files: dict[str, tuple[str | None, str | None]]
    largest_difference: float | None = None
    at: str | None = None
    remark: str | None = None

    @property
    def same_bits(self) -> bool:
        return all(there == here for there, here in self.files.values())


class ScorePair(_Found):
    """What is scored, such as `grounded_answers: token_f1 of tuned`, and its value in both runs; None for no value."""

    what: str
    there: float | None
    here: float | None

    @property
    def is_same(self) -> bool:
        return self.there == self.here

    @property
    def distance(self) -> float:
        """Infinite where one of the two has no value."""
        if self.is_same:
            return 0.0
        if self.there is None or self.here is None:
            return math.inf
        return abs(self.here - self.there)


class Comparison(_Found):
    """`same_data` is None, and so are the others, where the run has no such stage."""

    same_data: bool | None
    weights: Weights | None
    scores: tuple[ScorePair, ...] | None

    @property
    def is_same(self) -> bool:
        weights = self.weights is None or self.weights.same_bits
        scores = self.scores is None or all(pair.is_same for pair in self.scores)
        return self.same_data is not False and weights and scores


def compare(origin: Origin, again: Mapping[StageName, Artifact], folder: Path) -> Comparison:
    """The run that `origin` tells of, against `again`, whose stages lie in `folder`: the stages that both have."""
    there = {name: artifact for name, artifact in origin.stages.items() if name in again}
    same_data = weights = scores = None
    if "data" in there:
        contents = [DataResult.model_validate(stages["data"].result).content for stages in (there, again)]
        same_data = contents[0] == contents[1]
    if "train" in there:
        weights = compare_weights(origin, there["train"], again["train"], folder / "train")
    if "evaluate" in there:
        scores = tuple(_score_pairs(*(_scores(stages["evaluate"]) for stages in (there, again))))
    return Comparison(same_data=same_data, weights=weights, scores=scores)


def compare_weights(origin: Origin, there: Artifact, here: Artifact, folder: Path) -> Weights:
    """Of two train stages, that of `here` in `folder`. The weights of then are fetched where their hash is another."""
    then, now = _weight_files(there), _weight_files(here)
    files = {path: (then.get(path), now.get(path)) for path in sorted({*then, *now})}
    weights = Weights(files=files)
    if weights.same_bits:
        return weights
    largest, at = 0.0, None
    for path, (digest, digest_here) in files.items():
        if digest is None or digest_here is None:
            return Weights(files=files, remark=f"only one of the two runs has {path}")
        original = origin.trained_file(path)
        if original is None:
            return Weights(files=files, remark="the weights of then are not at hand, only their hash")
        if file_sha256(original) != digest:
            return Weights(files=files, remark=f"{original} is not the file whose hash the manifest has")
        difference, tensor = _largest_difference(original, folder / path)
        if difference is None:
            return Weights(files=files, remark=f"the tensor {tensor} is not in both, or not of one shape")
        if at is None or difference > largest:
            largest, at = difference, tensor
    return Weights(files=files, largest_difference=largest, at=at)


def _weight_files(train: Artifact) -> dict[str, str]:
    """Of what is trained; the weights of kept checkpoints are no result."""
    return {
        record.path: record.sha256
        for record in train.files
        if record.path.startswith((f"{ADAPTER}/", f"{MODEL}/"))
        and record.path.endswith(_WEIGHTS)
        # A manifest may come from anybody, and must not lead out of the folder.
        and ".." not in record.path.split("/")
    }


def _largest_difference(there: Path, here: Path) -> tuple[float | None, str]:
    """The largest absolute difference of two weights, and the tensor that it is in; None where the tensors are not the
    same ones."""
    from safetensors import safe_open

    largest, at = 0.0, ""
    with safe_open(there, framework="pt") as then, safe_open(here, framework="pt") as now:
        names, names_here = set(then.keys()), set(now.keys())
        for name in sorted(names | names_here):
            if name not in names & names_here:
                return None, name
            one, other = then.get_tensor(name).double(), now.get_tensor(name).double()
            if one.shape != other.shape:
                return None, name
            difference = float((one - other).abs().max()) if one.numel() else 0.0
            if not at or difference > largest:
                largest, at = difference, name
    return largest, at


def _scores(evaluate: Artifact) -> dict[str, float | None]:
    """Every score that an evaluation gave, by what it is of."""
    result = EvaluateResult.model_validate(evaluate.result)
    scores: dict[str, float | None] = {
        f"{task}: {metric} of {model}": score.value
        for task, found in result.tasks.items()
        for model, by_metric in found.scores.items()
        for metric, score in by_metric.items()
    }
    if result.retrieval is not None:
        for name, setting in result.retrieval.settings.items():
            scores |= {f"retrieval: {metric} of {name}": score.mean for metric, score in setting.scores.items()}
    if result.harness is not None:
        for model, tasks in result.harness.scores.items():
            for task, metrics in tasks.items():
                scores |= {f"harness {task}: {metric} of {model}": value for metric, (value, _) in metrics.items()}
    return scores


def _score_pairs(there: Mapping[str, float | None], here: Mapping[str, float | None]) -> Iterator[ScorePair]:
    for what in dict.fromkeys([*there, *here]):
        yield ScorePair(what=what, there=there.get(what), here=here.get(what))
