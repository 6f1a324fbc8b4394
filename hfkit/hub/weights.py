"""The trained weights as they are published: the adapter for its base on the Hub, or a model that stands by itself."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfkit.artifact import write_whole
from hfkit.errors import WorkError
from hfkit.hub.base_revision import trained_revision
from hfkit.hub.facts import RunFacts
from hfkit.hub.files import PlannedFile, files_below

if TYPE_CHECKING:
    from hfkit.models.drift import Drift

CARD = "README.md"
_ADAPTER_CONFIG = "adapter_config.json"
# Written when the merge is done, so that a publishing that was broken off does not merge again.
_MERGED = "merge.json"


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """The files with tokenizer, chat template and generation settings; `drift` where an adapter was merged."""

    files: tuple[PlannedFile, ...]
    drift: Drift | None = None


def published_weights(facts: RunFacts, folder: Path) -> PublishedWeights:
    """What the recipe publishes; files that have to be made are written below `folder`."""
    if facts.trains_adapter and facts.hub.weights == "merged":
        return _merged(facts, folder)
    return PublishedWeights(tuple(trained_files(facts, folder)))


def trained_files(facts: RunFacts, folder: Path) -> list[PlannedFile]:
    """What was trained, as it was trained. An adapter's settings name its base as the Hub does: the path that it has on
    this machine is nobody's business, and no use.

    Raises:
        WorkError: the adapter's settings are damaged.
    """
    trained = files_below(facts.trained_folder, but=(CARD,))
    if not facts.trains_adapter:
        return trained
    settings = facts.trained_folder / _ADAPTER_CONFIG
    try:
        written = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkError(f"{settings} is damaged: {error}; run the train stage again") from error
    written["base_model_name_or_path"] = facts.base_id
    written["revision"] = trained_revision(facts)
    folder.mkdir(parents=True, exist_ok=True)
    rewritten = folder / _ADAPTER_CONFIG
    write_whole(rewritten, json.dumps(written, indent=2, sort_keys=True) + "\n")
    kept = [file for file in trained if file.path != _ADAPTER_CONFIG]
    return [*kept, PlannedFile(_ADAPTER_CONFIG, rewritten)]


def _merged(facts: RunFacts, folder: Path) -> PublishedWeights:
    from hfkit.models.drift import Drift
    from hfkit.models.merging import merge_adapter

    merged, record = folder / "merged", folder / _MERGED
    folder.mkdir(parents=True, exist_ok=True)
    if not record.is_file():
        shutil.rmtree(merged, ignore_errors=True)
        drift = merge_adapter(facts.model, facts.folders["train"], merged).drift
        write_whole(record, drift.model_dump_json(indent=2) + "\n")
    drift = Drift.model_validate_json(record.read_text(encoding="utf-8"))
    return PublishedWeights(tuple(files_below(merged, but=(CARD,))), drift)
