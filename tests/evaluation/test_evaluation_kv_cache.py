"""What is shared in the cache changes nothing, and answers do not depend on how rows are put into batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.evaluation.generation import NAN, generate, generate_each
from hfkit.evaluation.kv_cache import LEAST_SHARED, PrefixReader, can_share, last_logits, plan
from hfkit.evaluation.rows import Failed, Generation

if TYPE_CHECKING:
    from hfkit.data.rendering import Renderer


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    """The tiny model, sharper than it is at random, so that greedy choices are no near ties."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.manual_seed(3)
    for weight in loaded.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.2)
    return loaded.eval()


@pytest.fixture(scope="module")
def renderer(tiny_model: Path) -> Renderer:
    from hfkit.models.loading import load_renderer
    from hfkit.recipe import ModelSection

    return load_renderer(ModelSection(base=str(tiny_model)))


def prompts_of(*, families: int, members: int, common: int, seed: int = 0) -> list[list[int]]:
    """Families of prompts with a long beginning in common, behind one that all share, and two loners."""
    draw = random.Random(seed)

    def some(count: int) -> list[int]:
        return [draw.randrange(3, 500) for _ in range(count)]

    start = some(common)
    prompts = []
    for _ in range(families):
        own = start + some(draw.randrange(30, 60))
        prompts += [own + some(draw.randrange(1, 20)) for _ in range(members)]
    prompts += [start + some(draw.randrange(1, 90)) for _ in range(2)]
    draw.shuffle(prompts)
    return prompts


SHAPES = [
    {"families": 3, "members": 4, "common": 40},
    {"families": 2, "members": 5, "common": 0},
    {"families": 0, "members": 0, "common": 20},
]


@pytest.mark.parametrize("shape", SHAPES, ids=["families and a start", "families", "loners"])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_logits_behind_shared_beginnings_are_those_of_whole_prompts(
    model: Any, shape: dict[str, int], batch_size: int
) -> None:
    import torch

    prompts = prompts_of(**shape)
    assert can_share(model)
    batches = plan(prompts, batch_size, share=True)
    if shape["common"]:
        assert batches.common >= LEAST_SHARED
    if shape["families"]:
        assert any(batch.prefixes for batch in batches.batches)
    reader = PrefixReader(model, prompts, batches)
    seen: list[int] = []
    with torch.inference_mode():
        for batch in batches.batches:
            _, logits = reader.read(batch)
            for place, row in enumerate(batch.rows):
                alone = last_logits(model, [prompts[row]], keep=1)[0, -1]
                torch.testing.assert_close(logits[place], alone, rtol=0, atol=2e-4)
            seen += batch.rows
    assert sorted(seen) == list(range(len(prompts)))


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=60), min_size=1, max_size=12),
    st.integers(1, 5),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_a_plan_reads_every_row_once_and_leaves_each_a_token(
    sequences: list[list[int]], batch_size: int, share: bool
) -> None:
    made = plan(sequences, batch_size, share=share)
    rows = [row for batch in made.batches for row in batch.rows]
    assert sorted(rows) == list(range(len(sequences)))
    for batch in made.batches:
        assert len(batch.rows) <= batch_size
        for place, row in enumerate(batch.rows):
            beginning = list(sequences[batch.rows[0]][: made.common])
            if batch.prefixes:
                beginning += batch.prefixes[batch.prefix_of[place]]
            assert sequences[row][: len(beginning)] == beginning
            assert len(sequences[row]) > len(beginning)


def answers(model: Any, renderer: Renderer, prompts: Sequence[Sequence[int]], batch_size: int, most: int = 12) -> Any:
    found = dict(generate_each(model, renderer, prompts, max_new_tokens=most, batch_size=batch_size))
    return [found[number] for number in range(len(prompts))]


@pytest.mark.parametrize("shape", SHAPES, ids=["families and a start", "families", "loners"])
def test_answers_are_those_of_transformers_at_any_batch_size(
    model: Any, renderer: Renderer, shape: dict[str, int]
) -> None:
    import torch

    prompts = prompts_of(**shape, seed=1)
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=list(renderer.stop_ids),
            pad_token_id=renderer.tokenizer.pad_token_id,
        )
        new = output[0, len(prompt) :].tolist()
        stopped = new[-1] in renderer.stop_ids
        text = renderer.tokenizer.decode(new[:-1] if stopped else new, skip_special_tokens=True)
        expected.append((text.strip(), stopped))
    for batch_size in (1, 3, 16):
        found = answers(model, renderer, prompts, batch_size)
        compared = [(said, wanted) for said, wanted in zip(found, expected, strict=True) if not said.near_tie]
        assert len(compared) > len(prompts) // 2, "the model is sharp enough to compare most rows"
        assert all((said.text, said.stopped) == wanted for said, wanted in compared)


def test_models_that_cannot_share_answer_alike(model: Any, renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(families=2, members=3, common=20, seed=2)
    shared = answers(model, renderer, prompts, 4)
    monkeypatch.setattr("hfkit.evaluation.generation.can_share", lambda model: False)
    for one, other in zip(shared, answers(model, renderer, prompts, 4), strict=True):
        assert one == other or one.near_tie


def test_a_sliding_window_is_not_shared() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    assert not can_share(MistralForCausalLM(MistralConfig(**small, **heads, sliding_window=8)))
    assert can_share(MistralForCausalLM(MistralConfig(**small, **heads, sliding_window=None)))


def test_rows_that_end_early_leave_the_others_as_they_are(model: Any, renderer: Renderer) -> None:
    """Whatever token a row writes first, called a stop token, ends that row alone."""
    prompts = prompts_of(families=0, members=0, common=0, seed=3) + prompts_of(families=1, members=4, common=0, seed=4)
    whole = answers(model, renderer, prompts, 16)
    first = first_token(model, prompts[0])

    class Stopping:
        tokenizer = renderer.tokenizer
        stop_ids = (first,)

    stopped: Any = Stopping()
    found = dict(generate_each(model, stopped, prompts, max_new_tokens=12, batch_size=16))
    assert found[0] == Generation(text="", stopped=True, near_tie=found[0].near_tie)
    text = renderer.tokenizer.decode([first], skip_special_tokens=True)
    for number, said in found.items():
        assert isinstance(said, Generation)
        if not (said.stopped or said.near_tie or whole[number].stopped):
            assert said.text == whole[number].text and (not text or text not in said.text)


def first_token(model: Any, prompt: Sequence[int]) -> int:
    import torch

    with torch.inference_mode():
        return int(last_logits(model, [prompt], keep=1)[0, -1].argmax())


@pytest.mark.parametrize("shares", [True, False])
def test_numbers_that_are_nan_are_told_and_end_no_other_row(
    model: Any, renderer: Renderer, shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token's embedding is NaN: rows that hold it, or write it, fail, and the others answer as before."""
    import copy

    import torch

    prompts = [[5, 6, 7, 8], [5, 6, 499, 8], [9, 10, 11]]
    before = answers(model, renderer, prompts, 3)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_input_embeddings().weight[499] = float("nan")
    monkeypatch.setattr("hfkit.evaluation.generation.can_share", lambda model: shares)
    found = answers(broken, renderer, prompts, 3)
    assert found[1] == Failed(reason=NAN)
    assert [found[0], found[2]] == [before[0], before[2]]


def test_a_prompt_that_does_not_fit_fails_and_one_that_nearly_does_is_cut_off(model: Any, renderer: Renderer) -> None:
    limit = model.config.max_position_embeddings
    prompts = [[5] * limit, [5] * (limit - 3), [5, 6]]
    found = answers(model, renderer, prompts, 2, most=8)
    assert isinstance(found[0], Failed) and str(limit) in found[0].reason
    assert isinstance(found[1], Generation) and isinstance(found[2], Generation)


def test_equal_logits_are_a_near_tie(model: Any, renderer: Renderer) -> None:
    import copy

    import torch

    flat = copy.deepcopy(model)
    with torch.no_grad():
        flat.get_output_embeddings().weight.zero_()
    assert all(said.near_tie for said in answers(flat, renderer, [[5, 6], [7]], 2, most=2))
    assert not all(said.near_tie for said in answers(model, renderer, [[5, 6], [7]], 2, most=2))


def test_prompts_that_the_template_refuses_fail_alone(model: Any, renderer: Renderer) -> None:
    asked: Any = [[], [{"role": "user", "content": "Hi"}]]
    done: list[tuple[int, int]] = []
    found = generate(model, renderer, asked, max_new_tokens=2, batch_size=2, update=lambda *counts: done.append(counts))
    assert isinstance(found[0], Failed) and isinstance(found[1], Generation)
    assert done[-1] == (2, 2)
