"""What every section of a recipe is made of: a strict, frozen model, and the few types its fields share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from annotated_types import MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

BROKEN_RULE = "broken_rule"


class Section(BaseModel):
    """A mapping in a recipe. Unknown keys, text in the place of numbers, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Expected:
    """How an error names what a key may hold, where the type alone does not say it well.

    Attributes:
        phrase: follows "expected", such as "a file's path".
        many: follows "a list of", such as "paths".
    """

    phrase: str
    many: str


def broken_rule(key: str | tuple[str | int, ...], message: str) -> PydanticCustomError:
    """An error with a message of its own, about `key` of the section at hand, or what stands at that path below it
    (empty: about the value itself)."""
    path = key if isinstance(key, tuple) else (key,) if key else ()
    return PydanticCustomError(BROKEN_RULE, "{message}", {"key": path, "message": message})


def _printable(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def _usable(path: Path) -> Path:
    _printable(str(path))
    if str(path) == ".":
        raise ValueError("names no file")
    return path


Text = Annotated[str, MinLen(1), AfterValidator(_printable), Expected("text", "text")]
"""Text that is not empty and that can be a file's name."""

PathOrGlob = Annotated[str, MinLen(1), AfterValidator(_printable), Expected("a path or a glob", "paths or globs")]
"""Files, kept as they were written; relative ones start at the working directory."""

Scalar: TypeAlias = str | int | float | bool | None
"""One plain value of a mapping whose keys are the user's own."""

FilePath = Annotated[Path, Field(strict=False), AfterValidator(_usable), Expected("a file's path", "paths")]
"""A path, kept as it was written; relative ones start at the working directory."""
