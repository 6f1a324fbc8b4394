"""The tasks: each gives rows to ask, and names the metrics that score the answers."""

from __future__ import annotations

from collections.abc import Sequence

from hfkit.data.examples import Example
from hfkit.evaluation.tasks.conversations import conversations
from hfkit.evaluation.tasks.grounded_answers import grounded_answers
from hfkit.evaluation.tasks.task import Task
from hfkit.recipe import AnyTask, CodeTask, UsedTask

__all__ = ["Task", "load_task"]


def load_task(entry: AnyTask, test: Sequence[Example], *, allow_code: bool = False) -> Task:
    """The task that a recipe names. `test` are the recipe's own test rows.

    Raises:
        RequestError: its rows cannot be read, or are not what it needs.
    """
    if isinstance(entry, str):
        return grounded_answers(test) if entry == "grounded_answers" else conversations(test)
    if isinstance(entry, UsedTask):
        from hfkit.evaluation.tasks.builtin import builtin_task

        return builtin_task(entry)
    if isinstance(entry, CodeTask):
        from hfkit.evaluation.tasks.code import code_task

        return code_task(entry, allow_code=allow_code)
    from hfkit.evaluation.tasks.own import own_task

    return own_task(entry)
