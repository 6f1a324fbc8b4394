"""The measured results as a model card's metadata has them: `model-index`, each with the data set it was taken on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfkit.hub.facts import RunFacts
from hfkit.recipe.tasks import AnyTask, CodeTask, task_name

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from hfkit.evaluation.result import TaskResult

TEXT_GENERATION = "text-generation"


@dataclass(frozen=True, slots=True)
class _DataSet:
    """`id` is the Hub's, where it is there; `split` None where the recipe names none."""

    id: str
    name: str
    config: str | None
    split: str | None
    revision: str | None = None


def metadata_results(facts: RunFacts) -> list[EvalResult]:
    """What the published model scored on the recipe's own test rows and on data sets of the Hub. Results on files and
    from Python stand in the card's text alone: the metadata would have to name a data set that nobody can find."""
    from huggingface_hub import EvalResult

    result = facts.evaluated
    if result is None:
        return []
    label = measured_label(facts)
    found = []
    for name, task in result.tasks.items() if label is not None else ():
        data_set = _data_set(facts, name)
        for metric in task.metrics if data_set is not None else ():
            score = task.scores.get(label or "", {}).get(metric.name)
            if data_set is None or score is None or score.value is None:
                continue
            found.append(
                EvalResult(
                    task_type=TEXT_GENERATION,
                    dataset_type=data_set.id,
                    dataset_name=data_set.name,
                    dataset_config=data_set.config,
                    dataset_split=data_set.split,
                    dataset_revision=data_set.revision,
                    metric_type=metric.name,
                    metric_name=f"{metric.title} ({name})" if _asks_own_rows(_task(facts, name)) else metric.title,
                    metric_value=round(score.value, 4),
                )
            )
    return found


def measured_label(facts: RunFacts) -> str | None:
    """Under which name the evaluation has the scores of the very weights that are published; None where it has none.

    An adapter that was added into the weights that it was trained on answers as before, up to their rounding; added
    into unquantised ones it is another model than the one that was measured.
    """
    if facts.publishes_adapter or not facts.trains_adapter:
        return "tuned"
    result = facts.evaluated
    if result is not None and "merged" in result.models:
        return "merged"
    return "tuned" if facts.model.quantization is None else None


def own_tasks(facts: RunFacts) -> list[TaskResult]:
    """The results on the recipe's own test rows."""
    result = facts.evaluated
    return [] if result is None else [task for name, task in result.tasks.items() if _asks_own_rows(_task(facts, name))]


def _task(facts: RunFacts, name: str) -> AnyTask | None:
    section = facts.recipe.evaluate
    tasks = () if section is None else section.tasks
    return next((task for task in tasks if task_name(task) == name), None)


def _asks_own_rows(task: AnyTask | None) -> bool:
    return task in ("grounded_answers", "conversations")


def _data_set(facts: RunFacts, name: str) -> _DataSet | None:
    """Where a task's rows come from; None where that is no data set that others know."""
    task = _task(facts, name)
    if _asks_own_rows(task):
        own = facts.recipe.name
        # Rows that are not published have a name of the owner's, so that they are not taken for somebody's data set.
        published = facts.hub.dataset
        id = f"{facts.hub.repo.split('/')[0]}/{own}" if published is None else published
        return _DataSet(id, f"{own}, held-out documents", None if published is None else "examples", split="test")
    if task is None or isinstance(task, str | CodeTask) or task.hub is None:
        return None
    return _DataSet(task.hub, task.hub, task.config, task.split, task.revision)
