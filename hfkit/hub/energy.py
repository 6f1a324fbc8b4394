"""How much energy training took, about: nobody measured it, so the estimate says what it supposes."""

from __future__ import annotations

from hfkit.environment import Hardware

# Board powers by their makers' data sheets, in watts. The first name that stands in a GPU's own counts.
_GPU_WATTS = (
    ("B200", 1000),
    ("H200", 700),
    ("H100", 700),
    ("A100", 400),
    ("L40", 300),
    ("L4", 72),
    ("A10", 150),
    ("T4", 70),
    ("V100", 300),
    ("RTX 5090", 575),
    ("RTX 4090", 450),
    ("RTX 3090", 350),
)
_OTHER_GPU_WATTS = 300
_MACHINE_WATTS = 100


def watts(hardware: Hardware) -> int:
    """What the machine is supposed to draw: 100 W for itself, and each GPU's board power."""
    return _MACHINE_WATTS + sum(_gpu_watts(name) for name in hardware.gpus)


def energy_sentence(seconds: float, hardware: Hardware) -> str:
    drawn = watts(hardware)
    supposed = f"{_MACHINE_WATTS} W for the machine" + (" and the board power of its GPUs" if hardware.gpus else "")
    return (
        f"Training took about {_amount(seconds * drawn / 3600)}, if {supposed} is supposed throughout ({drawn} W × "
        f"{seconds:,.0f} s). It was not measured."
    )


def _gpu_watts(name: str) -> int:
    return next((power for known, power in _GPU_WATTS if known in name), _OTHER_GPU_WATTS)


def _amount(watt_hours: float) -> str:
    return f"{watt_hours:.2g} Wh" if watt_hours < 100 else f"{watt_hours / 1000:.2g} kWh"
