"""The loss of trained tokens: the same, and the same gradients, however little of the logits is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from hfkit.training import loss
from hfkit.training.collation import IGNORED, CollateTrainedPositions, TrainingRow
from hfkit.training.loss import TrainedTokenLoss, summed_cross_entropy, summed_head_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Family = Callable[..., "PreTrainedModel"]
MakeRows = Callable[..., list[TrainingRow]]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows of 500 words at a time, so that every test goes through several chunks and a part of one."""
    monkeypatch.setattr(loss, "_CHUNK_NUMBERS", 1500)


def plain_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.double().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def batch_of(rows: list[TrainingRow], layout: Any = "padded") -> dict[str, Any]:
    packs = [[row] for row in rows] if layout == "padded" else [rows[:2], rows[2:]]
    batch = CollateTrainedPositions(0, layout)(packs)
    del batch["shift_labels"]
    return batch


def without_labels(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name != "labels"}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


# Of numbers alone.


@given(
    lines=st.integers(1, 3),
    kept=st.integers(1, 7),
    vocabulary=st.sampled_from([2, 400, 1501]),
    ignored=st.floats(0, 1),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_chunks_have_the_loss_and_gradients_of_the_whole(
    lines: int, kept: int, vocabulary: int, ignored: float, bias: bool, seed: int
) -> None:
    """With any share of ignored labels, all of them included."""
    torch.manual_seed(seed)
    hidden = torch.randn(lines, kept, 6, requires_grad=True)
    head = nn.Linear(6, vocabulary, bias=bias)
    labels = torch.randint(vocabulary, (lines, kept)).masked_fill(torch.rand(lines, kept) < ignored, IGNORED)
    wanted = [hidden, *head.parameters()]
    exact = plain_loss(head(hidden), labels)
    expected = torch.autograd.grad(0.37 * exact, wanted)
    for found in (summed_head_loss(hidden, head, labels), summed_cross_entropy(head(hidden), labels)):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact.float(), atol=1e-4, rtol=1e-5)
        for one, other in zip(torch.autograd.grad(0.37 * found, wanted), expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_in_bfloat16_gradients_are_as_near_as_those_of_the_whole() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(2, 40, 32), nn.Linear(32, 500, bias=False)
    labels = torch.randint(500, (2, 40))

    def gradient(dtype: torch.dtype, summed: Callable[[torch.Tensor, nn.Linear], torch.Tensor]) -> torch.Tensor:
        states = hidden.to(dtype).requires_grad_()
        layer = nn.Linear(32, 500, bias=False).to(dtype)
        layer.weight.data.copy_(head.weight)
        return torch.autograd.grad(summed(states, layer), states)[0].double()

    exact = gradient(torch.float64, lambda states, layer: plain_loss(layer(states), labels))
    whole = gradient(torch.bfloat16, lambda states, layer: plain_loss(layer(states), labels))
    chunked = gradient(torch.bfloat16, lambda states, layer: summed_head_loss(states, layer, labels))
    assert (chunked - exact).norm() <= 1.05 * (whole - exact).norm()


def test_no_gradient_is_computed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In validation a gradient of the output layer would be as large as the layer."""
    head, made = nn.Linear(6, 500), []
    plain = torch.zeros_like
    monkeypatch.setattr(torch, "zeros_like", lambda *given, **named: made.append(given) or plain(*given, **named))
    with torch.no_grad():
        summed_head_loss(torch.randn(1, 4, 6), head, torch.tensor([[1, 2, 3, 4]]))
    assert not made
    summed_head_loss(torch.randn(1, 4, 6), head, torch.tensor([[1, 2, 3, 4]]))
    assert len(made) == 2


# In models.

WAYS = {
    "llama": "in the output layer",
    "qwen3": "in the output layer",
    "gemma": "in the output layer",
    "gpt2": "in the output layer",
    "gpt_neox": "in the output layer",
    "phi": "in the output layer",
    "qwen3_moe": "in the output layer",
    "gemma2": "at trained positions",
    "granite": "at trained positions",
    "cohere": "at trained positions",
}
SETTINGS: dict[str, dict[str, object]] = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma2": {"final_logit_softcapping": 5.0},
    "granite": {"logits_scaling": 3.0},
}


@pytest.mark.parametrize("family", WAYS)
@pytest.mark.parametrize("layout", ["padded", "blocks"])
def test_a_model_has_the_loss_and_gradients_that_it_had_before(
    tiny_family: Family, make_rows: MakeRows, family: str, layout: str
) -> None:
    """The way is found out by trying: what a model does to logits after its output layer is not lost."""
    model = tiny_family(family, **SETTINGS.get(family, {}))
    batch = batch_of(make_rows(4, seed=3, turns=2), layout)
    exact = plain_loss(model(**without_labels(batch)).logits, batch["labels"])
    (exact / 9).backward()  # type: ignore[no-untyped-call]
    expected = gradients(model)
    rng = torch.get_rng_state()
    token_loss = TrainedTokenLoss(model)
    assert token_loss.way == WAYS[family], token_loss.reason
    assert torch.equal(torch.get_rng_state(), rng) and not model.training
    with token_loss.of(batch) as inputs:
        outputs = model(**without_labels(inputs))
    found = token_loss(outputs, batch["labels"], 9)
    torch.testing.assert_close(found, (exact / 9).float(), atol=1e-5, rtol=1e-5)
    found.backward()  # type: ignore[no-untyped-call]
    compare(gradients(model), expected)
    # Outside of `of` the model gives logits as ever.
    again = model(**without_labels(batch)).logits
    assert again.shape == (*batch["labels"].shape, 500)


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def largest_logits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows of logits are made float32 at once."""
    rows: list[int] = []
    plain = loss._loss_and_gradient

    def watched(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows.append(len(logits))
        return plain(logits, labels)

    monkeypatch.setattr(loss, "_loss_and_gradient", watched)
    yield rows


def test_logits_exist_for_a_chunk_of_trained_tokens_alone(
    tiny_family: Family, make_rows: MakeRows, largest_logits: list[int]
) -> None:
    model = tiny_family("llama")
    token_loss = TrainedTokenLoss(model)
    batch = batch_of(make_rows(6, turns=2))
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda head, inputs, logits: seen.append(logits.shape[1]))
    largest_logits.clear()
    with token_loss.of(batch) as inputs:
        model(**without_labels(inputs))
    trained = int(batch["labels"].ne(IGNORED).sum())
    assert sum(largest_logits) == trained < batch["labels"].numel()
    assert max(largest_logits) == 3


def test_an_adapter_on_the_output_layer_is_not_passed_over(tiny_family: Family, make_rows: MakeRows) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model: Any = get_peft_model(tiny_family("llama"), config)
    token_loss = TrainedTokenLoss(model)
    assert token_loss.way == "at trained positions"
    batch = batch_of(make_rows(3))
    with token_loss.of(batch) as inputs:
        token_loss(model(**without_labels(inputs)), batch["labels"]).backward()
    assert any("lm_head.lora_B" in name for name in gradients(model))


@pytest.mark.parametrize("frozen", [True, False])
def test_an_output_layer_that_is_tied_to_the_embeddings(tiny_family: Family, make_rows: MakeRows, frozen: bool) -> None:
    """Trained or not, its gradient is the sum of both uses."""
    model = tiny_family("llama", tie_word_embeddings=True)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.get_input_embeddings().requires_grad_(not frozen)
    batch = batch_of(make_rows(4))
    plain_loss(model(**without_labels(batch)).logits, batch["labels"]).backward()  # type: ignore[no-untyped-call]
    expected = gradients(model)
    assert any("embed_tokens" in name for name in expected) is not frozen
    token_loss = TrainedTokenLoss(model)
    with token_loss.of(batch) as inputs:
        outputs = model(**without_labels(inputs))
    (token_loss(outputs, batch["labels"], 1)).backward()  # type: ignore[no-untyped-call]
    compare(gradients(model), expected)
