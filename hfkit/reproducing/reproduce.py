"""Runs a finished run again under another name, and says whether the same came out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hfkit.artifact import Artifact, write_whole
from hfkit.environment import describe_environment, describe_hardware
from hfkit.errors import RequestError
from hfkit.pipeline import run_stages
from hfkit.preflight import require_ready
from hfkit.progress import Progress
from hfkit.recipe import Recipe, resolve_recipe
from hfkit.reproducing.comparison import Comparison, compare
from hfkit.reproducing.differences import Difference, Made, differences
from hfkit.reproducing.origin import Origin, find_origin
from hfkit.reproducing.pinning import Pin, pins_of, require_commits
from hfkit.reproducing.trust import require_trust
from hfkit.run import Run
from hfkit.stage import StageName
from hfkit.stages import wanted_stages

MARK = "reproduces.json"

# What has no bearing on what comes out, and would publish or keep things elsewhere.
_LEFT_OUT = ("hub=null", "track=[]")


class _Mark(BaseModel):
    """Says in a run's folder that it is another one made again, so that no other run is written over. `made` are the
    fingerprints of that one's stages: many runs have the same name."""

    model_config = ConfigDict(frozen=True)

    reproduces: str
    made: Mapping[StageName, str] = {}

    @classmethod
    def of(cls, origin: Origin) -> _Mark:
        made = {name: artifact.fingerprint for name, artifact in origin.stages.items()}
        return cls(reproduces=origin.manifest.recipe, made=made)


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can be made again here.

    Attributes:
        recipe: of the new run, with the commits of models that the old one was made with.
        stages: those that were made then and that the recipe still has.
        found: what differs on this machine, as far as it shows before anything is run.
        remarks: what else should be known; full sentences.
    """

    origin: Origin
    recipe: Recipe
    stages: tuple[StageName, ...]
    found: tuple[Difference, ...]
    remarks: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return Run(self.recipe).folder


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A run that was made again. `found` is what differed in the making; `was_there` says that nothing had to be run,
    because it had been made again before."""

    comparison: Comparison
    found: tuple[Difference, ...]
    was_there: bool


def plan_reproduction(
    named: str,
    *,
    revision: str | None = None,
    to: str | None = None,
    overrides: Sequence[str] = (),
    allow_code: bool = False,
) -> Plan:
    """Fetch what `named` means, and say what differs here. Nothing of it is run, and no weights are loaded.

    Raises:
        RequestError: there is no such run; its recipe wants to run code, and `allow_code` is False; or it cannot be run
            here, because its data or its base model is not here, for example.
    """
    origin = find_origin(named, revision)
    recipe, pins = _recipe(origin, to, overrides, allow_code)
    stages = tuple(name for name in origin.stages if name in wanted_stages(recipe))
    if not stages:
        raise RequestError(
            f"{named}: of what was made then the recipe has no section, so there is nothing to make again"
        )
    _require_free(Run(recipe).folder, origin)
    remarks = require_commits(pins)
    require_ready(recipe, stages)
    _take_threads(origin)
    # GPUs, instructions and threads are known once it is loaded, which is not before the threads are set.
    import torch

    environment, threads = describe_environment(), torch.get_num_threads()
    there = {name: Made.as_recorded(origin.stages[name]) for name in stages}
    here = {name: Made.as_here(name, recipe, environment, threads) for name in stages}
    found = (*differences(there, here), *_of_processes(origin))
    return Plan(origin, recipe, stages, found, (*remarks, *_unknown(origin)))


def reproduce(plan: Plan, progress: Progress) -> Reproduction:
    """Run it again, and compare. What an earlier, interrupted reproduction left is gone on from."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    write_whole(plan.folder / MARK, _Mark.of(plan.origin).model_dump_json() + "\n")
    outcomes = run_stages(plan.recipe, plan.stages, progress)
    again: dict[StageName, Artifact] = {name: outcome.artifact for name, outcome in outcomes.items()}
    there, here = (
        {name: Made.as_recorded(artifact) for name, artifact in stages.items()}
        for stages in (plan.origin.stages, again)
    )
    return Reproduction(
        comparison=compare(plan.origin, again, plan.folder),
        found=tuple([*differences(there, here), *_of_processes(plan.origin)]),
        was_there=not any(outcome.made_now for outcome in outcomes.values()),
    )


def _recipe(origin: Origin, to: str | None, overrides: Sequence[str], allow_code: bool) -> tuple[Recipe, list[Pin]]:
    """The recipe of the new run, and the commits of models that were pinned in it."""
    resolved = resolve_recipe(origin.recipe)
    if len(resolved.files) > 1:
        raise RequestError(f"{origin.recipe}: extends {resolved.files[1]}, which no recipe does that a run has written")
    name = to if to is not None else f"{resolved.recipe.name}-again"
    laid_on = [f"name={name}", *_LEFT_OUT]
    model = resolved.recipe.model
    if model is not None and str(model.chat_template) == _template_name(origin):
        laid_on.append(f"model.chat_template={json.dumps(str(origin.template))}")
    # What the user says of a model goes before what then was.
    pins = [pin for pin in pins_of(resolved.recipe, origin.stages) if not any(map(pin.is_set_by, overrides))]
    recipe = resolve_recipe(origin.recipe, [*laid_on, *(pin.override for pin in pins), *overrides]).recipe
    require_trust(recipe, origin.name, allow_code=allow_code)
    return recipe, pins


def _template_name(origin: Origin) -> str | None:
    return None if origin.template is None else origin.template.name


def _require_free(folder: Path, origin: Origin) -> None:
    """Raises RequestError where a run of its own lies in `folder`."""
    if not folder.exists():
        return
    try:
        mark = _Mark.model_validate_json((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        raise RequestError(f"{folder}: is a run of its own; name another one with --to") from None
    if mark != _Mark.of(origin):
        other = "another run" if mark.reproduces == origin.manifest.recipe else "the run"
        raise RequestError(f"{folder}: is {other} {mark.reproduces} made again; name another one with --to")


def _take_threads(origin: Origin) -> None:
    """Compute with as many threads as then, unless the environment says how many, or there are fewer cores."""
    train = origin.stages.get("train")
    if train is None or "OMP_NUM_THREADS" in os.environ:
        return
    then, here = train.environment.hardware, describe_hardware()
    if (then.cores, then.threads) == (here.cores, here.threads):
        return
    threads = train.result.get("threads")
    if isinstance(threads, int) and 1 <= threads <= here.cores:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _of_processes(origin: Origin) -> list[Difference]:
    train = origin.stages.get("train")
    processes = 1 if train is None else train.result.get("processes", 1)
    if processes == 1:
        return []
    return [Difference(what="processes", there=str(processes), here="1", stages=("train",))]


def _unknown(origin: Origin) -> list[str]:
    older = [name for name, artifact in origin.stages.items() if not artifact.inputs]
    if not older:
        return []
    return [f"what went into {', '.join(older)} was not written down by the hfkit that made it, so it is not compared"]
