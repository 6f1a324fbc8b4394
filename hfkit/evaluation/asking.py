"""Asks one model the rows of one task, those that it has not answered before, and keeps each answer at once."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import JsonValue

from hfkit.errors import RequestError
from hfkit.evaluation.answers import AnswerFile, asked_of
from hfkit.evaluation.models import AnyModel, Loader, LocalModel, model_label
from hfkit.evaluation.rows import Answer, Failed, GenerationRow, Row
from hfkit.evaluation.tasks.task import Task
from hfkit.progress import Progress
from hfkit.recipe import EndpointModel

if TYPE_CHECKING:
    from hfkit.data.rendering import Renderer

# Raised when the same model and rows give other answers than before, so that kept ones are not used.
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Asker:
    """What asking needs beside model and task.

    Attributes:
        run: the run's folder, beside whose stages answers are kept.
        identities: model -> what its answers depend on.
        max_new_tokens: of a reply, where a task says nothing else.
    """

    run: Path
    loader: Loader
    identities: Mapping[str, Mapping[str, JsonValue]]
    max_new_tokens: int
    batch_size: int | Literal["auto"]
    progress: Progress

    def ask(self, model: AnyModel, task: Task) -> list[Answer]:
        """One answer a row, in the rows' order.

        Raises:
            RequestError: the model cannot be loaded, or does not take what is asked of it.
            WorkError: an endpoint refuses what is asked of it.
        """
        label = model_label(model)
        passing: dict[str, Failed] = {}
        with AnswerFile(self.run, label, self._identity(model, task)) as file:
            missing = {asked_of(row): row for row in task.rows if file.known(row) is None}
            todo = list(missing.values())
            if todo:
                if file.damaged:
                    lines = "1 damaged line is" if file.damaged == 1 else f"{file.damaged} damaged lines are"
                    self.progress.say(f"{file.path}: {lines} skipped; answers that are missing are asked for again")
                done = len(task.rows) - len(todo)
                # Closed whatever happens: an endpoint's requests are then broken off here and now.
                asking = closing(self._answers(model, task, todo))
                with self.progress.bar(f"{label}: {task.name}") as update, asking as answers:
                    for number, answer in answers:
                        if isinstance(answer, Failed) and isinstance(model, EndpointModel):
                            # It may answer the next time.
                            passing[asked_of(todo[number])] = answer
                        else:
                            file.add(todo[number], answer)
                        done += 1
                        update(done, len(task.rows))
            return [file.known(row) or passing[asked_of(row)] for row in task.rows]

    def settings(self, task: Task) -> dict[str, JsonValue]:
        """How the rows of a task are asked."""
        if task.kind != "generation":
            return {"scored": "likelihood"}
        limit = self.max_new_tokens if task.max_new_tokens is None else task.max_new_tokens
        return {"decoding": "greedy", "max_new_tokens": limit}

    def _identity(self, model: AnyModel, task: Task) -> dict[str, JsonValue]:
        identity: dict[str, JsonValue] = {
            "version": _VERSION,
            "model": dict(self.identities[model_label(model)]),
            "settings": self.settings(task),
        }
        if isinstance(model, LocalModel):
            import torch
            import transformers

            # Another version, or another kind of device, rounds otherwise, and near ties fall otherwise.
            device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
            identity |= {"torch": torch.__version__, "transformers": transformers.__version__, "device": device}
        return identity

    def _answers(self, model: AnyModel, task: Task, rows: Sequence[Row]) -> Generator[tuple[int, Answer], None, None]:
        limit = self.settings(task).get("max_new_tokens")
        if isinstance(model, EndpointModel):
            from hfkit.evaluation.endpoint import chat_replies

            asked = [row for row in rows if isinstance(row, GenerationRow)]
            assert isinstance(limit, int) and len(asked) == len(rows)
            return chat_replies(model, asked, max_new_tokens=limit)
        renderer = self.loader.renderer(model, chat=any(row.kind != "text" and row.messages for row in rows))
        return self._local(model, renderer, rows, limit if isinstance(limit, int) else 0)

    def _local(
        self, model: LocalModel, renderer: Renderer, rows: Sequence[Row], limit: int
    ) -> Generator[tuple[int, Answer], None, None]:
        from hfkit.evaluation.generation import generate_each
        from hfkit.evaluation.likelihood import likelihoods_each

        loaded = self.loader.load(model)
        scored = [row for row in rows if not isinstance(row, GenerationRow)]
        if scored:
            yield from likelihoods_each(loaded, renderer, scored, batch_size=self.batch_size)
            return
        prompts: list[list[int]] = []
        places: list[int] = []
        for place, row in enumerate(rows):
            assert isinstance(row, GenerationRow)
            try:
                prompts.append(renderer.prompt_ids(row.messages, row.tools))
            except RequestError as error:
                yield place, Failed(reason=str(error))
            else:
                places.append(place)
        answers = generate_each(loaded, renderer, prompts, max_new_tokens=limit, batch_size=self.batch_size)
        for number, answer in answers:
            yield places[number], answer
