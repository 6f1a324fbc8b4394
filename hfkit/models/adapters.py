"""Adapters beside a frozen base model: a fresh one, a saved one, and several on one base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hfkit.errors import RequestError
from hfkit.models.base_identity import require_unmoved_base
from hfkit.quiet import quiet_libraries
from hfkit.recipe import AdapterSection

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

ADAPTER = "adapter"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

# Starting points that leave the base model's weights as they are, so that the adapter fits the untouched base.
_PLAIN_STARTS = (True, False, "gaussian")


def with_new_adapter(model: PreTrainedModel, settings: AdapterSection) -> PreTrainedModel:
    """`model` with a fresh adapter in float32, the only part that is trained.

    LoRA (Hu et al. 2021, arXiv:2106.09685), DoRA (Liu et al. 2024, arXiv:2402.09353), with the scale of rsLoRA
    (Kalajdzievski 2023, arXiv:2312.03732) or started from the base's largest singular vectors as PiSSA is (Meng et al.
    2024, arXiv:2404.02948).

    Raises:
        RequestError: no layer bears a name in `settings.targets`; PiSSA has no way to start some layer.
    """
    from peft import get_peft_model

    from hfkit.models.pissa import PissaModel

    config = adapter_config(settings)
    with quiet_libraries(), _targets_explained():
        if settings.init == "default":
            return cast("PreTrainedModel", get_peft_model(model, config))
        try:
            return cast("PreTrainedModel", PissaModel(model, config))
        except AttributeError as error:
            # PEFT looks for the one weight of a layer, and experts have one tensor for all of them.
            raise RequestError(
                "model.adapter.init: pissa starts linear layers alone, and this model has experts in one tensor; name "
                "its attention layers in model.adapter.targets, or use init: default"
            ) from error


def adapter_config(settings: AdapterSection) -> LoraConfig:
    """What PEFT calls the same."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets if settings.targets == "all-linear" else list(settings.targets),
        use_dora=settings.method == "dora",
        use_rslora=settings.rslora,
        init_lora_weights="pissa" if settings.init == "pissa" else True,
        task_type="CAUSAL_LM",
    )


@contextmanager
def _targets_explained() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise RequestError(f"model.adapter.targets: {error}") from error


def attach_adapter(model: PreTrainedModel, folder: Path, name: str = "default") -> PreTrainedModel:
    """`model` with the adapter of `folder` in use under `name`, beside those it has already; for inference.

    The adapter takes the base's own number format, so that nothing need be cast.

    Args:
        model: a base model, or what an earlier call gave.
        folder: an adapter, or a folder that holds one as `adapter/`.

    Raises:
        RequestError: there is no adapter, it is not whole, it does not fit the model, or the model moved on to other
            weights on the Hub since.
    """
    from peft import PeftModel

    place = find_adapter(folder)
    config = read_adapter_config(place)
    require_unmoved_base(model.config, place)
    module = _module_name(name)
    with quiet_libraries(), _fit_explained(place):
        if isinstance(model, PeftModel):
            if module in model.peft_config:
                raise RequestError(f"{folder}: there is an adapter with the name {name} already")
            model.load_adapter(place, module, autocast_adapter_dtype=False)
        else:
            adapted = PeftModel.from_pretrained(model, place, module, autocast_adapter_dtype=False, config=config)
            model = cast("PreTrainedModel", adapted)
        _require_all_weights(cast("PeftModel", model), place, module)
    use_adapter(model, name)
    model.eval()
    return model


def continue_adapter(model: PreTrainedModel, settings: AdapterSection, place: Path) -> PreTrainedModel:
    """As `with_new_adapter`, but the adapter's weights are those in the folder `place`.

    Raises:
        RequestError: they are not whole, or do not fit the model or the settings.
    """
    from peft import PeftModel

    adapted = with_new_adapter(model, settings)
    assert isinstance(adapted, PeftModel)
    held, made = read_adapter_config(place), adapted.peft_config["default"]
    # Those of experts PEFT sets itself.
    if (held.rank_pattern, held.alpha_pattern) != (made.rank_pattern, made.alpha_pattern):
        raise RequestError(
            f"model.adapter.start_from: the adapter in {place} has ranks or scales of their own in some layers, which "
            "a recipe cannot say"
        )
    with quiet_libraries(), _fit_explained(place):
        _require_all_weights(adapted, place, "default")
        adapted.load_adapter(place, "default", is_trainable=True)
    return cast("PreTrainedModel", adapted)


def use_adapter(model: PreTrainedModel, name: str | None) -> None:
    """Let `model` answer with the adapter `name` alone, or, with None, as the base model does.

    Raises:
        KeyError: no adapter was attached under that name.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        if name is None:
            return
        raise KeyError(name)
    if name is None:
        model.base_model.disable_adapter_layers()
        return
    if _module_name(name) not in model.peft_config:
        raise KeyError(name)
    model.base_model.enable_adapter_layers()
    model.set_adapter(_module_name(name), inference_mode=True)


def find_adapter(folder: Path) -> Path:
    """The folder itself where it is an adapter, else its `adapter/`.

    Raises:
        RequestError: neither holds one, or its weights are pickled.
    """
    for place in (folder / ADAPTER, folder):
        if not (place / CONFIG).is_file():
            continue
        if (place / WEIGHTS).is_file():
            return place
        if (place / "adapter_model.bin").is_file():
            raise RequestError(
                f"{place}: its weights are pickled, and unpickling a file can run any code in it. Load them with PEFT "
                f"where you trust their author, and save them again as {WEIGHTS}"
            )
        raise RequestError(f"{place} holds no {WEIGHTS}, so its adapter is not whole")
    raise RequestError(f"{folder} holds no adapter (there is no {CONFIG} in it or in its {ADAPTER}/)")


def read_adapter_config(place: Path) -> LoraConfig:
    """The settings in adapter_config.json.

    Raises:
        RequestError: they cannot be read, or the adapter is of a kind that hfkit does not load.
    """
    from peft import LoraConfig, PeftConfig

    with quiet_libraries():
        try:
            config = PeftConfig.from_pretrained(str(place))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{place / CONFIG} cannot be read: {error}") from error
    if not isinstance(config, LoraConfig):
        raise RequestError(f"{place}: an adapter of the kind {config.peft_type}; hfkit loads LoRA and its kin")
    # PEFT takes whatever stands there, and fails much later without naming it.
    for name, value in (("r", config.r), ("lora_alpha", config.lora_alpha), ("lora_dropout", config.lora_dropout)):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise RequestError(f"{place / CONFIG}: {name} is {value!r}; it must be a number")
    if config.init_lora_weights not in _PLAIN_STARTS:
        raise RequestError(
            f"{place}: its start ({config.init_lora_weights}) changed the weights of the base model, so that it does "
            "not fit the untouched one; have PEFT convert it to plain LoRA first "
            "(save_pretrained with path_initial_model_for_weight_conversion)"
        )
    return config


def _module_name(name: str) -> str:
    """PyTorch allows no full stop in the name of a part of a model."""
    return name.replace(".", "_")


@contextmanager
def _fit_explained(place: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()
        # Of an error about shapes the first line names the class alone.
        raise RequestError(
            f"{place}: the adapter does not fit this model, or is damaged ({reason[min(1, len(reason) - 1)].strip()})"
        ) from error


def _require_all_weights(model: PeftModel, place: Path, module: str) -> None:
    """PEFT loads what it finds and leaves the rest as it was made up."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    wanted = set(get_peft_model_state_dict(model, adapter_name=module, save_embedding_layers=False))
    with safe_open(place / WEIGHTS, framework="pt") as file:
        held = set(file.keys())
    if missing := sorted(wanted - held):
        raise ValueError(f"weights are missing, {missing[0]} among them")
    if surplus := sorted(held - wanted):
        raise ValueError(f"it has weights for parts that the model does not have, {surplus[0]} among them")
