"""What can be wrong with a recipe, and where it stands."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from hfkit.errors import RequestError

KeyPath = tuple[str | int, ...]
"""The way from the top of a recipe to a value: names of keys, and positions in lists counted from 0."""


def one_line(text: str, limit: int = 80) -> str:
    """`text` cut to `limit` characters, with everything that would break a line of output escaped."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut if cut.isprintable() else json.dumps(cut)[1:-1]


def dotted(path: KeyPath) -> str:
    """`("data", "sources", 0, "path")` as `data.sources.0.path`, which is also how an override names it."""
    return ".".join(one_line(str(part), 60) for part in path)


@dataclass(frozen=True)
class Location:
    """Where something was said: in a file (lines and columns count from 1), or by an override.

    Attributes:
        file: the file's path as the user gave it; None for an override.
        line: None where the whole file is meant.
        column: known for syntax errors only.
        override: the override's text, `key.path=value`; None for a file.
        override_key: the dotted path of the key that the override sets.
    """

    file: str | None = None
    line: int | None = None
    column: int | None = None
    override: str | None = None
    override_key: str | None = None

    def __str__(self) -> str:
        if self.override is not None:
            return f"override {one_line(self.override)}"
        parts = [one_line(self.file or "", 4096), self.line, self.column]
        return ":".join(str(part) for part in parts if part is not None)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. `key` is the dotted path of the key at fault, empty where no key is."""

    location: Location
    key: str
    message: str

    def __str__(self) -> str:
        # An override already names its key: saying it twice would only make the line longer.
        if not self.key or self.key == self.location.override_key:
            return f"{self.location}: {self.message}"
        return f"{self.location}: {self.key}: {self.message}"


class RecipeError(RequestError):
    """A recipe that cannot be used. Its text holds every problem found, one a line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
