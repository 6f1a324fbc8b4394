"""The exact tokens of training: those that inference, given the same prompt, must produce, and the stop token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hfkit.data.conversation import Conversation, Turn
from hfkit.data.examples import PlainText
from hfkit.data.ledger import RowFault
from hfkit.data.rendering import Rendered, Renderer
from hfkit.errors import RequestError
from rag.answer import Message

if TYPE_CHECKING:
    from tests.data.conftest import TokenizerMaker


def unchanged(text: str) -> str:
    return text


def stripped(text: str) -> str:
    """As Jinja's trim does."""
    return text.strip()


@dataclass(frozen=True)
class Family:
    """A chat template, its special tokens, and how it writes an assistant's words before the stop token."""

    template: str
    special: tuple[str, ...]
    stop: str
    start: str | None = None
    reply: Callable[[str], str] = unchanged


IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>")
S = ("<pad>", "<s>", "</s>", "[INST]", "[/INST]")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

FAMILIES = {
    "ChatML": Family(CHATML, IM, "<|im_end|>"),
    "ChatML with a default system prompt": Family(
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML,
        IM,
        "<|im_end|>",
    ),
    "like Llama 3: a start token, stripped contents": Family(
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<|pad|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
        stripped,
    ),
    "like Mistral: no generation prompt, a space before the reply": Family(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
        "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}",
        S,
        "</s>",
        "<s>",
        lambda text: " " + text,
    ),
    "like Gemma: another name for the assistant, the system prompt in the user's turn": Family(
        "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'system' %}<start_of_turn>user\n{{ m['content'] | trim }}\n\n{% else %}"
        "{% if loop.first or messages[loop.index0 - 1]['role'] != 'system' %}<start_of_turn>"
        "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{% endif %}"
        "{{ m['content'] | trim }}<end_of_turn>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<pad>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<bos>",
        stripped,
    ),
    "drops the reasoning of earlier turns": Family(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
        "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        IM,
        "<|im_end|>",
    ),
    "keeps the last three messages alone": Family(
        "{% for m in messages[-3 if messages[-1]['role'] == 'assistant' else -2:] %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        IM,
        "<|im_end|>",
    ),
    "writes more after the stop token": Family(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{{ ' --- ' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        IM,
        "<|im_end|>",
    ),
}

TEMPLATES_AT_FAULT = {
    "no stop token": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    "another prompt once the reply is there": "{{ messages | length }}{% for m in messages %}{{ m['content'] }}</s>"
    "{% endfor %}",
    "words in upper case": "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] | upper }}</s>{% endfor %}",
    "a loop without end": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a macro without end": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "text without end": "{% set n = namespace(t='ab') %}{% for a in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
    "the start token twice": "{{ bos_token }}{{ bos_token }}{% for m in messages %}{{ m['role'] }} {{ m['content'] }}"
    "</s>{% endfor %}",
    "chance": "{{ ['a', 'b'] | random }}{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}",
    "a syntax error": "{% for m in messages %}{{ m['content'] }</s>{% endfor %}",
    "an unknown filter": "{{ messages | backwards }}",
    "a block that is not closed": "{% for m in messages %}{{ m['content'] }}</s>",
    "it refuses the messages": "{{ raise_exception('the roles must alternate') }}",
    "it reads what is not there": "{{ messages[0]['name']['first'] }}",
    "it adds text and a number": "{% for m in messages %}{{ m['content'] + 1 }}</s>{% endfor %}",
    "it divides by zero": "{{ 1 / 0 }}",
}

# Templates that no sane person writes; whatever they do, no wrong token may be trained.
ODD_TEMPLATES = {
    "the stop token twice": "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s></s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}",
    "the stop token before the words": "{% for m in messages %}<s>{{ m['role'] }} </s>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}",
    "the stop token on both sides": "{% for m in messages %}<s>{{ m['role'] }} </s>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}",
}

SPELLED = sorted({token for family in FAMILIES.values() for token in family.special})
WORDS = st.sampled_from([*SPELLED, *(token[1:] for token in SPELLED), *(token[:-1] for token in SPELLED)]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=6
)
CONTENT = st.lists(WORDS | st.sampled_from([" ", "\n", "word", "</think>"]), min_size=1, max_size=6).map("".join)
PLAIN = st.lists(st.sampled_from(["word", "Ω", "[2]", "\n", " ", "naïve 🙂"]), min_size=1, max_size=6).map("".join)


@st.composite
def conversations(draw: st.DrawFn, content: st.SearchStrategy[str]) -> list[Message]:
    """Turns of user and assistant, with or without a system message before them."""
    content = content.filter(bool)
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(content)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(content)})
        messages.append({"role": "assistant", "content": draw(content)})
    return messages


def replies(messages: Sequence[Message]) -> list[int]:
    return [position for position, message in enumerate(messages) if message["role"] == "assistant"]


def row(messages: Sequence[Any], tools: Sequence[dict[str, Any]] = ()) -> Conversation:
    return Conversation.model_validate(
        {"id": "chats.jsonl:1", "document": "chats", "messages": list(messages), "tools": list(tools)}
    )


def turns(sequences: Sequence[Rendered]) -> list[tuple[list[int], list[int]]]:
    """Every trained turn: all the tokens before it, and its own."""
    return [
        (list(sequence.input_ids[:start]), list(sequence.input_ids[start:end]))
        for sequence in sequences
        for start, end in sequence.spans
    ]


@pytest.fixture(params=FAMILIES, ids=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def renderer(family: Family, make_tokenizer: TokenizerMaker) -> Renderer:
    return Renderer(make_tokenizer(family.template, list(family.special), family.stop, family.start))


# A fixture that is the same for all examples of a test; what is tested changes nothing in it.
once = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


@once
@given(conversations(PLAIN))
def test_what_is_trained_is_what_inference_must_say(
    family: Family, renderer: Renderer, messages: list[Message]
) -> None:
    sequences = renderer.training_sequences(row(messages))
    (stop,) = {renderer.tokenizer.convert_tokens_to_ids(family.stop)} & set(renderer.stop_ids)
    for position, (prompt, reply) in zip(replies(messages), turns(sequences), strict=True):
        assert prompt == renderer.prompt_ids(messages[:position])
        assert prompt == renderer.tokenizer.apply_chat_template(
            messages[:position], add_generation_prompt=True, return_dict=False
        )
        said = renderer.tokenizer.decode(reply, skip_special_tokens=False)
        assert said == family.reply(messages[position]["content"]) + family.stop
        assert reply.index(stop) == len(reply) - 1


@once
@given(conversations(CONTENT))
@example([{"role": "user", "content": " ".join(SPELLED)}, {"role": "assistant", "content": "".join(SPELLED)}])
@example([{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "a<|im_end|><repo_name>b"}])
@example([{"role": "user", "content": "[INST]<s></s>"}, {"role": "assistant", "content": "<|start_header_id|>"}])
def test_content_that_spells_special_tokens_stays_text(
    family: Family, renderer: Renderer, messages: list[Message]
) -> None:
    """The special tokens of a sequence are those that the template writes around any content."""
    special = {number for number, token in renderer.tokenizer.added_tokens_decoder.items() if token.special}
    assert len(special) == len(family.special)
    for position, (prompt, reply) in zip(
        replies(messages), turns(renderer.training_sequences(row(messages))), strict=True
    ):
        innocent = [{**message, "content": "word"} for message in messages[:position]]
        expected = renderer.tokenizer.apply_chat_template(innocent, add_generation_prompt=True, return_dict=False)
        assert [token for token in prompt if token in special] == [token for token in expected if token in special]
        assert [token for token in reply if token in special] == reply[-1:]
        said = renderer.tokenizer.decode(reply[:-1], skip_special_tokens=False)
        # What breaks a special token is a space of no width: whoever reads the text sees the same.
        assert said.replace("\u200b", "") == family.reply(messages[position]["content"].replace("\u200b", ""))


@once
@given(conversations(CONTENT))
def test_the_start_token_stands_once_and_first(family: Family, renderer: Renderer, messages: list[Message]) -> None:
    if family.start is None:
        return
    start = renderer.tokenizer.bos_token_id
    for sequence in renderer.training_sequences(row(messages)):
        assert sequence.input_ids[0] == start
        assert sequence.input_ids.count(start) == 1


@once
@given(conversations(CONTENT))
@example([{"role": "user", "content": " ".join(SPELLED)}, {"role": "assistant", "content": "".join(SPELLED)}])
def test_spelled_special_tokens_are_reported(family: Family, renderer: Renderer, messages: list[Message]) -> None:
    spelled = {token for token in family.special if any(token in message["content"] for message in messages)}
    assert set(renderer.spelled_specials(row(messages))) == spelled


SPELLING: list[dict[str, Any]] = [
    {"role": "user", "content": "What is <s>?"},
    {"role": "assistant", "content": "A start token."},
]
IN_A_CALL: list[dict[str, Any]] = [
    {"role": "user", "content": "Look"},
    {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {"at</s>": ["<s>"]}}}]},
]


@pytest.mark.parametrize(("messages", "named"), [(SPELLING, "<s>"), (IN_A_CALL, "</s>, <s>")], ids=["words", "a call"])
def test_rows_that_spell_special_tokens_are_dropped_or_refused(
    make_tokenizer: TokenizerMaker, messages: list[dict[str, Any]], named: str
) -> None:
    tokenizer = make_tokenizer(CALLING, list(S), "</s>", "<s>")
    with pytest.raises(RowFault, match="spells a special token") as dropped:
        Renderer(tokenizer, special_tokens="drop").training_sequences(row(messages))
    assert dropped.value.detail == named
    with pytest.raises(RequestError, match=r"chats\.jsonl:1: the content spells the special token"):
        Renderer(tokenizer, special_tokens="refuse").training_sequences(row(messages))
    (sequence,) = Renderer(tokenizer).training_sequences(row(messages))
    assert sequence.input_ids.count(tokenizer.eos_token_id) == 1
    assert Renderer(tokenizer).spelled_specials(row(messages)) == named.split(", ")


CALLING = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] }} {{ c['function']['arguments'] | tojson }}"
    "{% endfor %}{% if m['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_arguments_are_json_text_where_a_template_wants_text(make_tokenizer: TokenizerMaker) -> None:
    wants_text = CALLING.replace("c['function']['arguments'] | tojson", "'=' + c['function']['arguments']")
    renderer = Renderer(make_tokenizer(wants_text, list(S), "</s>", "<s>"))
    call = {"function": {"name": "look", "arguments": {"at": "the \u00e9"}}}
    (sequence,) = renderer.training_sequences(row([MESSAGES[0], {"role": "assistant", "tool_calls": [call]}]))
    said = renderer.tokenizer.decode(turns([sequence])[0][1])
    assert said == 'look ={"at": "the \u00e9"}</s>'


def test_tools_are_content(make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(CALLING, list(S), "</s>", "<s>"))
    tool = {"type": "function", "function": {"name": "look", "description": "Ends with </s>.", "parameters": {}}}
    (sequence,) = renderer.training_sequences(row(MESSAGES, [tool]))
    assert sequence.input_ids.count(renderer.tokenizer.eos_token_id) == 1
    text = renderer.tokenizer.decode(sequence.input_ids)
    assert text.startswith('{"type": "function"') and "Ends with <\u200b/s>." in text
    assert renderer.prompt_ids(MESSAGES[:1], [tool]) == list(sequence.input_ids[: sequence.spans[0][0]])


def test_each_turn_is_trained_after_its_own_history(make_tokenizer: TokenizerMaker) -> None:
    family = FAMILIES["drops the reasoning of earlier turns"]
    renderer = Renderer(make_tokenizer(family.template, list(family.special), family.stop))
    messages: list[Message] = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>easy</think>2"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "<think>hm</think>4"},
    ]
    first, second = (
        renderer.tokenizer.decode(sequence.input_ids, skip_special_tokens=False)
        for sequence in renderer.training_sequences(row(messages))
    )
    assert first == ("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>easy</think>2<|im_end|>")
    assert second == (
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>hm</think>4<|im_end|>"
    )


def test_faithful_turns_share_one_sequence(make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(CHATML, list(IM), "<|im_end|>"))
    asked = Turn(role="user", content="And?")
    (sequence,) = renderer.training_sequences(
        row([*MESSAGES, asked, Turn(role="assistant", content="skip", train=False), asked, *MESSAGES[1:], asked])
    )
    text = [
        renderer.tokenizer.decode(sequence.input_ids[start:end], skip_special_tokens=False)
        for start, end in sequence.spans
    ]
    assert text == ["Hello you<|im_end|>"] * 2
    # What nothing is trained after is not kept.
    assert sequence.spans[-1][1] == len(sequence.input_ids)
    assert "skip" in renderer.tokenizer.decode(sequence.input_ids)


MESSAGES: list[Message] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello you"}]


@pytest.mark.parametrize("template", TEMPLATES_AT_FAULT.values(), ids=list(TEMPLATES_AT_FAULT))
def test_a_template_at_fault_is_refused(template: str, make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(template, list(S), "</s>", "<s>"))
    with pytest.raises((RequestError, RowFault), match="the chat template") as caught:
        renderer.training_sequences(row(MESSAGES))
    # One row at fault is its own; a template that no row can be shown with is the recipe's.
    alone = template == TEMPLATES_AT_FAULT["another prompt once the reply is there"]
    assert isinstance(caught.value, RowFault) == alone


def test_a_template_that_refuses_one_row_says_why(make_tokenizer: TokenizerMaker) -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHATML
    renderer = Renderer(make_tokenizer(template, list(IM), "<|im_end|>"))
    refused, taken = renderer.render_many([row([{"role": "system", "content": "s"}, *MESSAGES]), row(MESSAGES)])
    assert isinstance(refused, RowFault) and not isinstance(taken, RowFault)
    assert (refused.reason, refused.detail) == ("the chat template refuses this row", "no system here")


@pytest.mark.parametrize("template", ODD_TEMPLATES.values(), ids=list(ODD_TEMPLATES))
def test_an_odd_template_is_refused_or_trained_right(template: str, make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(template, list(S), "</s>", "<s>"))
    try:
        (sequence,) = renderer.training_sequences(row(MESSAGES))
    except (RequestError, RowFault):
        return
    (_, reply) = turns([sequence])[0]
    assert renderer.tokenizer.decode(reply, skip_special_tokens=False) == "Hello you</s>"


def test_the_next_turn_may_end_a_reply(make_tokenizer: TokenizerMaker) -> None:
    """Where a template closes a turn with nothing but the token that opens the next, that token stops the model."""
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    special = ["<pad>", "<user>", "<assistant>", "<tool>", "<end>"]
    renderer = Renderer(make_tokenizer(template, special, "<end>"))
    ask: Message = {"role": "user", "content": "More"}
    (sequence,) = renderer.training_sequences(row([*MESSAGES, ask, *MESSAGES[1:]]))
    said = [renderer.tokenizer.decode(reply, skip_special_tokens=False) for _, reply in turns([sequence])]
    assert said == ["Hello you<user>"] * 2
    assert set(renderer.tokenizer.convert_ids_to_tokens(list(renderer.stop_ids))) == {"<user>", "<end>"}


def test_a_thought_that_the_prompt_opens_is_closed(make_tokenizer: TokenizerMaker) -> None:
    template = (
        "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'].split('</think>')[-1] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant <think>{% endif %}"
    )
    renderer = Renderer(make_tokenizer(template, list(S), "</s>"))
    thoughtful = [MESSAGES[0], {"role": "assistant", "content": "Hello", "reasoning_content": "a guest"}, *MESSAGES]
    sequences = renderer.training_sequences(row(thoughtful))
    said = [renderer.tokenizer.decode(reply, skip_special_tokens=False) for _, reply in turns(sequences)]
    assert said == ["a guest\n</think>Hello</s>", "\n</think>Hello you</s>"]
    # Earlier thoughts are gone from what inference feeds, so the turns cannot stand in one sequence.
    assert renderer.prompt_ids(thoughtful[:3]) == turns(sequences)[1][0]
    assert len(sequences) == 2


@pytest.mark.parametrize(
    ("template", "messages", "said"),
    [
        (CHATML, IN_A_CALL, "leaves out a tool call"),
        (
            "{% for m in messages if m['role'] != 'tool' %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}",
            [*MESSAGES, {"role": "tool", "content": "21"}, *MESSAGES[1:]],
            "leaves out a message",
        ),
        (
            "{% for m in messages %}{{ m['role'] }}: {% if 'word' in m['content'] %}nothing{% else %}{{ m['content'] }}"
            "{% endif %}</s>{% endfor %}",
            [MESSAGES[0], {"role": "assistant", "content": "a word"}],
            "leaves out what the turn says",
        ),
    ],
    ids=["a call", "a tool's answer", "words"],
)
def test_what_the_template_leaves_out_is_not_trained_silently(
    make_tokenizer: TokenizerMaker, template: str, messages: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(RowFault, match=said):
        Renderer(make_tokenizer(template, [*S, *IM], "</s>")).training_sequences(row(messages))


def test_content_cannot_complete_a_special_token_beside_the_template(make_tokenizer: TokenizerMaker) -> None:
    template = "{% for m in messages %}<{{ m['content'] }}></s>{% endfor %}"
    renderer = Renderer(make_tokenizer(template, list(S), "</s>"))
    with pytest.raises(RowFault, match="would become a special token"):
        renderer.training_sequences(row([{"role": "user", "content": "s"}, MESSAGES[1]]))
    assert renderer.training_sequences(row([{"role": "user", "content": "b"}, MESSAGES[1]]))


@once
@given(
    conversations(CONTENT),
    st.sampled_from([*TEMPLATES_AT_FAULT.values(), *ODD_TEMPLATES.values(), *(f.template for f in FAMILIES.values())]),
)
def test_no_template_trains_on_what_inference_would_not_produce(
    make_tokenizer: TokenizerMaker, messages: list[Message], template: str
) -> None:
    """Templates that were written for other special tokens, and content that spells any of them."""
    renderer = Renderer(make_tokenizer(template, list(S), "</s>", "<s>"))
    try:
        sequences = renderer.training_sequences(row(messages))
    except (RequestError, RowFault):
        return
    for position, (prompt, reply) in zip(replies(messages), turns(sequences), strict=True):
        assert prompt == renderer.prompt_ids(messages[:position])
        assert [n for n, token in enumerate(reply) if token in renderer.stop_ids] == [len(reply) - 1]
        said = renderer.tokenizer.decode(reply[:-1], skip_special_tokens=False).replace("\u200b", "")
        assert messages[position]["content"].replace("\u200b", "").strip() in said


@once
@given(st.lists(conversations(CONTENT), max_size=5))
def test_many_are_rendered_as_one_by_one(make_tokenizer: TokenizerMaker, many: list[list[Message]]) -> None:
    family = FAMILIES["drops the reasoning of earlier turns"]
    renderer = Renderer(make_tokenizer(family.template, list(family.special), family.stop))
    rows = [row(messages) for messages in many]
    together = renderer.render_many(rows)
    alone = Renderer(make_tokenizer(family.template, list(family.special), family.stop))
    assert together == [alone.training_sequences(each) for each in rows]


def test_a_conversation_that_the_assistant_opens_is_refused(renderer: Renderer) -> None:
    """Before its first words there is no prompt."""
    with pytest.raises(RowFault, match="begins with the assistant"):
        renderer.training_sequences(row([{"role": "assistant", "content": "Welcome!"}, *MESSAGES]))
    with pytest.raises(RequestError, match="no message"):
        renderer.prompt_ids([])


def test_a_tokenizer_without_a_stop_token_learns_the_template_s(make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(CHATML, list(IM), None))
    assert renderer.stop_ids == (renderer.tokenizer.convert_tokens_to_ids("<|im_end|>"),)


def test_settings_of_generation_add_stop_tokens(make_tokenizer: TokenizerMaker) -> None:
    tokenizer = make_tokenizer(CHATML, list(IM), "<|endoftext|>")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    repository = tokenizer.convert_tokens_to_ids("<repo_name>")
    # Ids that the vocabulary does not have stop nothing.
    stops = Renderer(tokenizer, stop_ids=[repository, 10**6]).stop_ids
    assert set(stops) == {tokenizer.eos_token_id, end, repository}


def test_a_conversation_without_an_assistant_trains_nothing(make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(CHATML, list(IM), "<|im_end|>"))
    assert renderer.training_sequences(row([{"role": "user", "content": "Hi"}])) == []
    assert renderer.training_sequences(row([Turn(role="user"), Turn(role="assistant", train=False)])) == []


def test_without_a_template_only_plain_text_is_rendered(make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(None, list(S), "</s>", "<s>"))
    with pytest.raises(RequestError, match="builtin:chatml"):
        renderer.training_sequences(row(MESSAGES))
    with pytest.raises(RequestError, match="format: text"):
        renderer.prompt_ids(MESSAGES[:1])
    assert renderer.spelled_specials(PlainText(id="a", document="a", text="x</s>")) == ["</s>"]


@once
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | CONTENT, st.integers(2, 9))
def test_every_token_of_plain_text_is_trained_once(make_tokenizer: TokenizerMaker, text: str, longest: int) -> None:
    renderer = Renderer(make_tokenizer(None, list(S), "</s>", "<s>"))
    sequences = renderer.text_sequences(text, longest)
    trained = [token for _, reply in turns(sequences) for token in reply]
    assert renderer.tokenizer.decode(trained[:-1]).replace("\u200b", "") == text.replace("\u200b", "")
    assert trained[-1] == renderer.tokenizer.eos_token_id and trained.count(trained[-1]) == 1
    assert sequences[0].input_ids[0] == renderer.tokenizer.bos_token_id
    assert all(len(sequence.input_ids) <= longest and sequence.spans[0][0] == 1 for sequence in sequences)
    for earlier, later in pairwise(sequences):
        assert later.input_ids[0] == earlier.input_ids[-1]


def test_the_template_arguments_reach_training_and_inference(make_tokenizer: TokenizerMaker) -> None:
    template = "{{ mood }} {{ strftime_now('%Y') }}\n" + CHATML
    tokenizer = make_tokenizer(template, list(IM), "<|im_end|>")
    renderer = Renderer(tokenizer, {"mood": "kind", "strftime_now": "1999-12-31"})
    (sequence,) = renderer.training_sequences(row(MESSAGES))
    assert renderer.tokenizer.decode(sequence.input_ids).startswith("kind 1999\n")
    assert renderer.prompt_ids(MESSAGES[:1]) == turns([sequence])[0][0]
    assert any("1999-12-31" in remark for remark in renderer.remarks)
    # Without a word from the user, the date is the same on every day.
    unnamed = Renderer(tokenizer)
    assert "2025\n" in tokenizer.decode(unnamed.prompt_ids(MESSAGES[:1]))
    assert any("writes the date" in remark for remark in unnamed.remarks)


def test_remarks_name_a_start_token_that_the_template_forgets(make_tokenizer: TokenizerMaker) -> None:
    forgetful = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    assert any("<s>" in remark for remark in Renderer(make_tokenizer(forgetful, list(S), "</s>", "<s>")).remarks)
    mindful = "{{ bos_token }}" + forgetful
    assert not any("<s>" in remark for remark in Renderer(make_tokenizer(mindful, list(S), "</s>", "<s>")).remarks)


def test_what_a_row_can_do_without_is_named(make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(CHATML, list(IM), "<|im_end|>"))
    thoughtful = {"role": "assistant", "content": "Hello", "reasoning_content": "a guest"}
    tool = {"type": "function", "function": {"name": "look", "description": "", "parameters": {}}}
    assert renderer.left_out(row([MESSAGES[0], thoughtful], [tool])) == ("tools", "reasoning_content")
    assert renderer.left_out(row(MESSAGES)) == ()
