"""Greedy answers: the same in any batch, ended by the stop token and by nothing else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from hfkit.data.rendering import Renderer
from hfkit.evaluation.generation import generate
from hfkit.evaluation.rows import Failed, Generation
from hfkit.models.loading import load_model, load_tokenizer
from hfkit.recipe import ModelSection
from rag.answer import Message

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel

PROMPTS: list[list[Message]] = [
    [{"role": "user", "content": f"{'word ' * (number * 5 % 17)}question {number}?"}] for number in range(11)
]


def ignore(done: int, total: int) -> None:
    """Nobody looks."""


@pytest.fixture(scope="module")
def renderer(tiny_model: Path) -> Renderer:
    return Renderer(load_tokenizer(ModelSection(base=str(tiny_model))))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> PreTrainedModel:
    return load_model(ModelSection(base=str(tiny_model), precision="fp32"))[0]


def one_by_one(model: PreTrainedModel, renderer: Renderer, prompt: list[Message], limit: int) -> list[int]:
    """The greedy continuation, token by token, without a cache or `generate`."""
    ids = renderer.prompt_ids(prompt)
    new: list[int] = []
    with torch.inference_mode():
        while len(new) < limit and not set(renderer.stop_ids) & set(new):
            new.append(int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


def said(answer: Generation | Failed) -> tuple[str, bool]:
    assert isinstance(answer, Generation)
    return answer.text, answer.stopped


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_answers_do_not_hang_on_the_batch(model: PreTrainedModel, renderer: Renderer, batch_size: int) -> None:
    reported: list[tuple[int, int]] = []
    answers = generate(
        model,
        renderer,
        PROMPTS,
        max_new_tokens=20,
        batch_size=batch_size,
        update=lambda done, total: reported.append((done, total)),
    )
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        new = one_by_one(model, renderer, prompt, 20)
        text = renderer.tokenizer.decode(new, skip_special_tokens=True)
        assert said(answer) == (text.strip(), bool(set(renderer.stop_ids) & set(new)))
    assert reported == [(done, 11) for done in range(1, 12)]
    assert len({said(answer) for answer in answers}) > 1


def chain(renderer: Renderer, successors: dict[int, int]) -> LlamaForCausalLM:
    """A model whose next token hangs on the last one alone, as `successors` says."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = len(renderer.tokenizer)
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=size + size % 2,
            intermediate_size=2,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for weight in (made.model.layers[0].self_attn.o_proj.weight, made.model.layers[0].mlp.down_proj.weight):
            weight.zero_()
        made.model.embed_tokens.weight.copy_(torch.eye(size, made.config.hidden_size))
        made.lm_head.weight.zero_()
        for token, following in successors.items():
            made.lm_head.weight[following, token] = 1
    return made.eval()


def says(renderer: Renderer, prompts: list[list[Message]], text: str) -> LlamaForCausalLM:
    """A model that says the tokens of `text`, each of which may occur once, after any of these prompts."""
    spoken = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(set(spoken)) == len(spoken)
    successors = dict(pairwise(spoken))
    (last,) = {renderer.prompt_ids(prompt)[-1] for prompt in prompts}
    assert last not in successors
    return chain(renderer, successors | {last: spoken[0]})


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("Hi you<|im_end|>", 20, Generation(text="Hi you", stopped=True)),
        ("\tHi you<|im_end|>", 20, Generation(text="Hi you", stopped=True)),
        ("<|im_end|>", 20, Generation(text="", stopped=True)),
        # Other special tokens are neither said nor do they end the answer.
        ("Hi<|im_start|> you<|im_end|>", 20, Generation(text="Hi you", stopped=True)),
        ("Hi<|endoftext|> you<|im_end|>", 20, Generation(text="Hi you", stopped=True)),
        # The stop token comes one token too late.
        ("qvz<|im_end|>", 3, Generation(text="qvz", stopped=False)),
        ("qvz<|im_end|>", 4, Generation(text="qvz", stopped=True)),
    ],
)
def test_an_answer_ends_with_the_stop_token_or_at_the_limit(
    renderer: Renderer, text: str, limit: int, expected: Generation, batch_size: int
) -> None:
    if text.startswith("qvz"):
        assert len(renderer.tokenizer(text)["input_ids"]) == 4, "no merges in these letters"
    model = says(renderer, PROMPTS, text)
    answers = generate(model, renderer, PROMPTS, max_new_tokens=limit, batch_size=batch_size, update=ignore)
    assert answers == [expected] * len(PROMPTS)


def test_rows_that_stop_early_do_not_change_the_others(tiny_model: Path, renderer: Renderer) -> None:
    """In one batch some rows stop and others go on: the model's favourite first token is made the stop token."""
    model, _ = load_model(ModelSection(base=str(tiny_model), precision="fp32"))
    plain = generate(model, renderer, PROMPTS, max_new_tokens=12, batch_size=1, update=ignore)
    second = [one_by_one(model, renderer, prompt, 12)[3] for prompt in PROMPTS]
    other = Renderer(renderer.tokenizer)
    other.stop_ids = (second[0],)
    alone, together = (
        generate(model, other, PROMPTS, max_new_tokens=12, batch_size=size, update=ignore) for size in (1, 11)
    )
    assert [said(answer) for answer in together] == [said(answer) for answer in alone]
    text, stopped = said(alone[0])
    assert stopped and len(text) <= len(said(plain[0])[0])


def test_generation_settings_of_the_checkpoint_do_not_sample(model: PreTrainedModel, renderer: Renderer) -> None:
    answers = [generate(model, renderer, PROMPTS[:3], max_new_tokens=12, batch_size=2, update=ignore) for _ in range(2)]
    model.generation_config.do_sample = True
    try:
        answers.append(generate(model, renderer, PROMPTS[:3], max_new_tokens=12, batch_size=2, update=ignore))
    finally:
        model.generation_config.do_sample = False
    assert answers[0] == answers[1] == answers[2]


def test_a_model_left_in_training_answers_without_dropout(tiny_model: Path, renderer: Renderer) -> None:
    from hfkit.models.tuned import with_new_adapter
    from hfkit.recipe import AdapterSection

    model, _ = load_model(ModelSection(base=str(tiny_model), precision="fp32"))
    model = with_new_adapter(model, AdapterSection(dropout=0.9))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1
    model.train()
    first, second = (
        generate(model, renderer, PROMPTS[:4], max_new_tokens=8, batch_size=4, update=ignore) for _ in range(2)
    )
    assert first == second
