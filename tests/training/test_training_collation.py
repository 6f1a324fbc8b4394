"""Batches, and the loss and gradients on them, against the plain way: every logit, one row after another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn.functional import cross_entropy

from hfkit.training.collation import IGNORED, CollateTrainedPositions, TrainingRow
from hfkit.training.trainer import trained_token_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MakeRows = Callable[..., list[TrainingRow]]
Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_says_what_its_rows_say(make_rows: MakeRows, seed: int) -> None:
    rows = make_rows(1 + seed % 5, seed)
    batch = CollateTrainedPositions(pad_id=0)(rows)
    longest = max(len(row["input_ids"]) for row in rows)
    length = next(size for size in range(longest, longest + 32) if size % 32 == 0)
    kept = max(len(row["input_ids"]) - row["prompt_length"] for row in rows)
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()} == {
        "input_ids": ((len(rows), length), torch.int64),
        "attention_mask": ((len(rows), length), torch.int64),
        "position_ids": ((len(rows), length), torch.int64),
        "logits_to_keep": ((kept,), torch.int64),
        "labels": ((len(rows), kept), torch.int64),
        "shift_labels": ((len(rows), kept), torch.int64),
    }
    assert batch["logits_to_keep"].tolist() == list(range(length - kept - 1, length - 1))
    assert torch.equal(batch["labels"], batch["shift_labels"])
    for number, row in enumerate(rows):
        real = batch["attention_mask"][number].bool()
        assert batch["input_ids"][number][real].tolist() == row["input_ids"]
        assert set(batch["input_ids"][number][~real].tolist()) <= {0}
        assert batch["position_ids"][number][real].tolist() == list(range(len(row["input_ids"])))
        assert batch["position_ids"].min() == 0
        # Each label is the token after the position whose logits are kept for it.
        for position, label in zip(batch["logits_to_keep"].tolist(), batch["labels"][number].tolist(), strict=True):
            if label != IGNORED:
                assert batch["input_ids"][number, position + 1] == label
        labels = batch["labels"][number]
        assert labels[labels != IGNORED].tolist() == row["input_ids"][row["prompt_length"] :]


def gradients(model: PreTrainedModel) -> Gradients:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def reference(model: PreTrainedModel, rows: list[TrainingRow]) -> tuple[float, Gradients]:
    """Each row by itself, unpadded, all logits, in the plainest way."""
    trained = sum(len(row["input_ids"]) - row["prompt_length"] for row in rows)
    total = 0.0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        logits = model(input_ids=ids).logits[0]
        loss = torch.zeros(())
        for position in range(row["prompt_length"], len(row["input_ids"])):
            loss = loss - torch.log_softmax(logits[position - 1].double(), dim=0)[ids[0, position]].float() / trained
        loss.backward()
        total += float(loss)
    return total, gradients(model)


def in_micro_batches(model: PreTrainedModel, rows: list[TrainingRow], size: int) -> tuple[float, Gradients]:
    """As the trainer does it: the sum over each micro-batch, divided by the tokens of the whole step."""
    collate = CollateTrainedPositions(pad_id=0)
    trained = sum(len(row["input_ids"]) - row["prompt_length"] for row in rows)
    total = 0.0
    for start in range(0, len(rows), size):
        batch = collate(rows[start : start + size])
        labels = batch.pop("labels")
        batch.pop("shift_labels")
        loss = trained_token_loss(model(**batch), labels, trained)
        loss.backward()
        total += float(loss)
    return total, gradients(model)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loss_and_its_gradients_do_not_hang_on_padding_or_micro_batches(
    model: PreTrainedModel, make_rows: MakeRows, size: int, seed: int
) -> None:
    rows = make_rows(8, seed)
    loss, expected = reference(model, rows)
    computed, found = in_micro_batches(model, rows, size)
    assert computed == pytest.approx(loss, abs=1e-5)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3


def test_without_a_count_the_loss_is_the_mean_over_trained_tokens() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 7, dtype=torch.bfloat16)
    labels = torch.tensor([[IGNORED, 1, 2], [3, 4, 5]])
    from transformers.modeling_outputs import CausalLMOutputWithPast

    loss = trained_token_loss(CausalLMOutputWithPast(logits=logits), labels)
    rows = logits.float().reshape(6, 7)[1:]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(rows, torch.tensor([1, 2, 3, 4, 5])))
    assert float(trained_token_loss(CausalLMOutputWithPast(logits=logits), labels, 10)) == pytest.approx(
        float(loss) / 2
    )
