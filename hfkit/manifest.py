"""The manifest of a run: its artifacts and what each was made with, so that a result can be traced and made again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from hfkit.artifact import Artifact


class Manifest(BaseModel):
    """`stages` holds every stage that is whole: its fingerprint, files, seed, cost, result and environment."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    stages: dict[str, Artifact]
