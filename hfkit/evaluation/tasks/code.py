"""Tasks that a Python file makes. It is run only where the recipe says `allow_code: true`."""

from __future__ import annotations

import ast
import importlib.util
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from pydantic_core import PydanticSerializationError

from hfkit.errors import RequestError
from hfkit.evaluation.tasks.task import Task
from hfkit.recipe import CodeTask


def code_task(entry: CodeTask, *, allow_code: bool) -> Task:
    """The task that the function gives, called with the recipe's arguments, under the recipe's name for it.

    Raises:
        RequestError: the recipe does not allow code, or the function is not there, fails, or gives no task.
    """
    if not allow_code:
        raise RequestError(
            f"evaluate.tasks: {entry.file}: a recipe runs Python files only if it says so; if you trust this one, add "
            "the line allow_code: true to the recipe"
        )
    check_code(entry)
    name, _, function = entry.file.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"hfkit_task_{entry.name}", name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        # Standard output belongs to a verb's result.
        with redirect_stdout(sys.stderr):
            # Dataclasses and pickling look their module up by its name.
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            made = vars(module)[function](**entry.arguments)
    # Nobody knows what somebody else's code raises, and only the user's own interruption may pass.
    except (KeyboardInterrupt, RequestError):
        raise
    except BaseException as error:
        said = (str(error).strip() or "without a word").splitlines()[0]
        raise RequestError(f"evaluate.tasks: {entry.file}: {type(error).__name__}: {said}") from error
    if not isinstance(made, Task):
        kind = type(made).__name__
        raise RequestError(f"evaluate.tasks: {entry.file}: gave a {kind}; let it return a hfkit.evaluation.tasks.Task")
    if len({row.id for row in made.rows}) < len(made.rows):
        raise RequestError(f"evaluate.tasks: {entry.file}: two rows have the same id; each needs one of its own")
    for row in made.rows:
        try:
            row.model_dump_json()
        except PydanticSerializationError as error:
            raise RequestError(
                f"evaluate.tasks: {entry.file}: the row {row.id!a} holds what cannot be kept as JSON: {error}"
            ) from error
    return replace(made, name=entry.name, rows=tuple(made.rows[: entry.limit]))


def check_code(entry: CodeTask) -> None:
    """Whether the function stands in the file. Nothing of it is run.

    Raises:
        RequestError: there is no such file, it is no valid Python, or nothing in it has the function's name.
    """
    name, _, function = entry.file.rpartition(":")
    try:
        tree = ast.parse(Path(name).read_bytes(), filename=name)
    except OSError as error:
        raise RequestError(f"evaluate.tasks: {name}: cannot be read: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise RequestError(f"evaluate.tasks: {name}{line}: cannot be read as Python: {error}") from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body):
        raise RequestError(f"evaluate.tasks: {name} has no function {function} (def {function}(…) -> Task)")
