"""The trained part of a model: an adapter beside the base, or all of the weights; saved and loaded as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

# with_new_adapter and attach_adapter are imported from here too.
from hfkit.models.adapters import ADAPTER, attach_adapter, with_new_adapter
from hfkit.models.base_identity import write_base
from hfkit.models.loading import load_model
from hfkit.models.precision import Resolved
from hfkit.quiet import quiet_libraries
from hfkit.recipe import ModelSection

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["ADAPTER", "MODEL", "attach_adapter", "load_tuned", "save_tuned", "with_new_adapter"]

MODEL = "model"


def save_tuned(model: PreTrainedModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """Save what was trained below `folder`: `adapter/` for an adapter, `model/` for all of the weights.

    An adapter fits the base as it was before training, however it was started, and says which base that was.
    `weights` are given where those of `model` are divided over processes.
    """
    from peft import PeftModel

    from hfkit.models.pissa import PissaModel

    with quiet_libraries():
        if not isinstance(model, PeftModel):
            model.save_pretrained(folder / MODEL, state_dict=weights)
            return folder / MODEL
        target = folder / ADAPTER
        if isinstance(model, PissaModel):
            model.save_for_untouched_base(target)
        else:
            # The tables under an adapter on them are the base's; PEFT would save them with it.
            model.save_pretrained(str(target), state_dict=weights, save_embedding_layers=False)
    write_base(model.config, target)
    return target


def load_tuned(settings: ModelSection, folder: Path) -> tuple[PreTrainedModel, Resolved]:
    """The base model with what a train stage left in `folder`, for inference.

    Raises:
        RequestError: the base cannot be had, or what is in `folder` is not whole or does not fit it.
    """
    if (folder / MODEL).is_dir():
        return load_model(settings.model_copy(update={"base": str(folder / MODEL), "revision": None}))
    base, precision = load_model(settings)
    return attach_adapter(base, folder), precision
