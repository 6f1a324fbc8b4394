"""Models of the Hub move on: a run is made again with the commits that it was made with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfkit.artifact import Artifact
from hfkit.errors import RequestError, hub_network_error
from hfkit.hub.base_revision import newest_commit
from hfkit.models.embedded import PREFIX
from hfkit.recipe import Recipe
from hfkit.stage import StageName

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Pin:
    """The commit of the Hub model `id` that a run was made with; `section` and `key` are where the recipe names it."""

    section: str
    key: str
    id: str
    commit: str

    @property
    def override(self) -> str:
        # Quoted, since a commit may look like a number.
        return f'{self.section}.revision="{self.commit}"'

    def is_set_by(self, override: str) -> bool:
        """Whether `override` says which model it is to be."""
        name = override.partition("=")[0].strip()
        return name in (self.section, f"{self.section}.{self.key}", f"{self.section}.revision")


def pins_of(recipe: Recipe, stages: Mapping[StageName, Artifact]) -> list[Pin]:
    """The commits that `stages` tell of, of models that `recipe` itself does not pin."""
    named: list[tuple[str, str, str, str | None, Sequence[StageName], str]] = []
    if recipe.model is not None:
        named.append(("model", "base", recipe.model.base, recipe.model.revision, ("train", "evaluate", "data"), "base"))
    if recipe.rag is not None:
        rag = recipe.rag
        named.append(("rag", "embedder", rag.embedder, rag.revision, ("index", "evaluate"), "embedder"))
    pins = []
    for section, key, reference, revision, order, role in named:
        commit = _commit(stages, order, role)
        if commit is not None and _is_on_hub(reference) and not _COMMIT.fullmatch(revision or ""):
            pins.append(Pin(section, key, reference, commit))
    return pins


def require_commits(pins: Sequence[Pin]) -> list[str]:
    """Sentences about models that moved on since the pinned commit.

    Raises:
        RequestError: a pinned commit is neither in the cache nor on the Hub any more.
    """
    said = []
    for pin in pins:
        _require_commit(pin)
        newest = newest_commit(pin.id)
        if newest is not None and newest != pin.commit:
            said.append(
                f"{pin.id} moved on to {newest[:10]} since; the run is made again with {pin.commit[:10]}, which it was "
                "made with"
            )
    return said


def _require_commit(pin: Pin) -> None:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(try_to_load_from_cache(pin.id, "config.json", revision=pin.commit), str):
        return
    network = hub_network_error()
    try:
        HfApi().model_info(pin.id, revision=pin.commit)
    except RevisionNotFoundError as error:
        raise RequestError(
            f"{pin.section}.revision: {pin.id} has the commit {pin.commit[:10]} no more, with which the run was made; "
            f"with another one it cannot come out the same. To see what comes out, say {pin.section}.revision=main"
        ) from error
    except RepositoryNotFoundError as error:
        raise RequestError(
            f"{pin.section}.{pin.key}: {pin.id}, with which the run was made, is not on the Hub any more, or the token "
            "may not see it"
        ) from error
    except (network, ConnectionError):
        # Whether it can be had shows when it is loaded, and is explained there.
        return


def _is_on_hub(reference: str) -> bool:
    return not reference.startswith(PREFIX) and not Path(reference).exists() and reference.count("/") == 1


def _commit(stages: Mapping[StageName, Artifact], order: Sequence[StageName], role: str) -> str | None:
    recorded = [stages[name].models[role].revision for name in order if name in stages and role in stages[name].models]
    return next((commit for commit in recorded if commit is not None and _COMMIT.fullmatch(commit)), None)
