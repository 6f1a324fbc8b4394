"""The run that is to be made again: its recipe, its manifest and its weights, from a folder or from the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from hfkit.artifact import Artifact
from hfkit.data.card import DataResult
from hfkit.errors import RequestError, hub_network_error
from hfkit.evaluation.result import EvaluateResult
from hfkit.hub.failures import in_one_line
from hfkit.manifest import Manifest
from hfkit.recipe import load_recipe
from hfkit.run import MANIFEST, RECIPE, Run
from hfkit.stage import StageName

_RESULTS: Mapping[str, type[BaseModel]] = {"data": DataResult, "evaluate": EvaluateResult}
# As publishing writes it, beside the recipe that names it.
TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Origin:
    """A run as it was made.

    Attributes:
        name: how the user named it.
        folder: holds recipe.yaml and manifest.json.
        hub_id: where it was fetched from; None for a folder.
        revision: the commit that was fetched.
    """

    name: str
    folder: Path
    manifest: Manifest
    hub_id: str | None = None
    revision: str | None = None

    @property
    def recipe(self) -> Path:
        return self.folder / RECIPE

    @property
    def stages(self) -> Mapping[StageName, Artifact]:
        """What is made again: everything but publishing."""
        return {name: artifact for name, artifact in self.manifest.stages.items() if name != "publish"}

    @property
    def template(self) -> Path | None:
        """The chat template that lies beside a published recipe."""
        path = self.folder / TEMPLATE
        return path if path.is_file() else None

    def trained_file(self, path: str) -> Path | None:
        """A file that the train stage left, such as adapter/adapter_model.safetensors; None where it cannot be had. In
        a published repository it lies without its folder's name."""
        published = path.partition("/")[2]
        for place in (self.folder / "train" / path, self.folder / published):
            if place.is_file():
                return place
        if self.hub_id is None:
            return None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            with _fetching(self.name):
                return Path(hf_hub_download(self.hub_id, published, revision=self.revision))
        except EntryNotFoundError:
            return None


def find_origin(named: str, revision: str | None = None) -> Origin:
    """The run that `named` means: its folder, its recipe, a folder with what was published of it, or a Hub id.

    Of the Hub, recipe, manifest and chat template are fetched, and nothing of them is run.

    Raises:
        RequestError: there is no such run, it was not finished, or its files cannot be read or fetched.
    """
    path = Path(named)
    if path.is_dir():
        return _read(named, path)
    if path.is_file():
        return _read(named, Run(load_recipe(path)).folder)
    if named.startswith((".", "/", "~")) or named.count("/") != 1 or path.suffix in (".yaml", ".yml"):
        raise RequestError(f"{named}: there is no such run folder or recipe, and a Hub id has the form owner/name")
    return _fetch(named, revision)


def _read(named: str, folder: Path, hub_id: str | None = None, revision: str | None = None) -> Origin:
    for name in (RECIPE, MANIFEST):
        if not (folder / name).is_file():
            raise RequestError(
                f"{named}: there is no {name} in {folder}, so it is no run that was made with hfkit, or none that has "
                "finished a stage"
            )
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        # What is compared when the run is done has to be legible before it begins.
        for name, artifact in manifest.stages.items():
            if name in _RESULTS:
                _RESULTS[name].model_validate(artifact.result)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise RequestError(
            f"{path}: is damaged, or of another version of hfkit ({error.error_count()} faults in it)"
        ) from error
    origin = Origin(named, folder, manifest, hub_id, revision)
    if not origin.stages:
        raise RequestError(f"{named}: no stage of this run has finished, so there is nothing to make again")
    return origin


def _fetch(id: str, revision: str | None) -> Origin:
    from huggingface_hub import snapshot_download

    with _fetching(id):
        folder = Path(snapshot_download(id, revision=revision, allow_patterns=[RECIPE, MANIFEST, TEMPLATE]))
    return _read(id, folder, id, folder.name)


@contextmanager
def _fetching(id: str) -> Iterator[None]:
    """What keeps a published run from being fetched is said in one sentence."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    network = hub_network_error()
    try:
        yield
    except HFValidationError as error:
        raise RequestError(f"{id}: neither a run's folder nor a Hub id of the form owner/name") from error
    except RevisionNotFoundError as error:
        raise RequestError(f"{id}: there is no such branch, tag or commit; see --revision") from error
    except RepositoryNotFoundError as error:
        raise RequestError(
            f"{id}: there is no such run folder here and no such model on the Hub, or the token may not see it; "
            "`hf auth login` for a private one"
        ) from error
    except LocalEntryNotFoundError as error:
        raise RequestError(
            f"{id}: there is no such run folder, and it could not be fetched from the Hub ({in_one_line(error)})"
        ) from error
    except EntryNotFoundError:
        raise
    except (network, ConnectionError) as error:
        raise RequestError(f"{id}: could not be fetched from the Hub ({in_one_line(error)})") from error
