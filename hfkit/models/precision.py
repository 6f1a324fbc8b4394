"""The number format that a model computes in, chosen from what the hardware does natively."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hfkit.errors import RequestError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What `auto` became, and why, in words."""

    precision: Literal["bf16", "fp32"]
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def resolve_precision(wanted: Precision) -> Resolved:
    """bfloat16 where the hardware multiplies it natively, else float32; or what the recipe says.

    Emulated bfloat16 is slower than float32, so a CPU must have AVX512-BF16 or AMX for `auto` to pick it.

    Raises:
        RequestError: bf16 is asked for on a GPU that cannot do it.
    """
    import torch

    if wanted == "fp32":
        return Resolved("fp32", "the recipe asks for it")
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Resolved("bf16", f"{name} computes it natively")
        if wanted == "bf16":
            raise RequestError(f"model.precision: {name} has no bfloat16; use fp32")
        return Resolved("fp32", f"{name} has no bfloat16")
    if wanted == "bf16":
        return Resolved("bf16", "the recipe asks for it")
    capabilities = torch.cpu.get_capabilities()
    native = [label for key, label in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if capabilities.get(key)]
    if native:
        return Resolved("bf16", f"this CPU has {' and '.join(native)}")
    return Resolved("fp32", "this CPU has neither AVX512-BF16 nor AMX")
