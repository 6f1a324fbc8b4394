"""A run's model that stands by itself: merged into the unquantised base, or as it is where all weights were trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from hfkit.errors import WorkError
from hfkit.models.drift import Drift
from hfkit.models.tuned import MODEL
from hfkit.recipe import ModelSection


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What a train stage left in `folder`, for the model of `settings`. `fingerprint` is that of its artifact."""

    name: str
    settings: ModelSection
    folder: Path
    fingerprint: str


@dataclass(frozen=True, slots=True)
class MergedModel:
    """`folder` holds safetensors weights with tokenizer and settings; `drift` is None where nothing was merged."""

    folder: Path
    dtype: str
    drift: Drift | None


def merged_model(trained: TrainedModel, folder: Path) -> MergedModel:
    """Write `trained` as a model without an adapter to `folder`, which is not there yet.

    Raises:
        RequestError: the adapter is not whole, or was trained on another base than that of the settings.
    """
    from hfkit.models.merging import merge_adapter

    if (trained.folder / MODEL).is_dir():
        shutil.copytree(trained.folder / MODEL, folder)
        return MergedModel(folder, _dtype(folder), None)
    merged = merge_adapter(trained.settings, trained.folder, folder)
    return MergedModel(folder, merged.dtype, merged.drift)


def _dtype(folder: Path) -> str:
    path = folder / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("dtype") or "float32")
    except (OSError, ValueError, AttributeError) as error:
        raise WorkError(f"{path} cannot be read: {error}; run the train stage again") from error
