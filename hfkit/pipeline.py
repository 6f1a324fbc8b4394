"""Runs the stages of a recipe: only those whose inputs changed, each leaving a whole artifact or none."""

from __future__ import annotations

import ctypes
import gc
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from pydantic import BaseModel, JsonValue

from hfkit.artifact import (
    Artifact,
    DamagedArtifact,
    fingerprint_of,
    forget_artifact,
    forget_leftovers,
    read_artifact,
    record_files,
    replace_folder,
    write_artifact,
    write_whole,
)
from hfkit.environment import describe_code, describe_environment
from hfkit.errors import UnknownOnHubError, WorkError
from hfkit.measure import Measure
from hfkit.processes import ALONE, Processes
from hfkit.progress import Progress
from hfkit.provenance import input_digests, read_models, unknown_inputs
from hfkit.ranks import Followers
from hfkit.recipe import Recipe, dump_recipe
from hfkit.run import RECIPE, Run
from hfkit.stage import PartialResult, Stage, StageName
from hfkit.stages import STAGES, closure


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """A stage of this execution: its artifact, and whether it was made now or was already there."""

    artifact: Artifact
    made_now: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """A finished run beside a recipe.

    Attributes:
        changed: the stages that would be made again, and which of their inputs are others now, as `train.epochs`; none
            where only a stage before or hfkit itself changed, or the artifact is of a version that did not record them.
        unknown: those of which nobody here can say it: they read what the Hub has, which could not be asked.
    """

    changed: Mapping[StageName, tuple[str, ...]]
    unknown: tuple[StageName, ...]


def run_stages(
    recipe: Recipe, wanted: Sequence[StageName], progress: Progress, processes: Processes = ALONE
) -> dict[StageName, StageOutcome]:
    """Bring the artifacts of `wanted`, and of all they need, up to date with `recipe`; in the order they were looked
    at.

    A stage is made again when the part of the recipe it reads, the files it reads, or an artifact it needs has changed,
    or when its artifact is damaged. Finished stages are kept whatever happens to a later one.

    Where many processes were launched, call this in the main one, and `hfkit.ranks.follow` in the others.
    """
    run = Run(recipe)
    outcomes: dict[StageName, StageOutcome] = {}
    followers = Followers.of(processes)
    with run.locked():
        run.write_recipe()
        for name in closure(list(wanted), recipe):
            stage = STAGES[name]
            fingerprint = _fingerprint(stage, recipe, outcomes)
            artifact = _still_good(run, stage, fingerprint, progress)
            if artifact is None:
                made = _make(run, stage, fingerprint, outcomes, progress, followers)
                outcomes[name] = StageOutcome(made, made_now=True)
                run.write_manifest()
            else:
                progress.say(f"{name}: nothing changed, kept")
                outcomes[name] = StageOutcome(artifact, made_now=False)
                followers.skip(stage)
        run.write_manifest()
    followers.dismiss()
    return outcomes


def compare_with_finished(recipe: Recipe, wanted: Sequence[StageName]) -> Compared:
    """Which of `wanted`, and of all they need, `run_stages` would make again. All must have finished; nothing is made.

    Raises:
        WorkError: a stage has not finished.
        DamagedArtifact: an artifact is not whole.
        RequestError: what a stage reads cannot be read.
    """
    run = Run(recipe)
    outcomes: dict[StageName, StageOutcome] = {}
    changed: dict[StageName, tuple[str, ...]] = {}
    unknown: list[StageName] = []
    for name in closure(list(wanted), recipe):
        stage, artifact = STAGES[name], run.artifact(name)
        outcomes[name] = StageOutcome(artifact, made_now=False)
        try:
            reads = stage.reads(recipe)
        except UnknownOnHubError:
            unknown.append(name)
            continue
        fingerprint = _fingerprint_of_reads(stage, reads, recipe, outcomes)
        if artifact.fingerprint == _fingerprint_without(_missing_in(artifact), fingerprint):
            continue
        now, then, unsure = input_digests(reads), artifact.inputs, unknown_inputs(reads)
        others = {key for key in {**now, **then} if now.get(key) != then.get(key)} - unsure if then else set()
        if unsure and not others and not any(need in changed for need in stage.needs(recipe)):
            unknown.append(name)
            continue
        # What needs it is made again too.
        outcomes[name] = StageOutcome(artifact.model_copy(update={"fingerprint": fingerprint}), made_now=True)
        changed[name] = tuple(sorted(others))
    return Compared(changed, tuple(unknown))


def _missing_in(artifact: Artifact) -> PartialResult:
    return PartialResult.model_validate({"missing": artifact.result.get("missing", ())})


def _fingerprint(stage: Stage, recipe: Recipe, outcomes: Mapping[StageName, StageOutcome]) -> str:
    return _fingerprint_of_reads(stage, stage.reads(recipe), recipe, outcomes)


def _fingerprint_of_reads(
    stage: Stage, reads: Mapping[str, JsonValue], recipe: Recipe, outcomes: Mapping[StageName, StageOutcome]
) -> str:
    return fingerprint_of(
        {
            "stage": stage.name,
            "version": stage.version,
            "reads": dict(reads),
            "needs": {name: outcomes[name].artifact.fingerprint for name in stage.needs(recipe)},
        }
    )


def _unchanged_inputs(
    stage: Stage, recipe: Recipe, fingerprint: str, needed: Mapping[StageName, StageOutcome]
) -> Mapping[str, JsonValue]:
    """What the stage read. What is kept under a fingerprint must come from what it was taken of: raises WorkError where
    that changed."""
    reads = stage.reads(recipe)
    if _fingerprint_of_reads(stage, reads, recipe, needed) != fingerprint:
        raise WorkError(
            f"{stage.name}: the files that it reads changed while it ran, so that nobody could say what it was made "
            "from; run again once they stand still"
        )
    return reads


def _fingerprint_without(result: BaseModel, fingerprint: str) -> str:
    """The fingerprint of an artifact that had to do without some of its inputs is not the one that is looked for."""
    if not isinstance(result, PartialResult) or not result.missing:
        return fingerprint
    return fingerprint_of({"fingerprint": fingerprint, "without": [*sorted(result.missing)]})


def _give_memory_back() -> None:
    """A stage's models are garbage when it ends; the next stage should not have to find room beside them."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        # It keeps what was freed, in pieces, until it is told to hand it over.
        ctypes.CDLL(None).malloc_trim(0)


def _still_good(run: Run, stage: Stage, fingerprint: str, progress: Progress) -> Artifact | None:
    """The artifact that is there, if it is whole and came from the same inputs, and nothing that it left elsewhere is
    lost."""
    try:
        artifact = read_artifact(run.finished(stage.name))
    except DamagedArtifact as error:
        progress.say(f"{stage.name}: {error}; the stage is run again")
        return None
    if artifact is None:
        return None
    if artifact.fingerprint != fingerprint:
        missing = artifact.result.get("missing")
        if isinstance(missing, list) and missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            progress.say(f"{stage.name}: {missing[0]}{more} could not be read last time, and is looked for again")
        return None
    lost = None if stage.lost is None else stage.lost(run.context(stage, progress), artifact)
    if lost is not None:
        progress.say(f"{stage.name}: {lost}; the stage is run again")
        return None
    return artifact


def _make(
    run: Run,
    stage: Stage,
    fingerprint: str,
    needed: Mapping[StageName, StageOutcome],
    progress: Progress,
    followers: Followers,
) -> Artifact:
    finished = _finished_but_not_in_place(run, stage, fingerprint)
    if finished is not None:
        progress.say(f"{stage.name}: was finished before and only had to be put in place")
        _put_in_place(run, stage)
        followers.skip(stage)
        return finished
    progress.say(f"{stage.name}: running")
    folder = run.open_workshop(stage, fingerprint)
    # Whoever edits the code while it runs does not change what was run.
    code = describe_code()
    forget_artifact(folder)
    write_whole(folder / RECIPE, dump_recipe(run.recipe))
    watched, logging = run.watched(stage), run.logging_to(stage.name)
    with watched, logging, Measure() as cost, followers.joining(stage, run.recipe):
        result = stage.run(run.context(stage, progress))
    _give_memory_back()
    reads = _unchanged_inputs(stage, run.recipe, fingerprint, needed)
    artifact = Artifact(
        stage=stage.name,
        fingerprint=_fingerprint_without(result, fingerprint),
        files=record_files(folder),
        seed=run.recipe.seed,
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(cost.seconds, 3),
        peak_memory_bytes=cost.peak_memory_bytes,
        environment=describe_environment(code),
        inputs=input_digests(reads),
        models=read_models(stage.name, run.recipe),
        result=result.model_dump(mode="json"),
    )
    write_artifact(folder, artifact)
    if not stage.in_place:
        _put_in_place(run, stage)
    return artifact


def _finished_but_not_in_place(run: Run, stage: Stage, fingerprint: str) -> Artifact | None:
    """What a process left that was killed after the work and before the renaming."""
    if stage.in_place:
        return None
    try:
        artifact = read_artifact(run.workshop(stage))
    except DamagedArtifact:
        return None
    return artifact if artifact is not None and artifact.fingerprint == fingerprint else None


def _put_in_place(run: Run, stage: Stage) -> None:
    replace_folder(run.workshop(stage), run.finished(stage.name))
    # Not before: until then, what is hidden (checkpoints) is what an interrupted stage goes on from.
    forget_leftovers(run.finished(stage.name))
