"""The evaluate stage: every model on the same rows of every task, search on judged queries, and the gates held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import JsonValue

from hfkit.artifact import FileRecord
from hfkit.data.prepared import read_examples
from hfkit.errors import RequestError, WorkError
from hfkit.evaluation.asking import Asker
from hfkit.evaluation.harness import Harness, ask_harness
from hfkit.evaluation.holding import held, held_not_worse
from hfkit.evaluation.judge import LABEL, judge, judge_model
from hfkit.evaluation.measuring import Measured, measure
from hfkit.evaluation.models import (
    AnyModel,
    Loader,
    LocalModel,
    described,
    model_label,
    models_of,
    trained_files,
)
from hfkit.evaluation.predictions import Prediction, write_predictions
from hfkit.evaluation.report.writing import write_report
from hfkit.evaluation.result import EvaluateResult, GateResult
from hfkit.evaluation.retrieval import held_gate, measure_retrieval
from hfkit.evaluation.rows import Answer, Failed, Generation
from hfkit.evaluation.statistics import resample
from hfkit.evaluation.task_results import Answered, task_results
from hfkit.evaluation.tasks import load_task
from hfkit.evaluation.tasks.task import Task
from hfkit.recipe import EndpointModel, Gate, JudgeSection, RetrievalGate
from hfkit.run import Run
from hfkit.stage import StageContext


def evaluate(context: StageContext) -> EvaluateResult:
    """Run the recipe's tasks, keep `predictions/TASK.jsonl`, hold the gates against what they gave, and report."""
    recipe = context.recipe
    assert recipe.evaluate is not None
    section = recipe.evaluate.harness
    harness = None if section is None else Harness(section, allow_code=recipe.allow_code)
    models = models_of(context) if recipe.evaluate.asks_models else []
    answered = _answered(context, models) if models else []
    by_harness = None if harness is None else ask_harness(harness, models, context)
    measured = measure_retrieval(context) if "retrieval" in recipe.evaluate.tasks else None
    gates = []
    for gate in recipe.evaluate.gates:
        if isinstance(gate, RetrievalGate):
            assert measured is not None  # the recipe's own check asks for the task
            gates.append(held_gate(gate, measured, recipe.seed))
        else:
            gates.append(_held(gate, answered))
    asked = {label for one in answered for label in one.answers} | set(() if by_harness is None else by_harness.scores)
    there = [model for model in models if model_label(model) in asked]
    result = EvaluateResult(
        models=dict(described(there)),
        steps={m.label: m.step for m in there if isinstance(m, LocalModel) and m.step is not None},
        confidence=recipe.evaluate.confidence,
        tasks=task_results(answered, confidence=recipe.evaluate.confidence, seed=recipe.seed),
        retrieval=None if measured is None else measured.result,
        harness=by_harness,
        gates=tuple(gates),
    )
    write_report(context.folder, result, recipe, context.upstream.get("train"))
    return result


def _answered(context: StageContext, models: Sequence[AnyModel]) -> list[Answered]:
    """Ask every model every task: model by model, so that each is loaded once."""
    recipe = context.recipe
    assert recipe.evaluate is not None
    tasks = _tasks(context)
    files = trained_files(context)
    asker = Asker(
        run=Run(recipe).folder,
        loader=Loader(context.folder),
        identities={model_label(model): _identity(model, files) for model in models},
        max_new_tokens=recipe.evaluate.max_new_tokens,
        batch_size=recipe.evaluate.batch_size,
        progress=context.progress,
    )
    answers: dict[str, dict[str, list[Answer]]] = {task.name: {} for task in tasks}
    remarks: dict[str, list[str]] = {task.name: list(task.remarks) for task in tasks}
    for model in models:
        for task in tasks:
            label = model_label(model)
            if isinstance(model, EndpointModel) and task.kind != "generation":
                remarks[task.name].append(f"{label} was not asked: an endpoint gives replies, and no likelihoods.")
                continue
            try:
                answers[task.name][label] = asker.ask(model, task)
            except RequestError as error:
                if not isinstance(model, LocalModel) or not model.is_optional:
                    raise
                context.progress.say(f"{label}: left out: {error}")
                remarks[task.name].append(f"{label} was left out: {error}")
    scored = [
        _scored(context, task, answers[task.name], remarks[task.name], asker) for task in tasks if answers[task.name]
    ]
    return (
        scored
        if recipe.evaluate.judge is None
        else [_judged(context, one, recipe.evaluate.judge, asker) for one in scored]
    )


def _judged(context: StageContext, one: Answered, section: JudgeSection, asker: Asker) -> Answered:
    """With what the judge prefers as a metric more, where there are replies of several models."""
    if one.task.kind != "generation" or len(one.answers) < 2:
        return one
    model = judge_model(section, context.recipe.model)
    named = replace(asker, identities={**asker.identities, LABEL: _identity(model, ())})
    measured, remarks = judge(one.task, one.answers, model, section, named)
    metrics = {**one.metrics, measured.metric.name: resample(measured, seed=context.recipe.seed)}
    return replace(one, metrics=metrics, remarks=(*one.remarks, *remarks))


def _tasks(context: StageContext) -> list[Task]:
    assert context.recipe.evaluate is not None
    data = context.upstream.get("data")
    test = [] if data is None else list(read_examples(data, "test"))
    tasks = [
        load_task(entry, test, allow_code=context.recipe.allow_code)
        for entry in context.recipe.evaluate.tasks
        if entry != "retrieval"
    ]
    for task in tasks:
        if not task.rows:
            raise RequestError(f"evaluate.tasks: {task.name} has no rows to ask")
    return tasks


def _scored(
    context: StageContext, task: Task, answers: Mapping[str, Sequence[Answer]], remarks: list[str], asker: Asker
) -> Answered:
    """Score the answers and keep them row by row."""
    _refuse_nothing_answered(task, answers)
    measured = {metric.name: measure(metric, task.rows, answers) for metric in task.metrics}
    resampled = {name: resample(one, seed=context.recipe.seed) for name, one in measured.items()}
    for one in measured.values():
        if one.faults:
            more = f", and {len(one.faults) - 1} more like it" if len(one.faults) > 1 else ""
            remarks.append(f"The row was left out for all models where a metric fails: {one.faults[0]}{more}.")
    remarks += _near_ties(answers)
    _keep(context, task, answers, measured)
    return Answered(task, answers, resampled, asker.settings(task), tuple(dict.fromkeys(remarks)))


def _refuse_nothing_answered(task: Task, answers: Mapping[str, Sequence[Answer]]) -> None:
    for label, given in answers.items():
        reasons = Counter(answer.reason for answer in given if isinstance(answer, Failed))
        if reasons.total() == len(given):
            reason = reasons.most_common(1)[0][0]
            raise WorkError(f"{task.name}: {label} answered none of the {len(given)} rows; for most: {reason}")


def _near_ties(answers: Mapping[str, Sequence[Answer]]) -> list[str]:
    found = {
        label: sum(isinstance(answer, Generation) and answer.near_tie for answer in given)
        for label, given in answers.items()
    }
    counted = ", ".join(f"{label} {count}" for label, count in found.items() if count)
    if not counted:
        return []
    return [f"Replies that rounding could have made another, since two tokens were nearly as likely: {counted}."]


def _keep(
    context: StageContext, task: Task, answers: Mapping[str, Sequence[Answer]], measured: Mapping[str, Measured]
) -> None:
    values = {label: {name: one.row_values(label) for name, one in measured.items()} for label in answers}
    write_predictions(
        context.folder,
        task.name,
        (
            Prediction(
                row=row,
                answers={label: given[place] for label, given in answers.items()},
                scores={
                    label: {name: found[row.id] for name, found in of.items() if row.id in found}
                    for label, of in values.items()
                },
            )
            for place, row in enumerate(task.rows)
        ),
    )


def _held(gate: Gate, answered: Sequence[Answered]) -> GateResult:
    """Raises RequestError where nothing that was measured is what the gate speaks of."""
    having = [one for one in answered if gate.metric in one.metrics and gate.task in (None, one.task.name)]
    if len(having) != 1:
        what = "no task has" if not having else "several tasks have"
        raise RequestError(f"evaluate.gates: {gate}: {what} the metric {gate.metric}; name one as MODEL.TASK.METRIC")
    resampled = having[0].metrics[gate.metric]
    for label in (gate.model, gate.reference):
        if label is not None and label not in having[0].answers:
            asked = ", ".join(having[0].answers)
            raise RequestError(f"evaluate.gates: {gate}: {label} did not answer {having[0].task.name}; {asked} did")
    if not resampled.measured.ids:
        raise RequestError(f"evaluate.gates: {gate}: no test row is scored by {gate.metric}")
    if gate.relation == "not worse":
        assert gate.reference is not None
        return held_not_worse(
            gate.text, resampled, gate.model, gate.reference, by=gate.margin, confidence=gate.confidence
        )
    return held(
        gate.text,
        resampled,
        gate.model,
        gate.reference,
        relation=gate.relation,
        margin=gate.margin,
        confidence=gate.confidence,
    )


def _identity(model: AnyModel, files: Sequence[FileRecord]) -> dict[str, JsonValue]:
    if isinstance(model, LocalModel):
        return model.identity(files)
    return {"endpoint": model.endpoint, "model": model.model}
