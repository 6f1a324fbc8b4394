"""`hfkit reproduce`: a finished run, made again and compared."""

from __future__ import annotations

import argparse
import json

from hfkit.errors import RequestError
from hfkit.output import emit, one_line, say
from hfkit.processes import current_processes
from hfkit.progress import Progress
from hfkit.reproducing.comparison import ScorePair, Weights
from hfkit.reproducing.differences import Difference
from hfkit.reproducing.reproduce import Plan, Reproduction, plan_reproduction, reproduce

_MOST_SCORES = 10


def run(arguments: argparse.Namespace) -> int:
    if current_processes().are_many:
        raise RequestError("reproduce: start it as one process, without a launcher")
    plan = plan_reproduction(
        arguments.run,
        revision=arguments.revision,
        to=arguments.to,
        overrides=arguments.overrides,
        allow_code=arguments.allow_code,
    )
    before = _before(plan)
    if arguments.check_only:
        emit(json.dumps(_document(plan), indent=2) if arguments.json else "\n".join(before))
        return 0
    for line in before:
        say(f"hfkit: {line}")
    done = reproduce(plan, Progress())
    if arguments.json:
        emit(json.dumps(_document(plan, done), indent=2))
    else:
        emit("\n".join(_after(plan, done)))
    if done.comparison.is_same:
        return 0
    say(f"hfkit: {one_line(_not_the_same(plan, done))}")
    return 1


def _before(plan: Plan) -> list[str]:
    """What can be said before it is run."""
    made = list(plan.origin.stages.values())[-1].finished
    at = "" if plan.origin.revision is None else f" at {plan.origin.revision[:10]}"
    lines = [f"{plan.origin.name}{at}: the run {plan.origin.manifest.recipe}, made {made}"]
    lines += plan.remarks
    if plan.found:
        lines += ["differs here:", *(f"  {one_line(difference.in_words)}" for difference in plan.found)]
    else:
        lines.append("nothing that is known of it differs here")
    lines.append(f"stages {', '.join(plan.stages)} go to {plan.folder.as_posix()}/")
    return lines


def _after(plan: Plan, done: Reproduction) -> list[str]:
    comparison = done.comparison
    lines = []
    if done.was_there:
        lines.append(f"it was made again before, and nothing changed since; remove {plan.folder.as_posix()}/ to repeat")
    if done.found:
        lines += ["differed:", *(f"  {one_line(difference.in_words)}" for difference in done.found)]
    if comparison.same_data is not None:
        lines.append(f"prepared data: {'the same' if comparison.same_data else 'NOT the same'}")
    if comparison.weights is not None:
        lines.append(f"weights: {_weights_in_words(comparison.weights)}")
    if comparison.scores is not None:
        lines += _scores_in_words(comparison.scores)
    lines.append("reproduced" if comparison.is_same else "NOT reproduced")
    return lines


def _weights_in_words(weights: Weights) -> str:
    if weights.same_bits:
        named = [f"{path} {digest[:12]}" for path, (digest, _) in weights.files.items() if digest is not None]
        return f"the same, bit for bit ({', '.join(named)})"
    if weights.largest_difference is None:
        return f"NOT the same bits; {weights.remark}"
    return f"NOT the same bits; the largest difference of a weight is {weights.largest_difference:.3g}, in {weights.at}"


def _scores_in_words(scores: tuple[ScorePair, ...]) -> list[str]:
    other = sorted((pair for pair in scores if not pair.is_same), key=lambda pair: -pair.distance)
    if not other:
        return [f"scores: the same, all {len(scores)}"]
    lines = [f"scores: {len(other)} of {len(scores)} NOT the same"]
    lines += [f"  {one_line(p.what)}: {_value(p.there)} then, {_value(p.here)} here" for p in other[:_MOST_SCORES]]
    return [*lines, *([f"  and {len(other) - _MOST_SCORES} more"] if len(other) > _MOST_SCORES else [])]


def _value(score: float | None) -> str:
    return "none" if score is None else f"{score:.6g}"


def _not_the_same(plan: Plan, done: Reproduction) -> str:
    """The sentence that says so, with what may be the reason."""
    train = plan.origin.stages.get("train")
    promised = None if train is None else train.result.get("deterministic")
    if done.found:
        reason = f"what differed: {'; '.join(difference.what for difference in done.found)}"
    elif promised is not None:
        reason = f"nothing that is known of it differed, and it was said to give {promised}"
    else:
        reason = "nothing that is known of it differed"
    return f"{plan.origin.name} did not come out the same ({reason})"


def _document(plan: Plan, done: Reproduction | None = None) -> dict[str, object]:
    found = plan.found if done is None else done.found
    document: dict[str, object] = {
        "of": plan.origin.name,
        "revision": plan.origin.revision,
        "recipe": plan.origin.manifest.recipe,
        "run": plan.folder.as_posix(),
        "stages": list(plan.stages),
        "remarks": list(plan.remarks),
        "differences": [_difference(difference) for difference in found],
    }
    if done is None:
        return document
    comparison = done.comparison
    weights = comparison.weights
    return document | {
        "made_now": not done.was_there,
        "same": comparison.is_same,
        "same_data": comparison.same_data,
        "weights": None if weights is None else {"same_bits": weights.same_bits, **weights.model_dump(mode="json")},
        "scores": None if comparison.scores is None else [pair.model_dump(mode="json") for pair in comparison.scores],
    }


def _difference(difference: Difference) -> dict[str, object]:
    return difference.model_dump(mode="json")
