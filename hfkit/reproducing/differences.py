"""What differs between how a run was made and how it would be made here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from hfkit.artifact import Artifact, ModelRecord
from hfkit.environment import Code, Environment
from hfkit.provenance import input_digests, read_models
from hfkit.recipe import Recipe
from hfkit.stage import StageName
from hfkit.stages import STAGES

# How a recipe calls its models is another thing on another machine; what they are stands in `models`.
_NAMES_OF_MODELS = frozenset(
    {
        *("tokenizer", "embedder", "start_from", "rag.embedder", "rag.revision"),
        *("model.base", "model.revision", "model.chat_template"),
        *("models.model", "models.base", "models.loaded", "models.judge"),
    }
)
_MOST_FILES = 3


class Difference(BaseModel):
    """Something that was one thing when a stage was made and is another here. `stages` are those that it bears on."""

    model_config = ConfigDict(frozen=True)

    what: str
    there: str
    here: str
    stages: tuple[StageName, ...]

    @property
    def in_words(self) -> str:
        return f"{self.what}: {self.there} then, {self.here} here ({', '.join(self.stages)})"


@dataclass(frozen=True, slots=True)
class Made:
    """What a stage was made with, or would be. Of a stage that an older version made, little is known."""

    environment: Environment
    inputs: Mapping[str, str]
    models: Mapping[str, ModelRecord]

    @classmethod
    def as_recorded(cls, artifact: Artifact) -> Made:
        threads = artifact.result.get("threads")
        environment = artifact.environment
        # Training says how many it computed with; else the environment says how many it might have.
        if isinstance(threads, int):
            environment = with_threads(environment, threads)
        return cls(environment, artifact.inputs, artifact.models)

    @classmethod
    def as_here(cls, stage: StageName, recipe: Recipe, environment: Environment, threads: int) -> Made:
        """What `stage` would be made with now; `threads` are those that it would be trained with. Raises RequestError
        where files that it reads cannot be read."""
        if stage == "train":
            environment = with_threads(environment, threads)
        return cls(environment, input_digests(STAGES[stage].reads(recipe)), read_models(stage, recipe))


def with_threads(environment: Environment, threads: int) -> Environment:
    hardware = environment.hardware.model_copy(update={"threads": str(threads)})
    return environment.model_copy(update={"hardware": hardware})


def differences(there: Mapping[StageName, Made], here: Mapping[StageName, Made]) -> list[Difference]:
    """Everything that is known to differ, each once, over the stages that both have."""
    found: dict[tuple[str, str, str], list[StageName]] = {}
    for stage in there:
        if stage in here:
            for difference in _of_stage(there[stage], here[stage]):
                found.setdefault(difference, []).append(stage)
    return [Difference(what=w, there=t, here=h, stages=tuple(stages)) for (w, t, h), stages in found.items()]


def _of_stage(there: Made, here: Made) -> Iterator[tuple[str, str, str]]:
    yield from _of_environments(there.environment, here.environment)
    for key, digest in there.inputs.items():
        now = here.inputs.get(key)
        if now != digest and key not in _NAMES_OF_MODELS:
            yield f"what goes in as {key}", digest[:12], "nothing" if now is None else now[:12]
    for role, record in there.models.items():
        # What is not here yet is fetched, and looked at when the run is done.
        if role in here.models:
            yield from _of_models(role, record, here.models[role])


def _of_environments(there: Environment, here: Environment) -> Iterator[tuple[str, str, str]]:
    yield from _unequal("hfkit", there.hfkit, here.hfkit)
    yield from _of_code(there.code, here.code)
    yield from _unequal("Python", there.python, here.python)
    for name, version in there.versions.items():
        yield from _unequal(name, version, here.versions.get(name, "not installed"))
    yield from _unequal("system", there.platform, here.platform)
    yield from _unequal("processor", there.hardware.processor, here.hardware.processor)
    if there.hardware.instructions is not None and here.hardware.instructions is not None:
        yield from _unequal("vector instructions", there.hardware.instructions, here.hardware.instructions)
    yield from _unequal("threads", there.hardware.threads, here.hardware.threads)
    # Where PyTorch was not loaded, nobody asked for GPUs.
    if all(hardware.instructions is not None or hardware.gpus for hardware in (there.hardware, here.hardware)):
        yield from _unequal("GPUs", ", ".join(there.hardware.gpus) or "none", ", ".join(here.hardware.gpus) or "none")


def _of_code(there: Code, here: Code) -> Iterator[tuple[str, str, str]]:
    if there.content is not None and here.content is not None:
        if there.content != here.content:
            yield "the code of hfkit", _named(there), _named(here)
    elif there.commit != here.commit or there.changed or here.changed:
        yield "the commit of hfkit", _named(there), _named(here)


def _named(code: Code) -> str:
    commit = "no commit" if code.commit is None else f"commit {code.commit[:10]}"
    changed = " with changes" if code.changed else ""
    content = "" if code.content is None else f" (content {code.content[:12]})"
    return f"{commit}{changed}{content}"


def _of_models(role: str, there: ModelRecord, here: ModelRecord) -> Iterator[tuple[str, str, str]]:
    same_commit = there.revision is not None and there.revision == here.revision
    other = [
        path
        for path, digest in there.files.items()
        if here.files.get(path) != digest
        # Of one commit, what the cache does not hold was not needed here.
        and not (same_commit and path not in here.files)
    ]
    if not other:
        return
    names = ", ".join(other[:_MOST_FILES]) + (
        f" and {len(other) - _MOST_FILES} more" if len(other) > _MOST_FILES else ""
    )
    commits = "" if same_commit or there.revision is None else f"commit {there.revision[:10]}, "
    commits_here = "" if same_commit or here.revision is None else f"commit {here.revision[:10]}, "
    first = other[0]
    yield (
        f"{'the base model' if role == 'base' else f'the {role}'} ({names})",
        f"{commits}{there.files[first][:12]}",
        f"{commits_here}{here.files.get(first, 'missing')[:12]}",
    )


def _unequal(what: str, there: str, here: str) -> Iterator[tuple[str, str, str]]:
    if there != here:
        yield what, there, here
