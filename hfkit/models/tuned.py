"""The trained part of a model: an adapter beside the base, or all of the weights; saved and loaded as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from hfkit.errors import RequestError
from hfkit.models.loading import load_model
from hfkit.models.precision import Resolved
from hfkit.quiet import quiet_libraries
from hfkit.recipe import AdapterSection, ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter"
MODEL = "model"


def with_new_adapter(model: PreTrainedModel, settings: AdapterSection, *, quantised: bool) -> PreTrainedModel:
    """`model` with a fresh LoRA adapter (Hu et al. 2021, arXiv:2106.09685) in float32, the only part that is trained.

    Raises:
        RequestError: no layer bears a name in `settings.targets`.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets if settings.targets == "all-linear" else list(settings.targets),
        task_type="CAUSAL_LM",
    )
    with quiet_libraries():
        if quantised:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        try:
            return cast("PreTrainedModel", get_peft_model(model, config))
        except ValueError as error:
            raise RequestError(f"model.adapter.targets: {error}") from error


def save_tuned(model: PreTrainedModel, folder: Path) -> Path:
    """Save what was trained below `folder`: `adapter/` for an adapter, `model/` for all of the weights."""
    from peft import PeftModel

    target = folder / (ADAPTER if isinstance(model, PeftModel) else MODEL)
    with quiet_libraries():
        model.save_pretrained(target)
    return target


def load_tuned(settings: ModelSection, folder: Path) -> tuple[PreTrainedModel, Resolved]:
    """The base model with what a train stage left in `folder`, for inference."""
    if (folder / MODEL).is_dir():
        return load_model(settings.model_copy(update={"base": str(folder / MODEL), "revision": None}))
    base, precision = load_model(settings)
    return attach_adapter(base, folder), precision


def attach_adapter(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """`base` with the trained adapter of `folder`, in the base's own number format, so that nothing need be cast."""
    from peft import PeftModel

    with quiet_libraries():
        tuned = PeftModel.from_pretrained(base, folder / ADAPTER, autocast_adapter_dtype=False)
    tuned.eval()
    return cast("PreTrainedModel", tuned)
