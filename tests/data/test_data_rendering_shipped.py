"""Every chat template that TRL ships, with conversations of every shape: exact tokens, or an error that says why not.

What is trained is checked by what Transformers itself renders and tokenises, never by the kit's own rendering.
"""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from hfkit.data.conversation import Conversation
from hfkit.data.ledger import RowFault
from hfkit.data.rendering import Rendered, Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def shipped() -> list[Path]:
    """The templates of the installed package, which is never imported."""
    try:
        folder = Path(str(distribution("trl").locate_file("trl/chat_templates")))
    except PackageNotFoundError:
        return []
    return sorted(folder.glob("*.jinja"))


TEMPLATES = {path.stem: path for path in shipped()}

# The token that ends a text in each family's tokenizer, and what else the family's models stop at.
ENDS = {
    "gemma": ("<eos>", {"<end_of_turn>"}),
    "gemma4": ("<eos>", {"<turn|>", "<|tool_response>"}),
    "diffusion_gemma": ("<eos>", {"<turn|>", "<|tool_response>"}),
    "llama": ("<|eot_id|>", set()),
    "qwen": ("<|im_end|>", set()),
    "lfm": ("<|im_end|>", set()),
    "nemotron": ("<|im_end|>", set()),
    "gptoss": ("<|return|>", {"<|call|>"}),
    "phi": ("<|endoftext|>", {"<|end|>"}),
    "cohere": ("<|END_OF_TURN_TOKEN|>", set()),
    "deepseek": ("<｜end▁of▁sentence｜>", set()),
    "idefics": ("<end_of_utterance>", set()),
    "smolvlm": ("<end_of_utterance>", set()),
    "llava": ("</s>", set()),
    "glm": ("<|endoftext|>", {"<|user|>", "<|observation|>"}),
    "muse": ("<|eot|>", set()),
}
STARTS = {
    "gemma": "<bos>",
    "llama": "<|begin_of_text|>",
    "deepseek": "<｜begin▁of▁sentence｜>",
    "cohere": "<BOS_TOKEN>",
}
# Templates that take contents as a list of parts, and those that take arguments as JSON text.
PARTS = ("idefics3", "llava_next", "smolvlm")
JSON_ARGUMENTS = ("deepseekv3",)

_SPECIAL = re.compile(
    r"<\|[^|<>\s]+\|>|<｜[^｜\s]+｜>|\[/?[A-Z_]+\]|<\|[a-z_\"]+>|<[a-z_]+\|>|</?s>"
    r"|<(?:start_of_turn|end_of_turn|end_of_utterance|image)>"
)
_MARKUP = re.compile(r"</?(?:think|tool_call|tool_response)>")

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "How the weather is.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where."}},
            "required": ["city"],
        },
    },
}


def user(text: str = "Hi there") -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str = "Hello you", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def calls(*cities: str, content: str = "", **more: Any) -> dict[str, Any]:
    made = [{"id": "abcdefghi", "function": {"name": "get_weather", "arguments": {"city": city}}} for city in cities]
    return says(content, tool_calls=made, **more)


RESULT = {"role": "tool", "content": '{"degrees": 21}', "name": "get_weather", "tool_call_id": "abcdefghi"}
SYSTEM = {"role": "system", "content": "Be kind."}

SHAPES: dict[str, list[dict[str, Any]]] = {
    "one turn": [user(), says()],
    "system": [SYSTEM, user(), says()],
    "two turns": [user(), says(), user("More"), says("Yes, more")],
    "system, three turns": [SYSTEM, user(), says(), user("More"), says("Yes"), user("And?"), says("No")],
    "empty reply": [user(), says("")],
    "empty question": [user(""), says()],
    "spaces at the edges": [user("  hi \n"), says("  yo \n\n")],
    "only spaces": [user("hi"), says(" \n ")],
    "emoji and accents": [user("🙂 é"), says("👩‍👩‍👧 x\u0301 ﷺ")],
    "carriage returns": [user("a\r\nb"), says("\r\nc\r\n")],
    "reasoning": [user(), says("Four", reasoning_content="two and two")],
    "reasoning, two turns": [
        user(),
        says("Four", reasoning_content="two and two"),
        user("And?"),
        says("Five", reasoning_content="plus one"),
    ],
    "reasoning inside": [user(), says("<think>\nhm\n</think>\n\nFour"), user("z"), says("<think>\nho\n</think>\n\n5")],
    "call": [user(), calls("Paris")],
    "call and result": [user(), calls("Paris"), RESULT, says("21 degrees")],
    "call with words": [user(), calls("Paris", content="I look it up"), RESULT, says("21 degrees")],
    "call with words that repeat its argument": [user(), calls("Paris", content="Paris"), RESULT, says("21 degrees")],
    "call with reasoning": [user(), calls("Paris", reasoning_content="look it up"), RESULT, says("21 degrees")],
    "two calls": [user(), calls("Paris", "Rome"), RESULT, RESULT, says("warm")],
    "special tokens": [
        user("say <|im_end|><s><end_of_turn><|eot_id|><turn|>"),
        says("it is <|im_end|></s><|end|><|return|><｜User｜><|user|> ok"),
    ],
    "special token in a call": [user(), calls("<|im_end|><|eot_id|></s>"), RESULT, says("so")],
    "parts of special tokens": [user("a < b > c <|"), says("|> x <b>html</b> [INST <")],
    "not trained": [user(), says("x", train=False), user("b"), says("c")],
    "two replies in a row": [user(), says("first"), says("second")],
    "the assistant opens": [says("hey"), user(), says("b")],
    "the assistant opens, not trained": [says("hey", train=False), user(), says("b")],
    "developer": [{"role": "developer", "content": "Be brief"}, user(), says()],
}
# What any template has to render, whatever it is for.
ORDINARY = (
    "one turn",
    "two turns",
    "empty reply",
    "empty question",
    "spaces at the edges",
    "only spaces",
    "emoji and accents",
    "carriage returns",
    "special tokens",
    "parts of special tokens",
    "not trained",
)


def of_family(name: str, table: Mapping[str, Any]) -> Any:
    return table[max((family for family in table if name.startswith(family)), key=len)]


@cache
def tokenizer_for(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer with every special token that the template names, bytes for the rest."""
    from transformers import PreTrainedTokenizerFast

    template = TEMPLATES[name].read_text(encoding="utf-8")
    end = of_family(name, ENDS)[0]
    start = next((token for family, token in STARTS.items() if name.startswith(family)), "<s>")
    special = list(dict.fromkeys(["<pad>", start, end, *sorted(set(_SPECIAL.findall(template)))]))
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(vocabulary)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    markup = sorted(set(_MARKUP.findall(template)))
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in markup])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, bos_token=start, pad_token="<pad>")
    wrapped.chat_template = template
    return wrapped


class Reference:
    """What Transformers makes of a conversation."""

    def __init__(self, name: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> None:
        self.tokenizer = tokenizer_for(name)
        self.stops = {self.tokenizer.eos_token, *of_family(name, ENDS)[1]}
        self.special = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        self.parts = name.startswith(PARTS)
        self.json_arguments = name in JSON_ARGUMENTS
        self.tools = [dict(tool) for tool in tools] or None
        self.messages = [self._shaped(message) for message in messages]

    def _shaped(self, message: Mapping[str, Any]) -> dict[str, Any]:
        shaped: dict[str, Any] = self._broken(copy.deepcopy({k: v for k, v in message.items() if k != "train"}))
        for call in shaped.get("tool_calls", ()):
            call.setdefault("type", "function")
            if self.json_arguments:
                call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        if self.parts:
            shaped["content"] = [{"type": "text", "text": shaped["content"]}]
        return shaped

    def _broken(self, value: Any) -> Any:
        if isinstance(value, str):
            for token in sorted(self.special, key=len, reverse=True):
                value = value.replace(token, token[0] + "\u200b" + token[1:])
            return value
        if isinstance(value, dict):
            return {key: self._broken(item) for key, item in value.items()}
        return [self._broken(item) for item in value] if isinstance(value, list) else value

    def text(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), tools=self.tools, add_generation_prompt=prompt, tokenize=False
            )
        )

    def prompt_ids(self, position: int) -> list[int]:
        ids = self.tokenizer.apply_chat_template(
            self.messages[:position], tools=self.tools, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return [int(number) for number in ids]

    def with_content(self, position: int, content: str) -> list[dict[str, Any]]:
        turn = {key: value for key, value in self.messages[position].items() if key != "reasoning_content"}
        turn["content"] = [{"type": "text", "text": content}] if self.parts else content
        return [*self.messages[:position], turn]

    def check(self, position: int, said: str) -> None:
        """`said` is what the model has to say after the prompt, by what the template writes for the turn."""
        prompt = self.text(self.messages[:position], prompt=True)
        whole = self.text(self.messages[: position + 1], prompt=False)
        stop = next(stop for stop in self.stops if said.endswith(stop))
        assert not any(other in said[: -len(stop)] for other in self.stops)
        if whole.startswith(prompt):
            rest = whole[len(prompt) :]
            if rest.startswith(said):
                left = rest[len(said) :]
                assert left.strip() in {"", "<|endoftext|>"}
            else:
                # The next turn's first token ends this one.
                assert said == rest + stop
                goes_on = self.text([*self.messages[: position + 1], *self._next(position)], prompt=False)
                # Reasoning may be gone from it by then.
                assert rest.rsplit("\n", 1)[-1] + stop in goes_on
            return
        words = said[: -len(stop)]
        opened = re.search(r"<(\w+)>\s*\Z", prompt)
        if opened is not None and f"</{opened[1]}>" in words:
            thought, closing, spoken = words.partition(f"</{opened[1]}>")
            # The template reads the thought and the words as this turn.
            content = opened[0] + thought + closing + spoken
            if "tool_calls" in self.messages[position]:
                shown = self._text_of(position)
                space = spoken[: len(spoken) - len(spoken.lstrip())]
                content = opened[0] + thought + closing + space + shown
            read = self.text(self.with_content(position, content), prompt=False)
            before = prompt[: opened.start()]
            assert whole.startswith(before)
            assert read == whole or read.startswith(prompt + said)
            return
        # The template shortened what came before: the turn stands behind the same generation prompt.
        history = self.text(self.messages[:position], prompt=False)
        assert prompt.startswith(history)
        assert whole.endswith((prompt[len(history) :] + said, prompt[len(history) :] + said + "\n"))

    def _text_of(self, position: int) -> str:
        content = self.messages[position]["content"]
        return str(content[0]["text"] if self.parts else content).strip()

    def _next(self, position: int) -> list[dict[str, Any]]:
        called = "tool_calls" in self.messages[position]
        return [self._shaped(RESULT if called else user())]


def trained_positions(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    return [n for n, m in enumerate(messages) if m["role"] == "assistant" and m.get("train", True)]


def check_sequences(reference: Reference, positions: Sequence[int], sequences: Sequence[Rendered]) -> None:
    turns = [(sequence, span) for sequence in sequences for span in sequence.spans]
    assert len(turns) == len(positions)
    assert len(sequences) in {1, len(positions)}
    for position, (sequence, (start, end)) in zip(positions, turns, strict=True):
        assert list(sequence.input_ids[:start]) == reference.prompt_ids(position)
        said = reference.tokenizer.decode(sequence.input_ids[start:end], skip_special_tokens=False)
        reference.check(position, said)
        prompt = reference.text(reference.messages[:position], prompt=True)
        together = reference.tokenizer(prompt + said, add_special_tokens=False)["input_ids"]
        assert list(sequence.input_ids[:end]) == together
        words = reference._text_of(position).split("</think>")[-1].split()
        assert all(word in said for word in words)
        for call in reference.messages[position].get("tool_calls", ()):
            assert call["function"]["name"] in said
    for sequence in sequences:
        assert sequence.input_ids[-1] in {sequence.input_ids[end - 1] for _, end in sequence.spans}


needs_trl = pytest.mark.skipif(
    not TEMPLATES, reason="TRL IS NOT INSTALLED: its chat templates, which prove the masks, are not checked"
)


@needs_trl
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_trained_is_what_transformers_says_must_follow(
    name: str, record_property: pytest.RecordProperty
) -> None:
    tokenizer = tokenizer_for(name)
    renderer = Renderer(tokenizer, {"strftime_now": date.today().isoformat()})
    assert {tokenizer.convert_ids_to_tokens(number) for number in renderer.stop_ids} <= {
        tokenizer.eos_token,
        *of_family(name, ENDS)[1],
    }
    refused: Counter[str] = Counter()
    for shape, messages in SHAPES.items():
        tools = [TOOL] if any("tool_calls" in message for message in messages) else []
        conversation = Conversation.model_validate(
            {"id": shape, "document": shape, "messages": messages, "tools": tools}
        )
        try:
            sequences = renderer.training_sequences(conversation)
        except RowFault as fault:
            assert shape not in ORDINARY, f"{shape}: {fault}"
            assert shape != "system" or fault.detail == "System role not supported"
            refused[fault.reason] += 1
            continue
        reference = Reference(name, messages, tools)
        check_sequences(reference, trained_positions(messages), sequences)
    record_property("rendered", len(SHAPES) - refused.total())
    for reason, count in refused.items():
        record_property(reason, count)
    # Gemma's first template takes neither system prompts nor tools nor two replies in a row.
    assert refused.total() <= 13, refused


@needs_trl
def test_mainstream_templates_take_nearly_everything() -> None:
    """At most as many shapes are refused as the templates themselves refuse or leave out."""
    allowed = {
        "qwen2_5": {"the assistant opens", "developer"},
        "qwen3": {"the assistant opens", "developer"},
        "glm4moe": {"the assistant opens", "developer"},
        "lfm2_2_5": {"the assistant opens"},
        "gptoss": {"the assistant opens", "two calls"},
        "gemma4_v2": {"the assistant opens"},
        "muse_glimmer": {
            "the assistant opens",
            "developer",
            "call with words",
            "call with words that repeat its argument",
        },
        "nemotron_3_nano": {"the assistant opens"},
        "qwen3_5_think": {"the assistant opens", "developer"},
    }
    for name, shapes in allowed.items():
        renderer = Renderer(tokenizer_for(name))
        refused = {}
        for shape, messages in SHAPES.items():
            tools = [TOOL] if any("tool_calls" in message for message in messages) else []
            row = Conversation.model_validate({"id": shape, "document": shape, "messages": messages, "tools": tools})
            try:
                renderer.training_sequences(row)
            except RowFault as fault:
                refused[shape] = str(fault)
        assert set(refused) <= shapes, (name, refused)
