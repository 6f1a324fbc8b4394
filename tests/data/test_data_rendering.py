"""The exact tokens of training: those that inference, given the same prompt, must produce, and the stop token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hfkit.data.rendering import Renderer
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
    "a stop token between turns alone": "{% for m in messages %}{% if not loop.first %}</s>{% endif %}"
    "{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}</s>assistant: {% endif %}",
    "another prompt once the reply is there": "{{ messages | length }}{% for m in messages %}{{ m['content'] }}</s>"
    "{% endfor %}",
    "a generation prompt that training lacks": "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant <think>{% endif %}",
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


@pytest.fixture(params=FAMILIES, ids=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def renderer(family: Family, make_tokenizer: TokenizerMaker) -> Renderer:
    return Renderer(make_tokenizer(family.template, list(family.special), family.stop, family.start))


# A fixture that is the same for all examples of a test; what is tested changes nothing in it.
once = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@once
@given(conversations(PLAIN))
def test_what_is_trained_is_what_inference_must_say(
    family: Family, renderer: Renderer, messages: list[Message]
) -> None:
    sequences = renderer.training_sequences(messages)
    assert len(sequences) == len(replies(messages))
    for position, sequence in zip(replies(messages), sequences, strict=True):
        prompt = renderer.prompt_ids(messages[:position])
        assert list(sequence.input_ids[: sequence.prompt_length]) == prompt
        said = renderer.tokenizer.decode(sequence.reply_ids, skip_special_tokens=False)
        assert said == family.reply(messages[position]["content"]) + family.stop
        assert sequence.reply_ids[-1] == renderer.stop_id
        assert sequence.reply_ids.count(renderer.stop_id) == 1
        assert sequence.input_ids == (*prompt, *sequence.reply_ids)


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
    innocent: list[Message] = [{"role": message["role"], "content": "word"} for message in messages]
    sequences = renderer.training_sequences(messages)
    for sequence, harmless in zip(sequences, renderer.training_sequences(innocent), strict=True):
        found = [token for token in sequence.input_ids if token in special]
        assert found == [token for token in harmless.input_ids if token in special]
    for position, sequence in zip(replies(messages), sequences, strict=True):
        said = renderer.tokenizer.decode(sequence.reply_ids[:-1], skip_special_tokens=False)
        # What breaks a special token is a space of no width: whoever reads the text sees the same.
        assert said.replace("\u200b", "") == family.reply(messages[position]["content"].replace("\u200b", ""))


@once
@given(conversations(CONTENT))
def test_the_start_token_stands_once_and_first(family: Family, renderer: Renderer, messages: list[Message]) -> None:
    if family.start is None:
        return
    start = renderer.tokenizer.bos_token_id
    for sequence in renderer.training_sequences(messages):
        assert sequence.input_ids[0] == start
        assert sequence.input_ids.count(start) == 1


@once
@given(conversations(CONTENT))
@example([{"role": "user", "content": " ".join(SPELLED)}, {"role": "assistant", "content": "".join(SPELLED)}])
def test_spelled_special_tokens_are_reported(family: Family, renderer: Renderer, messages: list[Message]) -> None:
    spelled = {token for token in family.special if any(token in message["content"] for message in messages)}
    assert set(renderer.spelled_specials(messages)) == spelled


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
        for sequence in renderer.training_sequences(messages)
    )
    assert first == ("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>easy</think>2<|im_end|>")
    assert second == (
        "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>hm</think>4<|im_end|>"
    )


MESSAGES: list[Message] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello you"}]


@pytest.mark.parametrize("template", TEMPLATES_AT_FAULT.values(), ids=list(TEMPLATES_AT_FAULT))
def test_a_template_at_fault_is_refused(template: str, make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(template, list(S), "</s>", "<s>"))
    with pytest.raises(RequestError, match="the chat template"):
        renderer.training_sequences(MESSAGES)


@pytest.mark.parametrize("template", ODD_TEMPLATES.values(), ids=list(ODD_TEMPLATES))
def test_an_odd_template_is_refused_or_trained_right(template: str, make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(template, list(S), "</s>", "<s>"))
    try:
        (sequence,) = renderer.training_sequences(MESSAGES)
    except RequestError:
        return
    assert renderer.tokenizer.decode(sequence.reply_ids, skip_special_tokens=False) == "Hello you</s>"


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
        sequences = renderer.training_sequences(messages)
    except RequestError:
        return
    for position, sequence in zip(replies(messages), sequences, strict=True):
        assert list(sequence.input_ids[: sequence.prompt_length]) == renderer.prompt_ids(messages[:position])
        assert [n for n, token in enumerate(sequence.reply_ids) if token == renderer.stop_id] == [
            len(sequence.reply_ids) - 1
        ]
        said = renderer.tokenizer.decode(sequence.reply_ids[:-1], skip_special_tokens=False).replace("\u200b", "")
        assert messages[position]["content"].replace("\u200b", "").strip() in said


def test_a_conversation_that_the_assistant_opens_is_trained_or_refused(renderer: Renderer, family: Family) -> None:
    """Before its first words there is no prompt: a template either makes one of nothing, or it cannot be used."""
    messages: list[Message] = [{"role": "assistant", "content": "Welcome!"}, *MESSAGES]
    try:
        sequences = renderer.training_sequences(messages)
    except RequestError:
        return
    assert renderer.tokenizer.decode(sequences[-1].reply_ids) == family.reply("Hello you") + family.stop
    assert all(sequence.prompt_length > 0 for sequence in sequences)


def test_a_tokenizer_without_a_stop_token_is_refused(make_tokenizer: TokenizerMaker) -> None:
    with pytest.raises(RequestError, match="stop token"):
        Renderer(make_tokenizer(CHATML, list(IM), None))


def test_a_conversation_without_an_assistant_trains_nothing(make_tokenizer: TokenizerMaker) -> None:
    renderer = Renderer(make_tokenizer(CHATML, list(IM), "<|im_end|>"))
    assert renderer.training_sequences([{"role": "user", "content": "Hi"}]) == []
