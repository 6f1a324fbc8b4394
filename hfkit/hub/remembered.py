"""What this run has published before: the commits that it knows, kept in the run's folder."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hfkit.artifact import write_whole
from hfkit.hub.files import PlannedRepository

PUBLISHED = "published.json"


class Remembered(BaseModel):
    """The newest commit of a branch that this run made or saw, and the files that it put there."""

    model_config = ConfigDict(frozen=True)

    commit: str
    files: tuple[str, ...] = ()


class _Memory(BaseModel):
    model_config = ConfigDict(frozen=True)

    targets: dict[str, Remembered] = {}


def recall(folder: Path, repository: PlannedRepository, branch: str) -> Remembered | None:
    """What the run in `folder` knows of this branch."""
    return _read(folder).targets.get(_target(repository, branch))


def remember(folder: Path, repository: PlannedRepository, branch: str, known: Remembered) -> None:
    """Written at once and whole: whoever is stopped behind a commit must know it the next time."""
    targets = _read(folder).targets | {_target(repository, branch): known}
    write_whole(folder / PUBLISHED, _Memory(targets=targets).model_dump_json(indent=2) + "\n")


def _read(folder: Path) -> _Memory:
    """A file that is damaged makes nobody's commits known: publishing asks then, and overwrites nothing."""
    try:
        return _Memory.model_validate_json((folder / PUBLISHED).read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, ValidationError):
        return _Memory()


def _target(repository: PlannedRepository, branch: str) -> str:
    return f"{repository.kind}:{repository.id}@{branch}"
