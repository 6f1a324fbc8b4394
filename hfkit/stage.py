"""A stage: what it reads of the recipe, what it needs before it, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, JsonValue

from hfkit.artifact import Artifact
from hfkit.progress import Progress
from hfkit.recipe import Recipe

StageName = Literal["index", "data", "train", "evaluate", "publish"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)


class PartialResult(BaseModel):
    """Of a stage that finishes without an input that cannot be read, rather than not at all.

    `missing` names the inputs that may be readable at the next run, though nobody changes them. An artifact without
    them has a fingerprint of its own: so the next run makes it again, and, if that brings them, what depends on it.
    """

    model_config = ConfigDict(frozen=True)

    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a stage is given. `folder` is where it writes; `upstream` the finished folders of the stages it needs.

    Of many launched processes only the main one writes into `folder` (see hfkit.processes).
    """

    recipe: Recipe
    folder: Path
    upstream: Mapping[StageName, Path]
    progress: Progress


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run.

    Attributes:
        version: raised when the same recipe starts to give another artifact, so that old ones are made again.
        in_place: the stage changes its finished folder by transactions of its own (the index) and is never left torn;
            the others build a new folder beside the old one, which takes its place when it is whole.
        reads: the part of the recipe, and of the world outside (contents of files), on which the artifact depends.
        needs: the stages whose artifacts it reads.
        run: does the work and says what came of it.
        lost: of a stage that leaves something elsewhere: asked before its artifact is kept, says why that is not there
            any more, so that the stage runs again; None where it is.
        on_all_ranks: where many processes were launched, all of them run it; the others wait for the main one.
    """

    name: StageName
    version: int
    in_place: bool
    reads: Callable[[Recipe], Mapping[str, JsonValue]]
    needs: Callable[[Recipe], tuple[StageName, ...]]
    run: Callable[[StageContext], BaseModel]
    on_all_ranks: bool = False
    lost: Callable[[StageContext, Artifact], str | None] | None = None
