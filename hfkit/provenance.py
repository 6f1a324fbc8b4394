"""What went into a stage, piece by piece: a fingerprint says that something differs, this says what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import JsonValue

from hfkit.artifact import ModelRecord, file_sha256, fingerprint_of
from hfkit.models.embedded import PREFIX, cached_folder, embedded_model
from hfkit.recipe import LoadedModel, Recipe
from hfkit.stage import StageName

# Sections of the recipe, whose keys are told apart. Other mappings have names of files as keys.
_SECTIONS = frozenset({"rag", "data", "model", "models", "train", "evaluate"})
# Inputs that name models, as NAME@COMMIT or with another word where nobody here knows the commit, and those that name
# datasets.
_MODELS = frozenset({"tokenizer", "embedder", "reranker", "models.base", "models.loaded", "models.judge"})
_DATASETS = frozenset({"sources", "tasks"})
_WITHOUT_COMMIT = re.compile(r"[\w.-]+(?:/[\w.-]+)?@(?![0-9a-f]{40}$)[^@]*")
# Of a model's files those that results depend on.
_WEIGHTS = (".safetensors", ".bin")
_SETTINGS = (".json", ".txt", ".jinja", ".model")
# The Hub's cache names large files by their SHA-256.
_SHA256 = re.compile(r"[0-9a-f]{64}")


def input_digests(reads: Mapping[str, JsonValue]) -> dict[str, str]:
    """A SHA-256 for each thing that a stage reads; of a section of the recipe one for each of its keys, as
    `train.epochs`. Hashes tell whether it was the same, and nothing of the paths of this machine."""
    return {key: fingerprint_of({name: value}) for key, name, value in _inputs(reads)}


def unknown_inputs(reads: Mapping[str, JsonValue]) -> frozenset[str]:
    """Those keys of `input_digests` that stand for models or data of the Hub at a commit that nobody here can say: the
    cache does not hold them, and the Hub could not be asked."""
    return frozenset(key for key, _, value in _inputs(reads) if _is_unknown(key, value))


def _inputs(reads: Mapping[str, JsonValue]) -> Iterator[tuple[str, str, JsonValue]]:
    """(key of `input_digests`, last part of it, value)."""
    for key, value in reads.items():
        if key in _SECTIONS and isinstance(value, dict):
            yield from ((f"{key}.{name}", name, part) for name, part in value.items())
        else:
            yield key, key, value


def _is_unknown(key: str, value: JsonValue) -> bool:
    if key in _MODELS:
        named = value.values() if isinstance(value, dict) else [value]
        return any(isinstance(name, str) and _WITHOUT_COMMIT.fullmatch(name) for name in named)
    return key in _DATASETS and _lacks_commit(value)


def _lacks_commit(value: JsonValue) -> bool:
    if isinstance(value, dict):
        return ("commit" in value and value["commit"] is None) or any(map(_lacks_commit, value.values()))
    return isinstance(value, list) and any(map(_lacks_commit, value))


def read_models(stage: StageName, recipe: Recipe) -> dict[str, ModelRecord]:
    """The models that `stage` reads, by what it reads them for; those that are not on this machine are left out."""
    records = {}
    for role, (reference, revision) in _references(stage, recipe).items():
        folder = model_folder(reference, revision)
        if folder is not None:
            # To prepare the data, the tokenizer alone is read.
            records[role] = record_model(reference, folder, weights=stage != "data")
    return records


def model_folder(reference: str, revision: str | None) -> Path | None:
    """Where the files of a model lie on this machine; None where they do not."""
    if reference.startswith(PREFIX):
        folder = cached_folder(embedded_model(reference))
        return folder if folder.is_dir() else None
    if Path(reference).is_dir():
        return Path(reference)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(reference, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def record_model(reference: str, folder: Path, *, weights: bool = True) -> ModelRecord:
    """The commit and the files of the model in `folder`, which is what `reference` stands for."""
    revision = None
    if reference.startswith(PREFIX):
        revision = embedded_model(reference).revision
    elif not Path(reference).is_dir():
        revision = folder.name
    suffixes = (*_WEIGHTS, *_SETTINGS) if weights else _SETTINGS
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in suffixes and path.is_file()]
    visible = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return ModelRecord(
        revision=revision, files={path.relative_to(folder).as_posix(): _content(path) for path in visible}
    )


def _references(stage: StageName, recipe: Recipe) -> dict[str, tuple[str, str | None]]:
    """What a stage reads models for -> how the recipe names them, and at which revision."""
    found: dict[str, tuple[str, str | None]] = {}
    asks = recipe.evaluate is not None and recipe.evaluate.asks_models
    if recipe.model is not None and (stage in ("data", "train") or (stage == "evaluate" and asks)):
        found["base"] = (recipe.model.base, recipe.model.revision)
    if recipe.rag is not None and stage == "index":
        found["embedder"] = (recipe.rag.embedder, recipe.rag.revision)
    if recipe.rag is not None and stage == "evaluate" and recipe.evaluate is not None:
        if recipe.evaluate.retrieval is not None:
            found["embedder"] = (recipe.rag.embedder, recipe.rag.revision)
        if recipe.evaluate.retrieval is not None and recipe.rag.search.rerank is not None:
            found["reranker"] = (recipe.rag.search.rerank, None)
    if recipe.evaluate is not None and stage == "evaluate":
        loaded = [model for model in recipe.evaluate.models or () if isinstance(model, LoadedModel)]
        found |= {f"model {model.name}": (model.load, model.revision) for model in loaded}
        if recipe.evaluate.judge is not None and recipe.evaluate.judge.load is not None:
            found["judge"] = (recipe.evaluate.judge.load, None)
    return found


def _content(path: Path) -> str:
    blob = path.resolve()
    if path.is_symlink() and _SHA256.fullmatch(blob.name):
        return blob.name
    stat = blob.stat()
    return _hashed(blob, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hashed(path: Path, size: int, mtime_ns: int) -> str:
    """Several stages read the same base model, whose weights are large."""
    return file_sha256(path)
