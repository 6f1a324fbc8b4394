"""Adds an adapter to its base for good: the result is a model like any other, without PEFT and with no layer more.

An adapter that was trained on quantised weights is added to the unquantised ones. It was fitted to the rounding of the
quantised ones, so the merged model answers a little differently: how much is measured.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel, ConfigDict

from hfkit.errors import RequestError
from hfkit.models.adapters import attach_adapter, find_adapter
from hfkit.models.base_identity import BASE, require_same_base
from hfkit.models.drift import PROMPTS, Drift, drift_between, log_probabilities
from hfkit.models.loading import load_model, load_tokenizer, load_weights
from hfkit.models.tuned import MODEL
from hfkit.quiet import quiet_libraries
from hfkit.recipe import ModelSection

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What the adapter's folder holds beside what goes to every model: no part of the merged one.
_OF_ADAPTERS = ("adapter_*", "README.md", BASE)


class MergeResult(BaseModel):
    """`folder` holds the merged model in safetensors with its tokenizer; `dtype` is the format of its weights."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    parameters: int
    dtype: str
    drift: Drift


def merge_adapter(settings: ModelSection, trained: Path, target: Path) -> MergeResult:
    """Write the unquantised base with the adapter of `trained` added to it to the folder `target`.

    The sum is made in float32 and rounded once, to the format in which the base's weights are stored. `target` appears
    whole or not at all.

    Args:
        settings: the model as it was trained, its quantisation included.
        trained: what a train stage or one of its kept checkpoints left, or an adapter.
        target: a folder that does not exist yet.

    Raises:
        RequestError: there is something at `target`; `trained` holds no whole adapter for this base.
    """
    if (trained / MODEL).is_dir():
        raise RequestError(
            f"{trained / MODEL}: all weights were trained, so there is nothing to merge; use it as it is"
        )
    if settings.trust_remote_code:
        raise RequestError(
            f"model.trust_remote_code: {settings.base} comes with Python code of its own, and merged weights would be "
            "a model of their own whose code no commit pins; use the adapter as it is"
        )
    place = find_adapter(trained)
    if target.exists():
        raise RequestError(f"{target} is there already; move it away, or name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        tokenizer = _save_tokenizer(settings, place, partial)
        prompts = [list(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
        dtype, parameters = _save_merged(settings, place, partial)
        drift = _measure_drift(settings, place, partial, prompts)
        # Readable as any folder is that the user makes; a temporary one is private.
        partial.chmod(target.parent.stat().st_mode & 0o777)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return MergeResult(folder=target, parameters=parameters, dtype=str(dtype).removeprefix("torch."), drift=drift)


def _save_tokenizer(settings: ModelSection, place: Path, partial: Path) -> PreTrainedTokenizerBase:
    """Beside the weights go the files that training left beside the adapter, and the tokenizer, if it is not one of
    them."""
    from transformers import AutoTokenizer

    shutil.copytree(place, partial, ignore=shutil.ignore_patterns(*_OF_ADAPTERS), dirs_exist_ok=True)
    with quiet_libraries():
        if (partial / "tokenizer_config.json").is_file():
            return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(partial))
        tokenizer = load_tokenizer(settings, chat=False)
        tokenizer.save_pretrained(partial)
    return tokenizer


def _save_merged(settings: ModelSection, place: Path, partial: Path) -> tuple[torch.dtype, int]:
    import torch

    base = load_weights(settings, torch.float32)
    require_same_base(base.config, place)
    stored = _stored_dtype(settings)
    generation = partial / "generation_config.json"
    kept = generation.read_bytes() if generation.is_file() else None
    adapted = cast("PeftModel", attach_adapter(base, place))
    with quiet_libraries():
        merged = cast("PreTrainedModel", adapted.merge_and_unload(safe_merge=True))
        cast("torch.nn.Module", merged).to(stored)
        merged.save_pretrained(partial)
    if kept is not None:
        generation.write_bytes(kept)
    parameters = merged.num_parameters()
    del base, adapted, merged
    gc.collect()
    return stored, parameters


def _stored_dtype(settings: ModelSection) -> torch.dtype:
    """The format of the base's own weights; float32 where its configuration names none."""
    import torch
    from transformers import AutoConfig

    from hfkit.models.loading import locate

    where = locate(settings.base, settings.revision)
    config = AutoConfig.from_pretrained(where.path_or_id, revision=where.revision)
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def _measure_drift(settings: ModelSection, place: Path, merged: Path, prompts: Sequence[Sequence[int]]) -> Drift:
    """Of the merged model from the adapter on the base as it was trained. One model at a time is in memory."""
    base, _ = load_model(settings)
    before = log_probabilities(attach_adapter(base, place), prompts)
    del base
    gc.collect()
    model, _ = load_model(settings.model_copy(update={"base": str(merged), "revision": None, "quantization": None}))
    return drift_between(before, log_probabilities(model, prompts))
