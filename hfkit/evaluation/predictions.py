"""What every model answered, row by row: the files `predictions/TASK.jsonl` of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hfkit.errors import WorkError
from hfkit.evaluation.rows import Answer, Row

FOLDER = "predictions"


class Prediction(BaseModel):
    """A line: a test row, each model's answer to it, and how each metric scores that row by itself.

    Attributes:
        answers: model -> answer.
        scores: model -> metric -> score; a metric that does not score the row is not in it.
    """

    model_config = ConfigDict(frozen=True)

    row: Row = Field(discriminator="kind")
    answers: dict[str, Answer]
    scores: dict[str, dict[str, float]]


def predictions_file(folder: Path, task: str) -> Path:
    """Where the evaluate stage's `folder` keeps what was answered in `task`."""
    return folder / FOLDER / f"{task}.jsonl"


def write_predictions(folder: Path, task: str, predictions: Iterable[Prediction]) -> None:
    path = predictions_file(folder, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for prediction in predictions:
            file.write(prediction.model_dump_json() + "\n")


def read_predictions(folder: Path, task: str) -> Iterator[Prediction]:
    """Line by line, since there may be a hundred thousand.

    Raises:
        WorkError: the file cannot be read, or a line is no prediction.
    """
    path = predictions_file(folder, task)
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield Prediction.model_validate_json(line)
                except ValidationError as error:
                    raise WorkError(f"{path}:{number}: no prediction ({error.error_count()} faults in it)") from error
    except (OSError, UnicodeDecodeError) as error:
        raise WorkError(f"{path}: cannot be read: {error}") from error
