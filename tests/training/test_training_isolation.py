"""Which models may be given packed rows, and which layout is chosen for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

from hfkit.errors import RequestError
from hfkit.training.isolation import why_not_packable
from hfkit.training.layout import choose_layout
from hfkit.training.sampling import PlannedSteps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Family = Callable[..., "PreTrainedModel"]

ISOLATED: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "mistral": {"sliding_window": 8},
    "phi3": {},
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 4},
}

LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
# What carries one row into the next, and where it is said or else measured.
LEAKING: dict[str, tuple[dict[str, Any], str]] = {
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "layers of the kind conv "),
    "qwen3_5_text": (LINEAR, "layers of the kind linear_attention "),
    "llama4_text": (
        {"attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 64, "moe_layers": []},
        "layers of the kind chunked_attention",
    ),
    "mamba": ({"state_size": 8}, "loss changes with the other rows"),
    "mamba2": (
        {"state_size": 8, "num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1, "chunk_size": 16},
        "loss changes with the other rows",
    ),
    "bloom": ({"n_head": 4, "n_layer": 2}, "loss changes with the other rows"),
    "opt": ({"ffn_dim": 64, "word_embed_proj_dim": 32}, "loss changes with the other rows"),
}


@pytest.mark.parametrize("family", ISOLATED)
@pytest.mark.parametrize("half", [False, True])
def test_models_whose_attention_takes_a_block_mask_may_be_packed(tiny_family: Family, family: str, half: bool) -> None:
    model = tiny_family(family, **ISOLATED[family])
    model = model.to(torch.bfloat16) if half else model
    assert why_not_packable(model, "blocks", half_precision=half) is None


@pytest.mark.parametrize("family", LEAKING)
def test_models_that_carry_something_from_row_to_row_may_not(tiny_family: Family, family: str) -> None:
    changed, reason = LEAKING[family]
    why = why_not_packable(tiny_family(family, **changed), "blocks")
    assert why is not None and reason in why


class CountedPlaces(torch.nn.Embedding):
    """Position embeddings that go by a token's place in the batch, whatever positions are given."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.arange(positions.shape[1]).expand_as(positions))


def test_models_that_follow_no_positions_may_not(tiny_family: Family) -> None:
    """No row sees another, and still a row in a pack is not what it is alone."""
    model: Any = tiny_family("gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=64)
    assert why_not_packable(model, "blocks") is None
    model.transformer.wpe = CountedPlaces(64, 32)
    why = why_not_packable(model, "blocks")
    assert why is not None and "loss changes with its place in a pack" in why


@pytest.mark.parametrize(("family", "target"), [("llama", "q_proj"), ("mamba", "in_proj")])
def test_an_adapter_changes_nothing(tiny_family: Family, family: str, target: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_family(family)
    before = why_not_packable(model, "blocks")
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=[target], task_type="CAUSAL_LM"))
    assert why_not_packable(adapted, "blocks") == before
    assert (before is None) == (family == "llama")


@pytest.mark.parametrize("training", [False, True])
def test_the_probe_leaves_no_trace(tiny_family: Family, training: bool) -> None:
    """Neither in the random numbers that dropout will draw, nor in the model's mode and gradients."""
    model = tiny_family("llama", attention_dropout=0.5).train(training)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert why_not_packable(model, "blocks") is None
    assert torch.equal(torch.rand(4), expected)
    assert model.training is training and all(weight.grad is None for weight in model.parameters())


# What is chosen.


def choose(model: PreTrainedModel, wanted: Any, lengths: list[int], **changed: Any) -> tuple[str, str]:
    def plan(capacity: int | None) -> PlannedSteps:
        given = {"rows_a_step": 8, "micro_batch_size": "auto", "tokens_at_once": 4096, "seed": 0}
        return PlannedSteps(lengths, capacity=capacity, **{**given, **changed})

    chosen = choose_layout(wanted, model, plan, 512, half_precision=False, quantised=False)
    assert chosen.is_packed == (chosen.layout != "padded")
    return chosen.layout, chosen.reason


def test_what_the_recipe_says_is_obeyed(tiny_family: Family) -> None:
    model = tiny_family("llama")
    assert choose(model, False, [500, 1] * 40) == ("padded", "the recipe says so")
    assert choose(model, True, [100] * 80) == ("blocks", "the recipe says so")


def test_packing_that_would_leak_is_refused_or_left_out(tiny_family: Family) -> None:
    model = tiny_family("mamba", state_size=8)
    with pytest.raises(RequestError, match=r"data\.packing: true is not possible with this model: a row's loss"):
        choose(model, True, [100] * 80)
    layout, reason = choose(model, "auto", [500] + [10] * 63, rows_a_step=64, tokens_at_once=1 << 20)
    assert layout == "padded" and "loss changes with the other rows" in reason


def test_auto_weighs_padding_against_the_block_mask(tiny_family: Family) -> None:
    model = tiny_family("llama")
    layout, reason = choose(model, "auto", [100] * 80)
    assert layout == "padded" and "packs of up to 512 tokens under a block mask cost about" in reason
    layout, reason = choose(model, "auto", [500] + [10] * 63, rows_a_step=64, tokens_at_once=1 << 20)
    assert layout == "blocks" and "times as much as rows grouped by length" in reason


def test_auto_chooses_the_same_each_time(tiny_family: Family) -> None:
    """By reckoning and not by a stopwatch: a continued run must be laid out as it was begun."""
    model = tiny_family("llama")
    lengths = [1 + (n * 37) % 200 for n in range(200)]
    assert len({choose(model, "auto", lengths) for _ in range(3)}) == 1


def test_without_flash_attention_the_models_own_attention_stays(tiny_family: Family) -> None:
    model = tiny_family("llama").to(torch.bfloat16)
    before = model.config._attn_implementation

    def plan(capacity: int | None) -> PlannedSteps:
        return PlannedSteps([9] * 9, rows_a_step=3, micro_batch_size=1, tokens_at_once=1, capacity=capacity, seed=0)

    chosen = choose_layout(True, model, plan, 512, half_precision=True, quantised=False)
    assert chosen.layout == "blocks" and model.config._attn_implementation == before
