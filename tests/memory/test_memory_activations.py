"""The activations of the memory plan against what PyTorch's autograd really saves, storage by storage."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from hfkit.memory.activations import LOGITS_AT_ONCE, activation_bytes, cast_bytes, layer_bytes
from hfkit.memory.setting import Batch, Setting
from hfkit.memory.shape import shape_of
from hfkit.recipe import AdapterSection

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LINES, LENGTH = 2, 64
LORA = AdapterSection(rank=8)
SIZES = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}


def saved_bytes(model: PreTrainedModel, inputs: dict[str, Any], *, half: bool) -> int:
    """Bytes of all storages that the forward pass saves for the backward pass, weights left out."""
    import torch
    from peft import PeftModel
    from peft.helpers import disable_input_dtype_casting

    weights = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # Holding it keeps its address from being given to another.
            saved[storage.data_ptr()] = storage
        return tensor

    uncast = disable_input_dtype_casting(model) if half and isinstance(model, PeftModel) else nullcontext()
    with (
        uncast,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
    ):
        model(**inputs).logits.sum()
    return sum(storage.nbytes() for storage in saved.values())


def measured_and_planned(
    family: str = "llama",
    *,
    adapter: AdapterSection | None = LORA,
    half: bool = False,
    rows: str = "padded",
    attention: str = "sdpa",
    checkpointing: bool = False,
) -> tuple[int, int]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hfkit.models.adapters import with_new_adapter

    config: PreTrainedConfig = AutoConfig.for_model(family, **SIZES, eos_token_id=1, bos_token_id=2)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config,
        dtype=torch.bfloat16 if half and adapter is not None else torch.float32,
        attn_implementation=attention,
    )
    if adapter is not None:
        model = with_new_adapter(model, adapter)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    positions = torch.arange(LENGTH).repeat(LINES, 1)
    inputs: dict[str, Any] = {
        "input_ids": torch.randint(3, 500, (LINES, LENGTH)),
        "position_ids": positions,
        "logits_to_keep": torch.tensor([LENGTH - 2]),
        "use_cache": False,
    }
    if rows == "packed":
        inputs["position_ids"] = positions % (LENGTH // 2)
    else:
        mask = torch.ones(LINES, LENGTH, dtype=torch.long)
        if rows == "padded":
            mask[0, :5] = 0
        inputs["attention_mask"] = mask
    setting = Setting(
        Batch(LINES, LENGTH, 1, masked=rows != "of one length"),
        2 if half else 4,
        adapter,
        gradient_checkpointing=checkpointing,
    )
    shape = shape_of(config, attention=attention)
    return saved_bytes(model, inputs, half=half), activation_bytes(shape, setting) + cast_bytes(shape, setting)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma3_text"])
def test_the_activations_of_each_family_are_those_that_are_saved(family: str) -> None:
    measured, planned = measured_and_planned(family)
    assert planned == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize(
    "how",
    [
        {"rows": "packed"},
        {"rows": "of one length"},
        {"half": True},
        {"half": True, "rows": "of one length"},
        {"adapter": None},
        {"adapter": None, "half": True},
        {"attention": "eager"},
        {"attention": "eager", "half": True},
        {"adapter": AdapterSection(rank=32)},
        {"adapter": AdapterSection(targets=("q_proj", "v_proj"))},
    ],
    ids=str,
)
def test_the_activations_of_each_way_to_train_are_those_that_are_saved(how: dict[str, Any]) -> None:
    measured, planned = measured_and_planned(**how)
    assert planned == pytest.approx(measured, rel=0.01)


def test_what_lies_below_the_first_adapter_may_be_less_than_planned() -> None:
    measured, planned = measured_and_planned(adapter=AdapterSection(targets=("down_proj",)))
    assert 0.5 * planned < measured < planned


def test_dropout_and_dora_are_counted_within_a_tenth() -> None:
    for adapter in (AdapterSection(rank=8, dropout=0.1), AdapterSection(rank=8, method="dora")):
        measured, planned = measured_and_planned(adapter=adapter)
        assert planned == pytest.approx(measured, rel=0.1), adapter


def test_with_checkpointing_the_forward_pass_keeps_what_goes_into_each_layer() -> None:
    from transformers import AutoConfig

    measured, planned = measured_and_planned(checkpointing=True)
    shape = shape_of(AutoConfig.for_model("llama", **SIZES))
    setting = Setting(Batch(LINES, LENGTH, 1, masked=True), 4, LORA)
    # The plan has one layer on top, which is computed again at a time.
    again = layer_bytes(shape, shape.layers[0], setting)
    assert planned - again == pytest.approx(measured, rel=0.2)
    assert measured < activation_bytes(shape, setting) / 5


def test_the_plan_knows_what_training_takes_at_once() -> None:
    """The plan imports no PyTorch, so it keeps its own copy of two figures."""
    from hfkit.memory.batches import LENGTH_STEP
    from hfkit.training import loss, microbatches

    assert LOGITS_AT_ONCE == loss._CHUNK_NUMBERS
    assert LENGTH_STEP == microbatches.LENGTH_STEP
