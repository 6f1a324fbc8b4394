"""`evaluate.harness`: tasks of lm-evaluation-harness that the same models are asked."""

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, MinLen
from pydantic import Field, model_validator

from hfkit.recipe.section import FilePath, Section, Text, broken_rule


class HarnessSection(Section):
    """What lm-evaluation-harness (the extra `harness`) runs on every model that is loaded here."""

    tasks: Annotated[tuple[Text, ...], MinLen(1), Field(strict=False)] = Field(
        description="Names of the harness's tasks, groups or tags."
    )
    include_path: FilePath | None = Field(
        default=None, description="A folder with task files (YAML) of one's own; the data may lie in it too."
    )
    limit: Annotated[int, Ge(1)] | None = Field(
        default=None, description="Rows of each task that are asked, from the first; null asks all."
    )
    num_fewshot: Annotated[int, Ge(0)] | None = Field(
        default=None, description="Examples before each question; null leaves it to the task."
    )
    batch_size: Annotated[int, Ge(1)] = Field(default=8, description="Rows that the harness computes together.")
    chat_template: bool = Field(
        default=False,
        description="Whether questions are put as messages through the model's chat template; the published figures "
        "of base models are without.",
    )

    @model_validator(mode="after")
    def _names_a_task_once(self) -> "HarnessSection":
        if len(set(self.tasks)) < len(self.tasks):
            raise broken_rule("tasks", "names a task twice")
        return self

    def files(self) -> list[Path]:
        """All that lies in the folder of task files: what the results depend on."""
        if self.include_path is None:
            return []
        return sorted(path for path in self.include_path.rglob("*") if path.is_file())
