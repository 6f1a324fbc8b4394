"""Likelihoods: equal to what one pass over the whole sequence gives, whatever is shared; windows score tokens once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.data.conversation import Turn
from hfkit.evaluation.answers import AnswerFile
from hfkit.evaluation.generation import NAN
from hfkit.evaluation.likelihood import INFINITE, Scored, continuation, likelihoods_each, windows
from hfkit.evaluation.rows import ChoiceRow, Failed, Likelihoods, PreferenceRow, TextRow

if TYPE_CHECKING:
    from hfkit.data.rendering import Renderer

FOUR = ("Paris", "London is large", "the capital of another country altogether", "a")


def by_hand(model: Any, parts: list[Scored]) -> tuple[float, bool]:
    import torch

    total, greedy = 0.0, True
    for part in parts:
        ids = torch.tensor([[*part.context, *part.continuation]])
        with torch.inference_mode():
            chances = model(input_ids=ids).logits[0].double().log_softmax(-1)
        for place, token in enumerate(part.continuation, start=len(part.context)):
            total += float(chances[place - 1, token])
            greedy &= int(chances[place - 1].argmax()) == token
    return total, greedy


def asked(model: Any, renderer: Renderer, rows: list[Any], batch_size: int = 4) -> list[Any]:
    found = dict(likelihoods_each(model, renderer, rows, batch_size=batch_size))
    assert sorted(found) == list(range(len(rows)))
    return [found[number] for number in range(len(rows))]


def choice_rows() -> list[ChoiceRow]:
    shots = "Q: What is the capital of Spain?\nA: Madrid\n\nQ: What is the capital of Italy?\nA: Rome\n\n"
    asks = ["What is the capital of France?", "Which city is it?", "Who?"]
    rows = [
        ChoiceRow(id=str(n), group="g", context=f"{shots}Q: {asks[n % 3]}\nA: ", choices=FOUR[: 2 + n % 3], correct=0)
        for n in range(6)
    ]
    rows.append(ChoiceRow(id="no context", group="g", choices=FOUR, correct=0))
    rows.append(ChoiceRow(id="one token each", group="g", context="The answer is ", choices=("A", "B"), correct=0))
    rows.append(ChoiceRow(id="short context", group="g", context="x", choices=("y" * 50, "z"), correct=0))
    return rows


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_choices_have_the_likelihoods_of_whole_sequences(
    model: Any, renderer: Renderer, shares: bool, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hfkit.evaluation.likelihood.can_share", lambda model: shares)
    rows = choice_rows()
    for row, answer in zip(rows, asked(model, renderer, rows, batch_size), strict=True):
        assert isinstance(answer, Likelihoods)
        for text, one in zip(row.choices, answer.of, strict=True):
            part = continuation(renderer, row.context, text)
            expected, greedy = by_hand(model, [part])
            assert one.log_likelihood == pytest.approx(expected, abs=1e-4)
            assert (one.is_greedy, one.tokens, one.bytes) == (greedy, len(part.continuation), len(text.encode()))


def test_a_space_at_the_end_of_the_context_belongs_to_the_continuation(renderer: Renderer) -> None:
    encode = renderer.tokenizer.encode
    part = continuation(renderer, "The answer is ", "A")
    assert part.context == tuple(encode("The answer is"))
    assert part.context + part.continuation == tuple(encode("The answer is A"))
    assert continuation(renderer, "", "A") == Scored((renderer.tokenizer.eos_token_id,), tuple(encode("A")))


def test_replies_to_messages_are_scored_as_training_renders_them(model: Any, renderer: Renderer) -> None:
    messages = (Turn(role="system", content="Be brief."), Turn(role="user", content="Where is Paris?"))
    rows = [
        ChoiceRow(id="0", group="g", messages=messages, choices=FOUR, correct=0),
        PreferenceRow(id="1", group="g", messages=messages, chosen="In France.", rejected="I do not know."),
    ]
    prompt = renderer.prompt_ids(messages)
    choices, preference = asked(model, renderer, rows)
    for texts, answer in ((FOUR, choices), (("In France.", "I do not know."), preference)):
        for text, one in zip(texts, answer.of, strict=True):
            whole = [*prompt, *renderer.tokenizer.encode(text), renderer.tokenizer.eos_token_id]
            expected, _ = by_hand(model, [Scored(tuple(prompt), tuple(whole[len(prompt) :]))])
            assert one.log_likelihood == pytest.approx(expected, abs=1e-4)
            assert one.tokens == len(whole) - len(prompt), "the stop token is part of a reply"


@given(st.text(min_size=0, max_size=300), st.integers(2, 40))
@settings(max_examples=150, deadline=None)
def test_windows_score_each_token_once_and_fit(renderer: Renderer, text: str, limit: int) -> None:
    ids = renderer.tokenizer.encode(text, add_special_tokens=False)
    parts = windows(renderer, text, limit)
    assert [token for part in parts for token in part.continuation] == ids
    before = [renderer.tokenizer.eos_token_id, *ids]
    done = 1
    for part in parts:
        assert part.context == tuple(before[done - len(part.context) : done]) and part.context
        assert len(part.context) + len(part.continuation) <= limit + 1
        done += len(part.continuation)
    if len(ids) > limit:
        assert len(parts[-1].context) + len(parts[-1].continuation) == limit + 1, "the last one takes all it can"


def test_long_texts_are_scored_in_windows(model: Any, renderer: Renderer) -> None:
    limit = model.config.max_position_embeddings
    text = "The quick brown fox jumps over the lazy dog. " * 200
    rows = [
        TextRow(id="0", group="g", text=text),
        TextRow(id="1", group="g", text="Short."),
    ]
    long, short = asked(model, renderer, rows)
    parts = windows(renderer, text, limit)
    assert len(parts) > 1
    assert long.of[0].log_likelihood == pytest.approx(by_hand(model, parts)[0], rel=1e-5)
    assert long.of[0].bytes == len(text.encode()) and long.of[0].tokens == sum(len(p.continuation) for p in parts)
    assert short.of[0].log_likelihood == pytest.approx(by_hand(model, windows(renderer, "Short.", limit))[0], abs=1e-4)


def test_a_long_context_loses_its_beginning_and_a_long_reply_fails(model: Any, renderer: Renderer) -> None:
    limit = model.config.max_position_embeddings
    words = "word " * limit
    rows = [
        ChoiceRow(id="0", group="g", context=words, choices=("one", "two"), correct=0),
        ChoiceRow(id="1", group="g", context="x", choices=(words, "two"), correct=0),
    ]
    cut, failed = asked(model, renderer, rows)
    assert isinstance(failed, Failed) and "longer than the model's context" in failed.reason
    part = continuation(renderer, words, "one")
    kept = Scored(part.context[len(part.context) + len(part.continuation) - limit - 1 :], part.continuation)
    assert cut.of[0].log_likelihood == pytest.approx(by_hand(model, [kept])[0], abs=1e-4)


def test_nothing_to_score_is_certain_and_nan_fails(model: Any, renderer: Renderer) -> None:
    import copy

    import torch

    (empty,) = asked(model, renderer, [TextRow(id="0", group="g", text="")])
    assert empty.of[0].log_likelihood == 0.0 and empty.of[0].tokens == 0
    broken = copy.deepcopy(model)
    token = renderer.tokenizer.encode("Q")[0]
    with torch.no_grad():
        broken.get_input_embeddings().weight[token] = math.nan
    rows = [
        ChoiceRow(id="0", group="g", context="Q", choices=("a", "b"), correct=0),
        ChoiceRow(id="1", group="g", context="x", choices=("a", "b"), correct=0),
    ]
    first, second = asked(broken, renderer, rows)
    assert first == Failed(reason=NAN) and isinstance(second, Likelihoods)


def test_what_a_model_calls_impossible_fails_with_a_reason_and_can_be_kept(
    model: Any, renderer: Renderer, tmp_path: Path
) -> None:
    """JSON has no infinity: kept as null it would not be read again, nor anything behind it."""
    import copy

    token = renderer.tokenizer.encode("Paris", add_special_tokens=False)[0]
    broken = copy.deepcopy(model)

    def without(module: object, inputs: object, logits: Any) -> Any:
        logits = logits.clone()
        logits[..., token] = -math.inf
        return logits

    broken.get_output_embeddings().register_forward_hook(without)
    rows = [
        ChoiceRow(id="a", group="a", context="The capital:", choices=("Paris", "a"), correct=0),
        TextRow(id="b", group="b", text="Paris"),
        ChoiceRow(id="c", group="c", context="One letter:", choices=("a", "b"), correct=0),
    ]
    first, second, third = asked(broken, renderer, rows)
    assert first == second == Failed(reason=INFINITE) and isinstance(third, Likelihoods)
    for _ in range(2):
        with AnswerFile(tmp_path, "base", {}) as file:
            known = [file.known(row) for row in rows]
            for row, answer in zip(rows, (first, second, third), strict=True):
                file.add(row, answer)
    assert known == [first, second, third]
