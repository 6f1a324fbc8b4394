"""The memory plan of a recipe, as `hfkit check` tells it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hfkit.errors import RequestError
from hfkit.memory.advice import Advice, advise
from hfkit.memory.batches import Rows, largest_batch, rows_of
from hfkit.memory.plan import MEASURED_FAMILIES, MemoryPlan, plan_memory
from hfkit.memory.setting import GIBIBYTE, Devices, Setting, Sharding
from hfkit.memory.shape import shape_of
from hfkit.models.embedded import PREFIX, cached_folder, embedded_model
from hfkit.models.loading import locate
from hfkit.models.precision import resolve_precision
from hfkit.preflight import Finding
from hfkit.recipe import ModelSection, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_GPU_GIBIBYTES = 80.0


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """The plan, what it takes for granted, and what to change where it does not fit."""

    plan: MemoryPlan
    devices: Devices
    setting: Setting
    rows: Rows
    family: str
    parameters: int
    advice: tuple[Advice, ...]

    @property
    def fits(self) -> bool:
        return max(self.plan.total, self.before_dividing) <= self.devices.memory_bytes

    @property
    def before_dividing(self) -> int:
        """Bytes of the whole model, which DeepSpeed moves onto each GPU before it divides it by ZeRO-3; 0 elsewhere."""
        devices = self.devices
        moved = devices.kind == "gpu" and devices.spreads_weights and devices.sharding == "zero3"
        return self._whole_model if moved else 0

    @property
    def _whole_model(self) -> int:
        # As hfkit.models.trainable loads it.
        return self.parameters * (4 if self.setting.adapter is None else self.setting.number_bytes)

    def document(self) -> dict[str, Any]:
        """For `--json`; all sizes in bytes a device."""
        return {
            "device": asdict(self.devices),
            "model": {"family": self.family, "parameters": self.parameters},
            "batch": asdict(self.setting.batch),
            "bytes": {**dict(self.plan.parts()), "total": self.plan.total},
            "fits": self.fits,
            "assumptions": self.assumptions(),
            "advice": [asdict(one) for one in self.advice],
        }

    def lines(self) -> list[str]:
        """The finding, its remarks and its advice, in words."""
        sizes = ", ".join(f"{name} {_gib(size)}" for name, size in self.plan.parts())
        devices = self.devices
        where = "this machine" if devices.kind == "cpu" else f"each of {devices.count} GPUs ({devices.sharding})"
        if devices.kind == "gpu" and devices.count == 1:
            where = "the GPU"
        of = f"training takes {_gib(self.plan.total)} of {_gib(devices.memory_bytes)} GiB on {where}"
        told = [f"{of}: {sizes}", *self.assumptions()]
        if not self.fits:
            told.append("that does not fit; what to change, each on top of the one before:")
            told += [
                f"  {one.change}: gains {_gib(one.gain)} GiB, leaves {_gib(one.total)}; costs {one.cost}"
                for one in self.advice
            ]
            if self.before_dividing > devices.memory_bytes:
                told.append("  --sharding fsdp2: divides the model before it goes onto the GPUs; costs nothing")
            elif not self.advice or self.advice[-1].total > devices.memory_bytes:
                told.append("  and then a smaller model, or more or larger devices")
        return told

    def assumptions(self) -> list[str]:
        batch = self.setting.batch
        said = [
            f"at once: {batch.lines} x {batch.length} tokens"
            + ("" if self.rows.known else "; rows are taken to be as long as data.max_length allows, until data is run")
        ]
        if self.devices.spreads_weights:
            said.append(
                f"while it is loaded, each process holds the whole model in the memory of its machine: "
                f"{self.devices.count} x {_gib(self._whole_model)} GiB"
            )
        if self.before_dividing:
            said.append(
                f"DeepSpeed moves the whole model, {_gib(self.before_dividing)} GiB, onto each GPU before it divides "
                "it; fsdp2 does not"
            )
        if self.family not in MEASURED_FAMILIES:
            said.append(f"activations of the family {self.family} are estimated as those of a Llama of its sizes")
        return said


def devices_of(gpus: int | None, gpu_memory: float | None, sharding: Sharding | None) -> Devices:
    """The devices that the command names, by default one GPU of this machine or else its processor.

    Raises:
        RequestError: a size or a sharding is named without a number of GPUs.
    """
    if gpus is None:
        if gpu_memory is not None or sharding is not None:
            raise RequestError("--gpu-memory and --sharding say what the GPUs of --gpus are like; give that as well")
        return _this_machine()
    if gpus < 1 or (gpu_memory is not None and gpu_memory <= 0):
        raise RequestError("--gpus and --gpu-memory must be above zero")
    memory = round((gpu_memory or _GPU_GIBIBYTES) * GIBIBYTE)
    return Devices("gpu", gpus, memory, sharding or "ddp")


def check_sharing(recipe: Recipe, devices: Devices) -> Finding | None:
    """An error where the devices cannot share the training of the recipe: it would refuse to begin."""
    if recipe.train is None or recipe.model is None:
        return None
    if devices.spreads_weights and recipe.model.quantization is not None:
        return Finding(
            "model.quantization",
            "error",
            f"{recipe.model.quantization} weights are not divided by {devices.sharding}; take --sharding ddp or zero2, "
            "or leave them as they are",
        )
    if devices.spreads_weights and devices.sharding == "fsdp2" and recipe.train.optimizer != "adamw":
        return Finding(
            "train.optimizer",
            "error",
            f"{recipe.train.optimizer} does not work on weights that fsdp2 divides; use adamw, or another --sharding",
        )
    if recipe.train.batch_size >= devices.count:
        return None
    return Finding(
        "train.batch_size",
        "error",
        f"{recipe.train.batch_size} rows a step cannot be shared by {devices.count} GPUs; set it to {devices.count} or "
        "more, or take fewer",
    )


def report_memory(recipe: Recipe, prepared: Path, devices: Devices) -> MemoryReport | None:
    """The plan for the train stage of `recipe`; None where it trains nothing, or its model is not here yet.

    Args:
        prepared: the folder of the data stage, whether or not it is there yet.

    Raises:
        RequestError: the model's configuration cannot be read, or is not that of a causal model.
    """
    if recipe.model is None or recipe.train is None or recipe.data is None:
        return None
    config = _configuration(recipe.model)
    if config is None:
        return None
    try:
        shape = shape_of(config)
    except (ValueError, KeyError, AttributeError) as error:
        raise RequestError(f"{recipe.model.base}: no memory plan can be made of its configuration: {error}") from error
    rows = rows_of(recipe, prepared)
    setting = _setting(recipe, rows, devices)
    plan = plan_memory(shape, setting, devices)
    advice = tuple(advise(shape, setting, devices, devices.memory_bytes))
    return MemoryReport(plan, devices, setting, rows, shape.family, shape.parameters, advice)


def _setting(recipe: Recipe, rows: Rows, devices: Devices) -> Setting:
    assert recipe.model is not None and recipe.train is not None
    half = _is_half(recipe.model.precision, devices)
    end_to_end = half and devices.kind == "gpu" and find_spec("flash_attn") is not None
    batch = largest_batch(recipe, rows, devices, half=half, end_to_end=end_to_end)
    return Setting(
        batch=batch,
        number_bytes=2 if half else 4,
        adapter=recipe.model.adapter,
        quantization=recipe.model.quantization,
        optimizer=recipe.train.optimizer,
        gradient_checkpointing=recipe.train.gradient_checkpointing,
        accumulates=batch.lines * devices.count < recipe.train.batch_size,
    )


def _is_half(precision: Literal["auto", "bf16", "fp16", "fp32"], devices: Devices) -> bool:
    """GPUs that are not here are taken to have bfloat16."""
    if devices.kind == "gpu" and precision == "auto":
        return True
    return resolve_precision(precision).is_half


def _configuration(model: ModelSection) -> PreTrainedConfig | None:
    """config.json of a folder, of an embedded model that was fetched, or of the Hub; None where it is not here."""
    from transformers import AutoConfig

    if model.base.startswith(PREFIX) and not cached_folder(embedded_model(model.base)).is_dir():
        return None
    where = locate(model.base, model.revision)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(where.path_or_id, revision=where.revision)
    except OSError:
        return None
    except ValueError as error:
        raise RequestError(f"{model.base}: its configuration cannot be read: {error}") from error
    return config


def _this_machine() -> Devices:
    import psutil
    import torch

    if torch.cuda.is_available():
        return Devices("gpu", 1, torch.cuda.get_device_properties(0).total_memory)
    return Devices("cpu", 1, psutil.virtual_memory().total)


def _gib(size: int) -> str:
    return f"{size / GIBIBYTE:.2f}" if size < 10 * GIBIBYTE else f"{size / GIBIBYTE:.1f}"
