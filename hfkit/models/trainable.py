"""The model as it goes into training: all of its weights, or an adapter beside frozen ones, fresh or continued."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hfkit.errors import RequestError
from hfkit.launched import weights_are_divided
from hfkit.models.adapters import continue_adapter, find_adapter, read_adapter_config, with_new_adapter
from hfkit.models.base_identity import require_same_base
from hfkit.models.loading import load_model
from hfkit.models.precision import Resolved, require_trainable, resolve_precision
from hfkit.recipe import AdapterSection, ModelSection

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


def trainable_model(settings: ModelSection) -> tuple[PreTrainedModel, Resolved]:
    """The model that `settings` describes, with what is to be trained in float32 and all else frozen.

    Raises:
        RequestError: the model cannot be had, or not be trained as the recipe says; the adapter to start from is not
            whole, or was made for another base or with other settings.
    """
    require_trainable(resolve_precision(settings.precision))
    if settings.adapter is None:
        if settings.quantization is not None:
            raise RequestError("model.quantization: quantised weights cannot be trained themselves; give model.adapter")
        return load_model(settings, master_weights=True, on_cpu=weights_are_divided())
    if settings.quantization is not None and weights_are_divided():
        raise RequestError(
            f"model.quantization: {settings.quantization} weights are not divided by fsdp2 or deepspeed_zero3; launch "
            "with ddp or deepspeed_zero2, or leave the weights as they are"
        )
    # A model whose weights are to be divided may fit no GPU whole.
    on_cpu = weights_are_divided()
    start = settings.adapter.start_from
    if start is None:
        model, precision = load_model(settings, on_cpu=on_cpu)
        return with_new_adapter(model, settings.adapter), precision
    # All that can be said of the adapter is said before the base is loaded.
    place = find_adapter(start)
    _require_same_settings(settings.adapter, read_adapter_config(place), start)
    model, precision = load_model(settings, on_cpu=on_cpu)
    require_same_base(model.config, place)
    return continue_adapter(model, settings.adapter, place), precision


def _require_same_settings(wanted: AdapterSection, held: LoraConfig, folder: Path) -> None:
    """Raises RequestError where the recipe describes another adapter than the one in `folder`."""
    pairs = {
        "method": (wanted.method, "dora" if held.use_dora else "lora"),
        "rank": (wanted.rank, held.r),
        "alpha": (wanted.alpha, held.lora_alpha),
        "rslora": (wanted.rslora, held.use_rslora),
    }
    wrong = {key: held for key, (asked, held) in pairs.items() if asked != held}
    if wrong:
        asked = ", ".join(f"{key}: {pairs[key][0]}" for key in wrong)
        there = ", ".join(f"{key}: {str(value).lower()}" for key, value in wrong.items())
        raise RequestError(
            f"model.adapter.start_from: the adapter in {folder} has {there}, and the recipe says {asked.lower()}; "
            "write what it has"
        )
