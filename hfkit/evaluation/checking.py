"""What can be known of an evaluation before anything is loaded or asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from hfkit.data.sources import check_source
from hfkit.errors import RequestError
from hfkit.recipe import AnyTask, CodeTask, Endpoint, LoadedModel, Recipe

Checked = tuple[str, Literal["ok", "note", "error"], str]
"""The key that was looked at, how it stands, and what to do about it."""


def check_evaluation(recipe: Recipe) -> Iterator[Checked]:
    """Whether the tasks' data and code are there, and the endpoints' keys. Models are looked at elsewhere."""
    assert recipe.evaluate is not None
    for number, task in enumerate(recipe.evaluate.tasks):
        if not isinstance(task, str):
            yield _task(f"evaluate.tasks.{number}", task, recipe)
    for number, model in enumerate(recipe.evaluate.models or ()):
        if isinstance(model, Endpoint):
            yield _key(f"evaluate.models.{number}", model)
    if recipe.evaluate.judge is not None and recipe.evaluate.judge.endpoint is not None:
        yield _key("evaluate.judge.endpoint", recipe.evaluate.judge.endpoint)


def loaded_references(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The key and the name of every model that is loaded from elsewhere; adapters are left out."""
    assert recipe.evaluate is not None
    for number, model in enumerate(recipe.evaluate.models or ()):
        if isinstance(model, LoadedModel) and not is_run_or_adapter(Path(model.load)):
            yield f"evaluate.models.{number}.load", model.load
    if recipe.evaluate.judge is not None and recipe.evaluate.judge.load is not None:
        yield "evaluate.judge.load", recipe.evaluate.judge.load


def is_run_or_adapter(folder: Path) -> bool:
    """Whether `folder` is an adapter, or what a train stage left."""
    return any((folder / name).exists() for name in ("adapter_config.json", "adapter", "model"))


def _task(key: str, task: AnyTask, recipe: Recipe) -> Checked:
    from hfkit.evaluation.tasks.code import check_code

    assert not isinstance(task, str)
    if isinstance(task, CodeTask):
        if not recipe.allow_code:
            words = "a recipe runs Python files only if it says so; if you trust this one, add allow_code: true"
            return f"{key}.file", "error", f"{task.file}: {words}"
        try:
            check_code(task)
        except RequestError as error:
            return f"{key}.file", "error", str(error).removeprefix("evaluate.tasks: ")
        return f"{key}.file", "ok", f"{task.file} will be called"
    severity, text = check_source(task.source("test"))
    return f"{key}.{'path' if task.hub is None else 'hub'}", severity, text


def _key(key: str, endpoint: Endpoint) -> Checked:
    if endpoint.key_env is not None and not os.environ.get(endpoint.key_env):
        return f"{key}.key_env", "error", f"the environment variable {endpoint.key_env} is not set"
    return key, "note", f"{endpoint.endpoint} will be asked for {endpoint.model}"
