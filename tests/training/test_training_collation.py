"""Batches, and the loss and gradients on them, against the plain way: every logit, one row after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from hfkit.training.collation import IGNORED, CollateTrainedPositions, Layout, TrainingRow, is_empty
from hfkit.training.isolation import token_losses
from hfkit.training.loss import trained_token_loss
from hfkit.training.sampling import PlannedSteps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MakeRows = Callable[..., list[TrainingRow]]
Family = Callable[..., "PreTrainedModel"]
Gradients = dict[str, torch.Tensor]

PAD = 0
LAYOUTS: tuple[Layout, ...] = ("padded", "blocks", "end_to_end")


def trained_positions(row: TrainingRow) -> list[int]:
    spans = zip(row["spans"][::2], row["spans"][1::2], strict=True)
    return [position for start, end in spans for position in range(start, end) if position > 0]


def packs_for(layout: Layout, rows: list[TrainingRow]) -> list[list[TrainingRow]]:
    return [[row] for row in rows] if layout == "padded" else [rows[::2], rows[1::2]] if len(rows) > 1 else [rows]


# What a batch says.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(8))
def test_a_batch_says_what_its_rows_say(make_rows: MakeRows, layout: Layout, seed: int) -> None:
    rows = make_rows(1 + seed, seed, turns=1 + seed % 3)
    packs = packs_for(layout, rows)
    batch = CollateTrainedPositions(PAD, layout)(packs)
    lines = [[row for pack in packs for row in pack]] if layout == "end_to_end" else packs
    longest = max(sum(len(row["input_ids"]) for row in line) for line in lines)
    length = next(size for size in range(longest, longest + 32) if size % 32 == 0)
    kept = batch["logits_to_keep"].tolist()
    assert batch["input_ids"].shape == batch["position_ids"].shape == (len(lines), length)
    assert batch["labels"].shape == (len(lines), len(kept)) and batch["shift_labels"] is batch["labels"]
    assert batch["use_cache"] is False and not is_empty(batch)
    assert ("attention_mask" in batch) == (layout == "padded")
    assert {tensor.dtype for name, tensor in batch.items() if name in ("input_ids", "labels", "logits_to_keep")} == {
        torch.int64
    }
    union = set()
    for number, line in enumerate(lines):
        start = length - sum(len(row["input_ids"]) for row in line)
        assert batch["input_ids"][number, :start].tolist() == [PAD] * start
        assert batch["position_ids"][number, :start].tolist() == [0] * start
        expected = {}
        for row in line:
            end = start + len(row["input_ids"])
            assert batch["input_ids"][number, start:end].tolist() == row["input_ids"]
            assert batch["position_ids"][number, start:end].tolist() == list(range(end - start))
            expected |= {start + position - 1: row["input_ids"][position] for position in trained_positions(row)}
            start = end
        assert start == length
        # Each label is the token after the position whose logits are kept for it, in the same row.
        labels = dict(zip(kept, batch["labels"][number].tolist(), strict=True))
        assert {position: label for position, label in labels.items() if label != IGNORED} == expected
        union |= set(expected)
        if layout == "padded":
            (row,) = line
            padding = length - len(row["input_ids"])
            assert batch["attention_mask"][number].tolist() == [0] * padding + [1] * len(row["input_ids"])
    assert kept == sorted(union), "no logits where no line trains anything"


def test_replies_at_the_end_of_rows_share_their_positions(make_rows: MakeRows) -> None:
    rows = make_rows(6, longest_reply=5)
    batch = CollateTrainedPositions(PAD, "padded")([[row] for row in rows])
    replies = [len(row["input_ids"]) - row["spans"][0] for row in rows]
    length = batch["input_ids"].shape[1]
    assert batch["logits_to_keep"].tolist() == list(range(length - max(replies) - 1, length - 1))


def test_the_first_token_of_a_row_is_never_trained() -> None:
    """Nothing comes before it; least of all the last token of another row."""
    first: TrainingRow = {"input_ids": [5, 6, 7], "spans": [0, 3]}
    second: TrainingRow = {"input_ids": [8, 9], "spans": [0, 2]}
    for layout in LAYOUTS:
        batch = CollateTrainedPositions(PAD, layout)([[first, second]] if layout != "padded" else [[first], [second]])
        assert sorted(label for label in batch["labels"].flatten().tolist() if label != IGNORED) == [6, 7, 9]
    # A row that fills the batch to its very first position.
    full: TrainingRow = {"input_ids": list(range(3, 35)), "spans": [0, 32]}
    batch = CollateTrainedPositions(PAD, "blocks")([[full]])
    assert batch["logits_to_keep"].tolist() == list(range(31)) and batch["labels"][0].tolist() == list(range(4, 35))


@pytest.mark.parametrize("spans", [[], [0, 1]])
def test_rows_that_train_nothing_have_a_loss_of_zero(tiny_family: Family, spans: list[int]) -> None:
    batch = CollateTrainedPositions(PAD, "padded")([[{"input_ids": [5, 6, 7], "spans": spans}]])
    labels = batch.pop("labels")
    assert labels.tolist() == [[IGNORED]] and not batch.pop("shift_labels").ne(IGNORED).any()
    loss = trained_token_loss(tiny_family("llama")(**batch), labels, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0


def test_no_packs_are_an_empty_batch_with_no_labels_to_count() -> None:
    for layout in LAYOUTS:
        batch = CollateTrainedPositions(PAD, layout)([])
        assert is_empty(batch) and int(batch["labels"].ne(IGNORED).sum()) == 0
        assert batch["shift_labels"].shape == batch["labels"].shape


@pytest.mark.parametrize("seed", range(6))
def test_rows_laid_end_to_end_say_where_they_end(make_rows: MakeRows, seed: int) -> None:
    """As FlashAttention's kernels want it, and as Transformers reads the same out of `position_ids`."""
    from transformers.modeling_flash_attention_utils import FlashAttentionKwargs, prepare_fa_kwargs_from_position_ids

    rows = make_rows(2 + seed, seed, turns=2)
    batch = CollateTrainedPositions(PAD, "end_to_end")([rows[:1], rows[1:]])
    length = batch["input_ids"].shape[1]
    padding = length - sum(len(row["input_ids"]) for row in rows)
    lengths = [padding] * (padding > 0) + [len(row["input_ids"]) for row in rows]
    assert FlashAttentionKwargs.__annotations__.keys() <= batch.keys()
    for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
        assert batch[name].dtype == torch.int32
        assert batch[name].tolist() == [0, *torch.tensor(lengths).cumsum(0).tolist()]
    assert batch["max_length_q"] == batch["max_length_k"] == max(lengths)
    (read, _), _ = prepare_fa_kwargs_from_position_ids(batch["position_ids"][:, padding:])
    assert (read + padding).tolist() == batch["cu_seq_lens_q"].tolist()[padding > 0 :]


def test_rows_that_need_no_padding_have_no_empty_row_before_them() -> None:
    rows: list[TrainingRow] = [{"input_ids": [7] * length, "spans": [1, length]} for length in (20, 12)]
    assert CollateTrainedPositions(PAD, "end_to_end")([rows])["cu_seq_lens_q"].tolist() == [0, 20, 32]


# What the model makes of it.

FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {"sliding_window": 8},
    "phi3": {},
    "gpt_neox": {},
    "smollm3": {},
    "olmo2": {},
    "granite": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}


@pytest.fixture(scope="module")
def families(tiny_family: Family) -> Family:
    built: dict[str, PreTrainedModel] = {}

    def get(name: str) -> PreTrainedModel:
        if name not in built:
            built[name] = tiny_family(name, **FAMILIES[name])
        return built[name]

    return get


def gradients(model: PreTrainedModel) -> Gradients:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def reference(model: PreTrainedModel, rows: list[TrainingRow]) -> tuple[float, Gradients]:
    """Each row by itself, unpadded, all logits, in the plainest way."""
    trained = sum(len(trained_positions(row)) for row in rows)
    model.zero_grad()
    total = 0.0
    for row in rows:
        if not trained_positions(row):
            continue
        ids = torch.tensor([row["input_ids"]])
        logits = model(input_ids=ids).logits[0]
        loss = torch.zeros(())
        for position in trained_positions(row):
            loss = loss - torch.log_softmax(logits[position - 1].double(), dim=0)[ids[0, position]].float() / trained
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total, gradients(model)


def as_planned(
    model: PreTrainedModel, rows: list[TrainingRow], micro: Any, capacity: int | None
) -> tuple[float, Gradients]:
    """As the trainer does it: the sum over each micro-batch, divided by the tokens of the whole step."""
    plan = PlannedSteps(
        [len(row["input_ids"]) for row in rows],
        rows_a_step=len(rows),
        micro_batch_size=micro,
        tokens_at_once=128,
        capacity=capacity,
        seed=0,
    )
    collate = CollateTrainedPositions(PAD, "padded" if capacity is None else "blocks")
    trained = sum(len(trained_positions(row)) for row in rows)
    model.zero_grad()
    total = 0.0
    for micro_batch in plan:
        batch = collate([[rows[row] for row in pack] for pack in micro_batch])
        if is_empty(batch):
            continue
        labels = batch.pop("labels")
        batch.pop("shift_labels")
        outputs = model(**batch)
        assert outputs.logits.shape == (len(micro_batch), len(batch["logits_to_keep"]), 500)
        loss = trained_token_loss(outputs, labels, trained)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total, gradients(model)


def assert_equal(found: tuple[float, Gradients], expected: tuple[float, Gradients]) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name in expected[1]:
        torch.testing.assert_close(found[1][name], expected[1][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_and_padded_have_the_loss_and_gradients_of_single_rows(
    families: Family, make_rows: MakeRows, family: str, attention: str
) -> None:
    model = families(family)
    if attention == "sdpa" and model.config._attn_implementation == "eager":
        pytest.skip(f"{family} computes its attention in eager mode alone")
    before = model.config._attn_implementation
    model.set_attn_implementation(attention)
    rows = make_rows(7, seed=4, turns=2)
    expected = reference(model, rows)
    assert max(gradient.abs().max() for gradient in expected[1].values()) > 1e-3
    assert_equal(as_planned(model, rows, "auto", None), expected)
    assert_equal(as_planned(model, rows, "auto", 128), expected)
    model.set_attn_implementation(before)


ROWS = st.lists(
    st.lists(st.integers(3, 499), min_size=2, max_size=40).flatmap(
        lambda ids: st.lists(st.integers(0, len(ids)), unique=True, max_size=6).map(
            lambda cuts: TrainingRow(input_ids=ids, spans=sorted(cuts)[: len(cuts) // 2 * 2])
        )
    ),
    min_size=1,
    max_size=8,
).filter(lambda rows: any(trained_positions(row) for row in rows))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
@given(rows=ROWS, micro=st.sampled_from(["auto", 1, 2, 3]), capacity=st.sampled_from([None, 40, 64, 200]))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_packed_and_divided_in_any_way_train_the_same(
    families: Family, family: str, rows: list[TrainingRow], micro: Any, capacity: int | None
) -> None:
    assert_equal(as_planned(families(family), rows, micro, capacity), reference(families(family), rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_row_of_a_pack_sees_another(families: Family, make_rows: MakeRows, family: str) -> None:
    """Another row in its pack, or none: to the bit, but for experts, whose batches have other sizes."""
    model, rows = families(family), make_rows(6, seed=2)
    packs = [rows[:3], rows[3:]]
    before = by_row(token_losses(model, packs, "blocks"), rows)
    for changed in range(len(rows)):
        others = list(rows)
        ids = [499 - token for token in rows[changed]["input_ids"]]
        others[changed] = {"input_ids": ids, "spans": rows[changed]["spans"]}
        after = by_row(token_losses(model, [others[:3], others[3:]], "blocks"), rows)
        for number, (first, second) in enumerate(zip(before, after, strict=True)):
            if number == changed:
                assert not torch.allclose(first, second, atol=1e-3)
            elif "moe" in family:
                torch.testing.assert_close(second, first, atol=1e-6, rtol=1e-6)
            else:
                assert torch.equal(first, second)


def by_row(losses: torch.Tensor, rows: Sequence[TrainingRow]) -> tuple[torch.Tensor, ...]:
    return losses.split([len(trained_positions(row)) for row in rows])


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


@pytest.mark.gpu
def test_flash_attention_keeps_rows_apart_on_a_gpu(tiny_family: Family, make_rows: MakeRows) -> None:
    """In bfloat16, which is all that FlashAttention computes: near the padded losses, and deaf to other rows."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    if not torch.cuda.is_available() or not is_flash_attn_2_available():
        pytest.skip("no CUDA GPU with FlashAttention")
    model = tiny_family("llama", hidden_size=128, head_dim=32).to("cuda", torch.bfloat16)
    rows = make_rows(6, seed=2)
    padded = token_losses(model, [[row] for row in rows], "padded")
    model.set_attn_implementation("flash_attention_2")
    packed = token_losses(model, [rows[:3], rows[3:]], "end_to_end")
    torch.testing.assert_close(packed, padded, atol=0.1, rtol=0.05)
    others = [{**rows[0], "input_ids": rows[0]["input_ids"][::-1]}, *rows[1:]]
    changed = token_losses(model, [others[:3], others[3:]], "end_to_end")
    count = len(trained_positions(rows[0]))
    assert torch.equal(changed[count:], packed[count:]) and not torch.equal(changed[:count], packed[:count])
