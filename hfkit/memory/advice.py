"""What to change in a recipe that does not fit, in the order in which it is best tried, and what each change gains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hfkit.memory.plan import plan_memory
from hfkit.memory.setting import Devices, Setting
from hfkit.memory.shape import ModelShape
from hfkit.recipe import AdapterSection


@dataclass(frozen=True, slots=True)
class Advice:
    """A change of the recipe or of the command.

    Attributes:
        change: as it is written there.
        cost: what it costs, in words that follow "costs".
        gain: bytes a device, on top of the changes before it.
        total: bytes a device after it.
    """

    change: str
    cost: str
    gain: int
    total: int


@dataclass(frozen=True, slots=True)
class _Step:
    change: str
    cost: str
    setting: Setting
    devices: Devices


def advise(shape: ModelShape, setting: Setting, devices: Devices, budget: int) -> list[Advice]:
    """Changes, one on top of the other, until a device needs no more than `budget` bytes or nothing is left to try.
    What gains less than a hundredth is left out."""
    advice: list[Advice] = []
    before = plan_memory(shape, setting, devices).total
    for change in _CHANGES:
        step = change(setting, devices)
        if before <= budget:
            break
        if step is None:
            continue
        after = plan_memory(shape, step.setting, step.devices).total
        if before - after < before / 100:
            continue
        setting, devices = step.setting, step.devices
        advice.append(Advice(step.change, step.cost, before - after, after))
        before = after
    return advice


def _one_row_at_once(setting: Setting, devices: Devices) -> _Step | None:
    if setting.batch.lines == 1:
        return None
    changed = replace(setting, batch=replace(setting.batch, lines=1), accumulates=True)
    return _Step("train.micro_batch_size=1", "speed where rows are short, never the result", changed, devices)


def _checkpointing(setting: Setting, devices: Devices) -> _Step | None:
    if setting.gradient_checkpointing:
        return None
    changed = replace(setting, gradient_checkpointing=True)
    return _Step("train.gradient_checkpointing=true", "a second forward pass, never the result", changed, devices)


def _eight_bit_optimizer(setting: Setting, devices: Devices) -> _Step | None:
    if setting.optimizer != "adamw" or devices.kind == "cpu" or (devices.count > 1 and devices.sharding == "fsdp2"):
        return None
    return _Step("train.optimizer=adamw_8bit", "hardly any quality", replace(setting, optimizer="adamw_8bit"), devices)


def _spread(setting: Setting, devices: Devices) -> _Step | None:
    if devices.count == 1 or devices.spreads_weights or setting.quantization is not None:
        return None
    if setting.optimizer != "adamw":  # which does not work on divided weights
        return None
    return _Step("--sharding fsdp2", "traffic between the devices", setting, replace(devices, sharding="fsdp2"))


def _adapter(setting: Setting, devices: Devices) -> _Step | None:
    if setting.adapter is not None:
        return None
    changed = replace(setting, adapter=AdapterSection(), optimizer="adamw")
    return _Step("model.adapter.method=lora", "room for new knowledge", changed, devices)


def _nf4(setting: Setting, devices: Devices) -> _Step | None:
    if setting.adapter is None or setting.quantization == "nf4" or devices.spreads_weights:
        return None
    return _Step("model.quantization=nf4", "speed, and a little quality", replace(setting, quantization="nf4"), devices)


def _shorter_rows(setting: Setting, devices: Devices) -> _Step | None:
    batch = setting.batch
    if setting.batch.length <= 512:
        return None
    half = replace(batch, length=batch.length // 2, positions=min(batch.positions, batch.length // 2))
    return _Step(
        f"data.max_length={half.length}",
        "the rows that are longer",
        replace(setting, batch=half),
        devices,
    )


# Those that change nothing in the result come first, then those that change little, then those that lose something.
_CHANGES: tuple[Callable[[Setting, Devices], _Step | None], ...] = (
    _one_row_at_once,
    _checkpointing,
    _spread,
    _eight_bit_optimizer,
    _nf4,
    _adapter,
    _nf4,
    _shorter_rows,
)
