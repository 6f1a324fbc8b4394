"""lm-evaluation-harness on a model that is loaded already, and its results in this evaluation's words.

The harness (https://github.com/EleutherAI/lm-evaluation-harness) is the extra `harness`; nothing else needs it.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import yaml

from hfkit.errors import RequestError, WorkError
from hfkit.evaluation.models import AnyModel, Loader, LocalModel, model_label
from hfkit.evaluation.result import HarnessResult
from hfkit.quiet import quiet_libraries
from hfkit.recipe.harness import HarnessSection
from hfkit.recipe.suggestions import nearest_word
from hfkit.stage import StageContext

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HarnessScores = dict[str, dict[str, tuple[float, float | None]]]
"""Task -> metric -> value and standard error, None where the harness gives none."""

# For the standard errors of metrics that are no means of rows, such as F1.
_RESAMPLES = 1000


def harness_version() -> str:
    """The installed version. Raises RequestError where the harness is not installed."""
    try:
        return version("lm-eval")
    except PackageNotFoundError as error:
        raise RequestError(
            "evaluate.harness needs lm-evaluation-harness, which is not installed: pip install 'hfkit[harness]'"
        ) from error


class Harness:
    """The harness, ready to ask one model after another.

    Raises:
        RequestError: it is not installed, a task is unknown, or there are task files in a folder and `allow_code` is
            False. That comes before any model need be loaded.
    """

    def __init__(self, section: HarnessSection, *, allow_code: bool) -> None:
        self.version = harness_version()
        self.section = section
        if section.include_path is not None:
            if not section.include_path.is_dir():
                raise RequestError(f"evaluate.harness.include_path: {section.include_path} is no folder")
            if not allow_code:
                # Not only `!function` runs: templates are rendered outside of a sandbox, a file may include others from
                # anywhere, and a metric that the harness does not know is loaded as a Python module.
                raise RequestError(
                    f"evaluate.harness.include_path: task files of lm-evaluation-harness can run code (functions, "
                    "templates, included files, metrics); set allow_code: true in the recipe if you trust all files in "
                    f"{section.include_path}"
                )
        self._manager = _manager(section)

    def scores(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> HarnessScores:
        """What `model` scores on the tasks. It generates greedily or samples, as each task says.

        Raises:
            RequestError: a task's file is wrong, or its data is not here and may not be fetched.
            WorkError: the harness failed on the model.
        """
        from lm_eval import evaluate
        from lm_eval.models.huggingface import HFLM
        from transformers import set_seed

        section = self.section
        loaded = _load(self._manager, section, seed)
        nowhere = io.StringIO()
        # Not `simple_evaluate`, which asks git and pip about this machine. The harness draws bars on standard error,
        # which is the person's.
        with quiet_libraries(), contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
            set_seed(seed)
            wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=section.batch_size)
            try:
                found = evaluate(
                    wrapped,
                    loaded,
                    limit=section.limit,
                    bootstrap_iters=_RESAMPLES,
                    log_samples=False,
                    apply_chat_template=section.chat_template,
                    fewshot_as_multiturn=section.chat_template,
                )
            except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
                raise WorkError(f"lm-evaluation-harness failed: {type(error).__name__}: {error}") from error
        return scores_of(found["results"])


def ask_harness(harness: Harness, models: Sequence[AnyModel], context: StageContext) -> HarnessResult:
    """Every model that is loaded here, one after the other. An endpoint gives no likelihoods and is left out."""
    loader = Loader(context.folder)
    scores: dict[str, HarnessScores] = {}
    for model in models:
        if not isinstance(model, LocalModel):
            context.progress.say(f"{model_label(model)}: lm-evaluation-harness is not asked of endpoints")
            continue
        context.progress.say(f"{model.label}: lm-evaluation-harness, {', '.join(harness.section.tasks)}")
        tokenizer = loader.renderer(model, chat=harness.section.chat_template).tokenizer
        scores[model.label] = harness.scores(loader.load(model), tokenizer, seed=context.recipe.seed)
    return HarnessResult(version=harness.version, scores=scores)


def scores_of(results: Mapping[str, Mapping[str, Any]]) -> HarnessScores:
    """The harness's own result document, `{task: {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": …}}`.

    A metric behind another filter than `none` is named with it, such as `exact_match (strict-match)`.
    """
    scores: HarnessScores = {}
    for task, entries in results.items():
        found: dict[str, tuple[float, float | None]] = {}
        for key, value in entries.items():
            metric, comma, chosen = key.partition(",")
            number = _number(value)
            if comma and number is not None and not metric.endswith("_stderr"):
                named = metric if chosen == "none" else f"{metric} ({chosen})"
                found[named] = (number, _number(entries.get(f"{metric}_stderr,{chosen}")))
        if found:
            scores[task] = found
    return scores


def _number(value: object) -> float | None:
    """Text such as "N/A" stands where the harness has no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _manager(section: HarnessSection) -> TaskManager:
    """An index of the tasks. The harness's own, thousands of files, are read only where one's own do not suffice."""
    from lm_eval.tasks import TaskManager

    folder = None if section.include_path is None else str(section.include_path)
    with quiet_libraries():
        if folder is not None:
            own = TaskManager(include_path=folder, include_defaults=False)
            if set(section.tasks) <= set(own.all_tasks):
                return own
        manager = TaskManager(include_path=folder)
    for position, task in enumerate(section.tasks):
        if task not in manager.all_tasks:
            raise RequestError(
                f"evaluate.harness.tasks[{position}]: lm-evaluation-harness {harness_version()} has no task {task}"
                f"{nearest_word(task, manager.all_tasks)}"
            )
    return manager


def _load(manager: TaskManager, section: HarnessSection, seed: int) -> dict[str, dict[str, Any]]:
    """The tasks with their data, as `TaskManager.load` gives them, with as many examples as the recipe says."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    for position, name in enumerate(section.tasks):
        try:
            with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()):
                for part, held in manager.load([name]).items():
                    loaded[part] |= held
        except (DatasetsError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
            raise RequestError(
                f"evaluate.harness.tasks[{position}]: the data of {name} is not here and could not be fetched: {error}"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError, ImportError, yaml.YAMLError) as error:
            raise RequestError(
                f"evaluate.harness.tasks[{position}]: the task {name} cannot be loaded: {error}"
            ) from error
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        # A task that says 0 has no examples to give. (So the harness's own command line has it.)
        if own is None or (section.num_fewshot is not None and own != 0):
            task.set_config(key="num_fewshot", value=section.num_fewshot or 0)
        task.set_fewshot_seed(seed=seed)
    return loaded
