"""The manifest of a run: its artifacts and what each was made with, so that a result can be traced and made again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from hfkit.artifact import Artifact
from hfkit.stage import StageName


class Manifest(BaseModel):
    """`stages` holds every stage that is whole: what went into it (its fingerprint, a hash of each input, the models
    that it read, its seed, the environment), and what came out (its files, its result, its cost)."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    stages: dict[StageName, Artifact]
