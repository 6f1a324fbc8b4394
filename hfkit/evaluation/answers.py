"""Answers that models have given, kept beside the run: nothing is asked twice, whatever becomes of the process.

`runs/NAME/.answers/MODEL-….jsonl` has a line an answer, written as soon as it is there. The file's name holds the
fingerprint of the model and of the settings, each line that of what was asked. So another metric or gate asks nothing
again, and a run that was killed asks what is missing. The folder may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from hfkit.artifact import fingerprint_of
from hfkit.evaluation.rows import Answer, Row

FOLDER = ".answers"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: str
    answer: Answer


def asked_of(row: Row) -> str:
    """The fingerprint of what a model is asked with `row`, whatever is right or known about it."""
    parts: dict[str, JsonValue] = row.model_dump(
        mode="json", exclude={"id", "group", "slices", "references", "facts", "correct"}
    )
    return fingerprint_of(parts)


class AnswerFile:
    """The answers of one model under some settings. Use it as a context manager.

    Args:
        folder: of the run.
        label: of the model, for people who look into the folder.
        identity: everything that an answer depends on beside what is asked.

    Attributes:
        damaged: lines that cannot be read, after entering; they are left in the file and hide no other.
    """

    def __init__(self, folder: Path, label: str, identity: Mapping[str, JsonValue]) -> None:
        self.path = folder / FOLDER / f"{label}-{fingerprint_of(identity)[:16]}.jsonl"
        self.damaged = 0
        self._known: dict[str, Answer] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> AnswerFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if self.path.exists() else 0
        self._file = self.path.open("a", encoding="utf-8")
        # What a killed process left of a line would spoil the next one.
        self._file.truncate(whole)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def known(self, row: Row) -> Answer | None:
        """The answer to what `row` asks; None where there is none yet."""
        return self._known.get(asked_of(row))

    def add(self, row: Row, answer: Answer) -> None:
        """Keep an answer; on the disk when this returns, as far as the operating system knows."""
        assert self._file is not None
        line = _Line(asked=asked_of(row), answer=answer)
        self._known[line.asked] = answer
        self._file.write(line.model_dump_json() + "\n")
        self._file.flush()

    def _read(self) -> int:
        """Read all whole lines, and return how many bytes they have together, those that are damaged among them."""
        whole = 0
        with self.path.open("rb") as file:
            for text in file:
                if not text.endswith(b"\n"):
                    break
                whole += len(text)
                try:
                    line = _Line.model_validate_json(text)
                except ValidationError:
                    self.damaged += 1
                else:
                    self._known[line.asked] = line.answer
        return whole
