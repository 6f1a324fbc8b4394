"""What a gate may speak of: the recipe's tasks, their metrics, and the models that are asked."""

from collections.abc import Sequence

from hfkit.evaluation.metrics import METRICS
from hfkit.recipe.asked_models import CHECKPOINT, AskedModel, model_label
from hfkit.recipe.gates import Gate
from hfkit.recipe.suggestions import nearest_word
from hfkit.recipe.tasks import AnyTask, OwnTask, UsedTask, task_metrics, task_name

JUDGED = "judge_win_rate"


def check_gate(gate: Gate, tasks: Sequence[AnyTask], models: Sequence[AskedModel] | None, *, judged: bool) -> None:
    """Raises ValueError where the gate can never be held: no such task, metric or model, or a bound out of reach.

    Tasks that Python code makes know their metrics only when they are made.
    """
    metrics = {task_name(task): task_metrics(task) for task in tasks if task != "retrieval"}
    if judged:
        replies = [task_name(task) for task in tasks if _asks_for_replies(task)]
        metrics |= {name: (*known, JUDGED) for name in replies if (known := metrics[name]) is not None}
    _check_metric(gate, metrics)
    for label in (gate.model, gate.reference):
        if label is not None:
            _check_model(gate, label, models)
    _check_margin(gate)


def _asks_for_replies(task: AnyTask) -> bool:
    if isinstance(task, OwnTask):
        return task.kind == "generation"
    return task in ("grounded_answers", "conversations") or (
        isinstance(task, UsedTask) and task.use in ("squad", "gsm8k", "ifeval")
    )


def _check_metric(gate: Gate, metrics: dict[str, tuple[str, ...] | None]) -> None:
    if not metrics:
        raise ValueError("needs a task that asks models")
    if gate.task is not None:
        if gate.task not in metrics:
            near = nearest_word(gate.task, tuple(metrics))
            raise ValueError(f"there is no task {gate.task}; the tasks are {', '.join(metrics)}{near}")
        metrics = {gate.task: metrics[gate.task]}
    known = list(dict.fromkeys(metric for names in metrics.values() for metric in names or ()))
    having = [task for task, names in metrics.items() if names is not None and gate.metric in names]
    if len(having) > 1:
        examples = " or ".join(f"{gate.model}.{task}.{gate.metric}" for task in having[:2])
        raise ValueError(f"several tasks have {gate.metric}; name one of them, as {examples}")
    if not having and all(names is not None for names in metrics.values()):
        longer = [metric for metric in known if gate.metric in metric]
        hint = f"; did you mean {longer[0]}?" if longer else nearest_word(gate.metric, known)
        raise ValueError(f"unknown metric {gate.metric}; expected one of {', '.join(known)}{hint}")


def _check_model(gate: Gate, label: str, models: Sequence[AskedModel] | None) -> None:
    labels = ["base", "tuned"] if models is None else [model_label(model) for model in models]
    if label in labels or ("checkpoints" in labels and CHECKPOINT.fullmatch(label)):
        return
    asked = ", ".join("checkpoint-STEP" if one == "checkpoints" else one for one in labels)
    raise ValueError(f"there is no model {label}; asked are {asked}{nearest_word(label, labels)}")


def _check_margin(gate: Gate) -> None:
    entry = METRICS.get(gate.metric)
    if gate.metric != JUDGED and (entry is None or not entry.is_share):
        return
    lowest, noun = (0, "bound") if gate.reference is None else (-1, "margin")
    if not lowest <= gate.margin <= 1:
        raise ValueError(
            f"{gate.metric} is a share from 0 to 1: the {noun} must be from {lowest} to 1, got {gate.margin:g}",
        )
