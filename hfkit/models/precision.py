"""The number format that a model computes in, chosen from what the hardware does natively."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hfkit.errors import RequestError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "bf16", "fp16", "fp32"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What `auto` became, and why, in words."""

    precision: Literal["bf16", "fp16", "fp32"]
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[self.precision]

    @property
    def is_half(self) -> bool:
        """Whether a number takes two bytes."""
        return self.precision != "fp32"


def resolve_precision(wanted: Precision) -> Resolved:
    """bfloat16 where the hardware multiplies it natively, else float32; or what the recipe says.

    Emulated bfloat16 is slower than float32, so a CPU must have AVX512-BF16 or AMX for `auto` to pick it.

    Raises:
        RequestError: bf16 is asked for on a GPU that cannot do it.
    """
    import torch

    if wanted == "fp32" or wanted == "fp16":
        return Resolved(wanted, "the recipe asks for it")
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Resolved("bf16", f"{name} computes it natively")
        if wanted == "bf16":
            raise RequestError(f"model.precision: {name} has no bfloat16; use fp16 or fp32")
        return Resolved("fp32", f"{name} has no bfloat16")
    if wanted == "bf16":
        return Resolved("bf16", "the recipe asks for it")
    capabilities = torch.cpu.get_capabilities()
    native = [label for key, label in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if capabilities.get(key)]
    if native:
        return Resolved("bf16", f"this CPU has {' and '.join(native)}")
    return Resolved("fp32", "this CPU has neither AVX512-BF16 nor AMX")


def require_trainable(precision: Resolved) -> None:
    """Raises RequestError where training in this format is not possible here.

    float16 has so narrow a range that gradients vanish unless the loss is scaled up first, and that scaling
    (Micikevicius et al. 2017, arXiv:1710.03740) is there for GPUs alone.
    """
    import torch

    if precision.precision == "fp16" and not torch.cuda.is_available():
        raise RequestError(
            "model.precision: fp16 is trained on a GPU alone, where the loss is scaled so that small gradients do not "
            "vanish; use auto, bf16 or fp32 here"
        )
