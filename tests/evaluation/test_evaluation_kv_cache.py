"""What is shared in the cache changes nothing, and answers do not depend on how rows are put into batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.evaluation.generation import NAN, generate, generate_each
from hfkit.evaluation.kv_cache import Cached, can_share, context_limit, joined, last_logits, new_cache
from hfkit.evaluation.rows import Failed, Generation
from hfkit.evaluation.shared_prefixes import LEAST_SHARED, PrefixReader, plan

if TYPE_CHECKING:
    from hfkit.data.rendering import Renderer


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


def answers(
    model: Any, renderer: Renderer, prompts: Sequence[Sequence[int]], batch_size: int | Literal["auto"], most: int = 12
) -> Any:
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
    sizes: list[int | Literal["auto"]] = [1, 3, 16, "auto"]
    for batch_size in sizes:
        found = answers(model, renderer, prompts, batch_size)
        compared = [(said, wanted) for said, wanted in zip(found, expected, strict=True) if not said.near_tie]
        assert len(compared) > len(prompts) // 2, "the model is sharp enough to compare most rows"
        assert all((said.text, said.stopped) == wanted for said, wanted in compared)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_joined_rows_keep_their_tokens_and_lose_the_padding_between_them(data: st.DataObject) -> None:
    """A cache whose keys spell the tokens: what is read of a row, in its order, is there after joining and growing."""
    import torch

    def part(rows: int) -> tuple[Cached, list[list[int]]]:
        columns = data.draw(st.integers(1, 9))
        mask = torch.tensor(
            [data.draw(st.lists(st.integers(0, 1), min_size=columns, max_size=columns)) for _ in range(rows)]
        )
        mask[:, -1] = 1
        keys = torch.arange(1, rows * columns + 1).reshape(rows, 1, columns, 1).float()
        keys[mask[:, None, :, None] == 0] = 0.0
        cache = new_cache()
        cache.update(keys, -keys, 0)
        tokens = [
            [int(keys[row, 0, column, 0]) for column in range(columns) if mask[row, column]] for row in range(rows)
        ]
        return Cached(cache, mask, mask.sum(dim=1)), tokens

    parts, expected = zip(
        *(part(rows) for rows in data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))), strict=True
    )
    whole, tokens = joined(parts), [list(row) for rows in expected for row in rows]
    kept = data.draw(st.lists(st.sampled_from(range(len(tokens))), min_size=1, unique=True))
    whole.keep(torch.tensor(kept))
    for new in range(data.draw(st.sampled_from([0, 1, 70]))):
        column = torch.full((len(kept), 1, 1, 1), 1000.0 + new)
        whole.cache.update(column, -column, 0)
        whole.mask = torch.cat([whole.mask, torch.ones(len(kept), 1, dtype=torch.long)], dim=1)
        tokens = [[*row, 1000 + new] for row in tokens]
    ((keys, values),) = whole.layers()
    assert keys.shape[2] == max(len(tokens[row]) for row in range(len(tokens)))
    for place, row in enumerate(kept):
        shown = whole.mask[place].bool()
        assert keys[place, 0, shown, 0].tolist() == tokens[row] == (-values[place, 0, shown, 0]).tolist()
        assert keys[place, 0, ~shown, 0].eq(0).all(), "what is masked is a number all the same"


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


@pytest.mark.parametrize("batch_size", [8, "auto"])
def test_rows_that_join_while_others_are_answered_change_nothing(
    model: Any, renderer: Renderer, batch_size: int | Literal["auto"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Families of nine and loners, in a cache with room for about ten, whose answers end after 1 to 12 tokens."""
    draw = random.Random(5)
    prompts = prompts_of(families=3, members=9, common=0, seed=6) + prompts_of(families=2, members=2, common=0, seed=7)

    class Stopping:
        tokenizer = renderer.tokenizer
        stop_ids = tuple(draw.sample(range(model.config.vocab_size), model.config.vocab_size // 8))

    stopping: Any = Stopping()
    joins: list[int] = []

    def watched(parts: Sequence[Cached]) -> Cached:
        joins.append(len(parts))
        return joined(parts)

    monkeypatch.setattr("hfkit.evaluation.generation.joined", watched)
    # A token takes 2 layers x 2 x 32 numbers of four bytes.
    longest = max(map(len, prompts)) + 12
    monkeypatch.setattr("hfkit.evaluation.generation._CACHE_ON_CPU", 10 * longest * 2 * 2 * 32 * 4)
    together = dict(generate_each(model, stopping, prompts, max_new_tokens=12, batch_size=batch_size))
    # Some of them when rows were being answered already, and never to copy what nobody joins.
    assert len(joins) > 2 and all(count > 1 for count in joins)
    lengths = set()
    for number, prompt in enumerate(prompts):
        alone = dict(generate_each(model, stopping, [prompt], max_new_tokens=12, batch_size=1))[0]
        said = together[number]
        assert isinstance(said, Generation) and isinstance(alone, Generation)
        assert said == alone or said.near_tie or alone.near_tie
        lengths.add(len(said.text))
    assert len(lengths) > 4, "answers end at different steps"


@pytest.mark.parametrize(
    ("family", "settings", "limit"),
    [("gpt2", {"n_positions": 77}, 77), ("gemma3", {"text_config": {"max_position_embeddings": 55}}, 55)],
)
def test_the_context_of_families_that_name_it_otherwise(family: str, settings: dict[str, Any], limit: int) -> None:
    from types import SimpleNamespace

    from transformers import AutoConfig

    model: Any = SimpleNamespace(config=AutoConfig.for_model(family, **settings))
    assert context_limit(model) == limit


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
