"""What a template leaves out: of a trained turn the row is dropped for it, of the messages before it is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hfkit.data.conversation import Conversation
from hfkit.data.ledger import RowFault
from hfkit.data.rendering import Renderer
from hfkit.errors import RequestError
from hfkit.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.data.conftest import TokenizerMaker

SPECIAL = ["<pad>", "<s>", "</s>", "<stop>"]
USER = {"role": "user", "content": "Hi"}
SAYS = {"role": "assistant", "content": "Hello you"}
SYSTEM = {"role": "system", "content": "Be kind"}
CALLS = {
    "role": "assistant",
    "content": "Paris",
    "tool_calls": [{"function": {"name": "look", "arguments": {"city": "Paris", "days": 3}}}],
}
THINKS = {**SAYS, "reasoning_content": "a guest"}
THOUGHT = "{{ m.reasoning_content or '' }}"
NAME = "{{ m.tool_calls[0].function.name if m.tool_calls }}"
ARGUMENTS = "{{ m.tool_calls[0].function.arguments | tojson if m.tool_calls }}"


def template(body: str, messages: str = "messages") -> str:
    return (
        f"{{% for m in {messages} %}}{{{{ m.role }}}}: {body}</s>\n{{% endfor %}}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )


def row(*messages: dict[str, Any]) -> Conversation:
    return Conversation.model_validate({"id": "chats.jsonl:1", "document": "chats", "messages": list(messages)})


@pytest.mark.parametrize(
    ("body", "messages", "lost"),
    [
        ("{{ m.content }}" + NAME, [USER, CALLS], "the argument city of look"),
        ("{{ m.content if not m.tool_calls }}" + NAME + ARGUMENTS, [USER, CALLS], "words"),
        (
            "{{ m.content }}" + NAME + "{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments.city }}{% endif %}",
            [USER, CALLS],
            "the argument days",
        ),
        (
            "{% if not m.tool_calls %}" + THOUGHT + "{% endif %}{{ m.content }}" + NAME + ARGUMENTS,
            [USER, {**CALLS, "reasoning_content": "so"}],
            "reasoning",
        ),
        (
            "{% if loop.index0 < 2 %}" + THOUGHT + "{% endif %}{{ m.content }}",
            [USER, THINKS, USER, THINKS],
            "reasoning",
        ),
        ("{{ m.content[:20] }}", [USER, {**SAYS, "content": "word " * 10}], "words"),
        ("{{ m.content | replace('word', '') }}", [USER, {**SAYS, "content": "a word here"}], "words"),
    ],
    ids=["arguments", "words", "one argument", "reasoning of calls", "later reasoning", "a cut", "a replacement"],
)
def test_a_row_is_dropped_for_what_its_trained_turn_loses(
    make_tokenizer: TokenizerMaker, body: str, messages: list[dict[str, Any]], lost: str
) -> None:
    renderer = Renderer(make_tokenizer(template(body), SPECIAL, "</s>", "<s>"))
    with pytest.raises(RowFault, match="leaves out what the turn says") as fault:
        renderer.training_sequences(row(*messages))
    assert lost in fault.value.detail
    # Rows that lose nothing are used.
    assert renderer.training_sequences(row(USER, SAYS))


@pytest.mark.parametrize(
    ("written", "messages", "lost"),
    [
        (
            template("{{ m.content if loop.first or m.role != 'system' }}"),
            [SYSTEM, {**SYSTEM, "content": "Be brief"}, USER, SAYS],
            "words of message 2 (system)",
        ),
        (
            template("{{ m.content }}", "messages[-(3 if messages[-1].role == 'assistant' else 2):]"),
            [{**USER, "content": "One"}, SAYS, USER, SAYS],
            "words of message 1 (user)",
        ),
        (template("{{ m.content[:20] }}"), [{**USER, "content": "word " * 10}, SAYS], "words of message 1 (user)"),
        (
            template("{{ m.content | replace('word', '') }}"),
            [{**USER, "content": "a word here"}, SAYS],
            "words of message 1 (user)",
        ),
    ],
    ids=["a second system message", "a window", "a cut", "a replacement"],
)
def test_what_earlier_messages_lose_is_named(
    make_tokenizer: TokenizerMaker, written: str, messages: list[dict[str, Any]], lost: str
) -> None:
    tokenizer = make_tokenizer(written, SPECIAL, "</s>", "<s>")
    renderer = Renderer(tokenizer)
    conversation = row(*messages)
    assert renderer.training_sequences(conversation)
    assert renderer.left_out(conversation) == (f"earlier messages: {lost}",)
    # It is the same for a conversation that was not rendered before.
    assert Renderer(tokenizer).left_out(row(*messages)) == renderer.left_out(conversation)
    assert renderer.left_out(row(USER, SAYS)) == ()


def test_a_reply_with_a_second_stop_token_is_not_trained(make_tokenizer: TokenizerMaker) -> None:
    """Settings of generation may name a token of the ordinary vocabulary, which no text is searched for."""
    tokenizer = make_tokenizer(template("{{ m.content }}"), SPECIAL, "</s>", "<s>")
    renderer = Renderer(tokenizer, stop_ids=[tokenizer.convert_tokens_to_ids("!")])
    with pytest.raises(RowFault, match="does not end the reply with one stop token"):
        renderer.training_sequences(row(USER, {**SAYS, "content": "so! now"}))
    assert renderer.training_sequences(row(USER, SAYS))


def test_the_error_of_a_spelled_token_names_a_key_that_loads(make_tokenizer: TokenizerMaker, tmp_path: Path) -> None:
    renderer = Renderer(make_tokenizer(template("{{ m.content }}"), SPECIAL, "</s>", "<s>"), special_tokens="refuse")
    with pytest.raises(RequestError, match="special token") as error:
        renderer.training_sequences(row(USER, {**SAYS, "content": "</s>"}))
    key = str(error.value).rpartition("(")[2].partition(":")[0]
    recipe = tmp_path / "x.yaml"
    recipe.write_text("name: x\ndata:\n  sources: [{path: a.jsonl}]\n", encoding="utf-8")
    assert load_recipe(recipe, (f"{key}=drop",)).data.quality.special_tokens == "drop"
