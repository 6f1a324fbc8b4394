"""Whether rows are packed on this device with this model, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hfkit.errors import RequestError
from hfkit.training.collation import Layout
from hfkit.training.isolation import why_not_packable
from hfkit.training.sampling import PlannedSteps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How much slower a floating-point operation of masked attention is than one of a matrix product. From the throughputs
# of SmolLM2-135M on two cores: rows of 230 tokens grouped by length against packs of 1,024 of them.
_ATTENTION_SLOWDOWN = 2.6
# A gain below this is within what the estimate may be wrong.
_WORTH_PACKING = 0.95


@dataclass(frozen=True, slots=True)
class ChosenLayout:
    """How packs are laid out, and the reason in words that follow "since"."""

    layout: Layout
    reason: str

    @property
    def is_packed(self) -> bool:
        return self.layout != "padded"


def choose_layout(
    wanted: Literal["auto"] | bool,
    model: PreTrainedModel,
    plan: Callable[[int | None], PlannedSteps],
    capacity: int,
    *,
    half_precision: bool,
    quantised: bool,
) -> ChosenLayout:
    """What the recipe says, or what is expected to be faster; never what would let rows see each other.

    auto decides by what can be known and not by a stopwatch: a run that is continued must be laid out as before, or its
    weights would differ in their last digits. Where FlashAttention is installed, it is switched on for packed rows.

    Args:
        wanted: `data.packing`.
        model: in the state in which it will be trained.
        plan: the steps with packs of a capacity, or with none.
        capacity: `data.max_length`.
        half_precision: whether the model is trained in bfloat16, as FlashAttention demands.
        quantised: whether its weights are.

    Raises:
        RequestError: packing is demanded, and the model cannot keep packed rows apart.
    """
    if wanted is False:
        return ChosenLayout("padded", "the recipe says so")
    before = model.config._attn_implementation
    if half_precision and _with_flash_attention(model):
        if why_not_packable(model, "end_to_end", half_precision=True, quantised=quantised) is None:
            return ChosenLayout("end_to_end", "FlashAttention reads rows laid end to end, with no padding at all")
        model.set_attn_implementation(before)
    reason = "the recipe says so"
    if wanted == "auto":
        grouped, packed = (plan(room).cost(_attention_length(model)) for room in (None, capacity))
        reason = (
            f"packs of up to {capacity:,} tokens under a block mask cost about {packed / grouped:.2f} times as much"
        )
        reason += " as rows grouped by length"
        if packed > _WORTH_PACKING * grouped:
            return ChosenLayout("padded", reason)
    fault = why_not_packable(model, "blocks", half_precision=half_precision, quantised=quantised)
    if fault is None:
        return ChosenLayout("blocks", reason)
    if wanted is True:
        raise RequestError(f"data.packing: true is not possible with this model: {fault}; set it to auto or false")
    return ChosenLayout("padded", fault)


def _with_flash_attention(model: PreTrainedModel) -> bool:
    """Switches to FlashAttention where it is installed and the model can use it."""
    from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

    installed = (
        ("flash_attention_3", is_flash_attn_3_available()),
        ("flash_attention_2", is_flash_attn_2_available()),
    )
    for name, there in installed:
        if there and model.device.type == "cuda":
            try:
                model.set_attn_implementation(name)
            except (ImportError, ValueError):
                # The model has no such attention, or the GPU is too old for it.
                continue
            return True
    return False


def _attention_length(model: PreTrainedModel) -> float:
    """The length of a line at which its attention takes as long as all else that is computed for it.

    Of a line of L tokens, a layer's attention multiplies 4 · L · width numbers a token, masked or not; all else two
    for each weight.
    """
    config = model.config.get_text_config()
    all_else = 2 * model.num_parameters(exclude_embeddings=True)
    attention = 4 * int(config.hidden_size) * int(config.num_hidden_layers)
    return all_else / (attention * _ATTENTION_SLOWDOWN)
