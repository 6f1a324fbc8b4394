"""What an evaluation comes to, in sentences: what is better, what is worse, and of what nothing is shown."""

from __future__ import annotations

from dataclasses import dataclass

from hfkit.evaluation.report.figures import (
    figure,
    listed,
    score_interval,
    score_text,
    score_with_interval,
)
from hfkit.evaluation.report.tables import metric_named
from hfkit.evaluation.result import Difference, EvaluateResult, GateResult, MetricInfo, Score, TaskResult
from hfkit.evaluation.retrieval_table import retrieval_interval


@dataclass(frozen=True)
class BestStep:
    """The checkpoint that scores best on a metric. `rivals` are the steps whose intervals reach its score: this many
    rows do not tell them apart from it for sure. `falls_after` says that the last checkpoint's interval does not."""

    metric: str
    model: str
    step: int
    score: Score
    rivals: tuple[int, ...]
    falls_after: bool


def headlines(result: EvaluateResult) -> list[str]:
    """A sentence for each task and model, then for checkpoints, search and gates."""
    sentences = [sentence for task in result.tasks.values() for sentence in _task_sentences(task, result)]
    if result.retrieval is not None:
        main = result.retrieval.metrics[0]
        score = result.retrieval.settings[result.retrieval.recipe].scores[main]
        sentences.append(
            f"Search, as the recipe sets it, reaches {main} {score.mean:.3f} ({retrieval_interval(score)}) on "
            f"{result.retrieval.queries} queries."
        )
    if result.gates:
        sentences.append(_gates_sentence(result))
    return sentences


def is_shown(difference: Difference, confidence: float) -> bool:
    """Whether the difference is there beyond chance, all differences of the evaluation taken into account."""
    if difference.interval is None:
        return False
    low, high = difference.interval
    return (low > 0 or high < 0) and difference.p_adjusted < 1 - confidence


def is_gain(difference: Difference, metric: MetricInfo) -> bool:
    return (difference.difference > 0) == metric.higher_is_better


def best_step(task: TaskResult, metric: MetricInfo, steps: dict[str, int]) -> BestStep | None:
    """The best of the run's checkpoints on a metric; None where fewer than two have a score."""
    scored = [
        (steps[model], model, scores[metric.name])
        for model, scores in task.scores.items()
        if model in steps and metric.name in scores and scores[metric.name].value is not None
    ]
    if len(scored) < 2:
        return None
    scored.sort(key=lambda one: one[0])
    sign = 1 if metric.higher_is_better else -1
    step, model, score = max(scored, key=lambda one: (sign * (one[2].value or 0.0), -one[0]))
    best = score.value or 0.0
    rivals = tuple(other for other, _, its in scored if other != step and _reaches(its, best, sign))
    last = scored[-1]
    return BestStep(metric.title, model, step, score, rivals, last[0] != step and not _reaches(last[2], best, sign))


def _reaches(score: Score, value: float, sign: int) -> bool:
    if score.interval is None:
        return True
    low, high = score.interval
    return high >= value if sign > 0 else low <= value


def _task_sentences(task: TaskResult, result: EvaluateResult) -> list[str]:
    pairs = dict.fromkeys((one.model, one.reference) for one in task.differences if one.model not in result.steps)
    sentences = [_comparison_sentence(task, *pair, result) for pair in pairs]
    if not task.differences:
        sentences += [_score_sentence(task, model) for model in task.scores]
    best = best_step(task, task.metrics[0], result.steps) if task.metrics else None
    return sentences if best is None else [*sentences, _best_sentence(task, best)]


def _comparison_sentence(task: TaskResult, model: str, reference: str, result: EvaluateResult) -> str:
    better, worse, unclear = [], [], []
    for one in task.differences:
        if (one.model, one.reference) != (model, reference):
            continue
        metric = metric_named(task, one.metric)
        said = f"{metric.title} ({_change(task, one)})"
        if not is_shown(one, result.confidence):
            unclear.append(said)
        elif is_gain(one, metric):
            better.append(said)
        else:
            worse.append(said)
    parts = []
    if better:
        parts.append(f"{model} is better than {reference} on {listed(better)}")
    if worse:
        parts.append(f"{'it' if better else model} is worse {'' if better else f'than {reference} '}on {listed(worse)}")
    if unclear:
        between = "" if parts else f" between {model} and {reference}"
        parts.append(f"there is no evidence of a difference{between} on {listed(unclear)}")
    return f"{task.title}: {'; '.join(parts)}."


def _change(task: TaskResult, one: Difference) -> str:
    reference, model = task.scores[one.reference][one.metric], task.scores[one.model][one.metric]
    return f"{score_text(reference)} → {score_text(model)}"


def _score_sentence(task: TaskResult, model: str) -> str:
    scores = task.scores[model]
    said = [f"{m.title} {score_with_interval(scores[m.name])}" for m in task.metrics if m.name in scores]
    return f"{task.title}: {model} reaches {listed(said)}." if said else f"{task.title}: {model} has no score."


def _best_sentence(task: TaskResult, best: BestStep) -> str:
    sentence = f"{task.title}: of the checkpoints, step {best.step} is best on {best.metric}"
    sentence += f" ({score_text(best.score)}, interval {score_interval(best.score)})"
    if best.rivals:
        steps = listed([str(step) for step in best.rivals])
        sentence += f"; these rows do not tell it apart from step{'s' if len(best.rivals) > 1 else ''} {steps} for sure"
    if best.falls_after:
        sentence += "; later checkpoints score worse, which is what over-fitting looks like"
    return f"{sentence}."


def _reached(gate: GateResult) -> str:
    if gate.at_least is None:
        return gate.why or "too few rows to say"
    return f"at least {figure(gate.at_least)}"


def _gates_sentence(result: EvaluateResult) -> str:
    failed = [gate for gate in result.gates if not gate.holds]
    if not failed:
        return "The gate holds." if len(result.gates) == 1 else f"All {len(result.gates)} gates hold."
    found = [f"“{gate.gate}” ({_reached(gate)}, needed {figure(gate.needed)})" for gate in failed]
    verb = "does" if len(failed) == 1 else "do"
    return f"{len(failed)} of {len(result.gates)} gates {verb} not hold: {listed(found)}."
