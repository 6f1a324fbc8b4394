"""A tokenizer's chat template: what it writes, and what it does, found out once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue

from hfkit.data.bounded_templates import TemplateFault
from hfkit.data.chat_template import DATE, ChatTemplate
from hfkit.data.special_tokens import ControlTokens, any_of, special_token_texts
from hfkit.data.template_shape import Form, MessageDict, Shape, find_shape
from hfkit.data.tokenising import Tokens
from hfkit.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OTHER = "name another template in model.chat_template"


class TokenizerTemplate:
    """The chat template of `tokenizer`, which may have none: then only plain text can be rendered.

    Args:
        tokenizer: its own, or the one that the recipe gave it.
        template_arguments: what the template is given beside the messages (`model.template_arguments`).
        stop_ids: tokens that end a reply by the model's own generation settings, beside the tokenizer's `eos_token`.

    Attributes:
        tokens: the tokenizer for texts that a template wrote.
        known_stops: the tokens that end a reply whatever the template does; `known_stop_texts` their texts.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template_arguments: Mapping[str, JsonValue] | None,
        stop_ids: Sequence[int],
    ) -> None:
        self.tokenizer = tokenizer
        self._arguments = dict(template_arguments or {})
        self._variables = {**tokenizer.special_tokens_map, **self._arguments}
        self._added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        for name in special_token_texts(tokenizer) - set(self._added):
            self._added[name] = int(cast(int, tokenizer.convert_tokens_to_ids(name)))
        by_number = {number: text for text, number in self._added.items()}
        eos = [] if tokenizer.eos_token is None else [self._added[str(tokenizer.eos_token)]]
        self.known_stops = tuple(
            dict.fromkeys([*eos, *(number for number in stop_ids if 0 <= number < len(tokenizer))])
        )
        self.known_stop_texts = [by_number[number] for number in self.known_stops if number in by_number]
        self.tokens = Tokens(tokenizer)
        self._templates: dict[str, ChatTemplate] = {}

    def text(
        self,
        messages: Sequence[MessageDict],
        form: Form,
        generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]],
    ) -> str:
        """What the template writes.

        Raises:
            TemplateFault: it refuses, or fails.
        """
        given = [dict(tool) for tool in tools] or None
        text = self.tokenizer.get_chat_template(None, given)
        template = self._templates.get(text)
        if template is None:
            template = self._templates[text] = ChatTemplate(text)
        shaped = [_shaped(message, form) for message in messages]
        return template.render(shaped, generation_prompt=generation_prompt, tools=given, variables=self._variables)

    @cached_property
    def shape(self) -> Shape:
        """What the template writes around messages, and which of their parts it hides.

        Raises:
            RequestError: there is no template, or it can never be used.
        """
        if self.tokenizer.chat_template is None:
            raise RequestError(
                "the model's tokenizer has no chat template. Name one in model.chat_template: a Jinja file, "
                "builtin:chatml or builtin:plain; or train on plain text (data.sources: format: text)"
            )
        if isinstance(self._found_shape, str):
            raise RequestError(self._found_shape)
        return self._found_shape

    @cached_property
    def _found_shape(self) -> Shape | str:
        """The shape, or why the template can never be used. That is kept as well: every row of an evaluation asks, and
        a template without end takes its time to be refused."""
        try:
            shape = find_shape(self.text, self._added, special_token_texts(self.tokenizer), self.known_stop_texts)
            self._refuse_two_starts(shape.form)
        except RequestError as error:
            return str(error)
        except TemplateFault as fault:
            return f"the chat template does not render a question that is to be answered: {fault}; {_OTHER}"
        return shape

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply: what generation has to stop at, and what a tuned model's settings must name.

        Raises:
            RequestError: the template cannot be used.
        """
        if self.tokenizer.chat_template is None:
            return self.known_stops
        ends = [self.shape.continuations[ending] for ending in sorted(self.shape.continuations)]
        own = [self._added[text] for text in sorted(self.shape.stops - set(self.known_stop_texts))]
        last = [self._added[self.marks.findall(text)[-1]] for text in ends]
        return tuple(dict.fromkeys([*self.known_stops, *own, *last]))

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of this template; full sentences."""
        remarks = []
        tokenizer = self.tokenizer
        self.shape  # noqa: B018  (renders, which shows whether the template asks for the date)
        if any(template.reads_date for template in self._templates.values()):
            date = self._arguments.get("strftime_now", DATE.date().isoformat())
            remarks.append(
                f"The chat template writes the date. Training and hfkit's own inference both show it {date}, so that "
                "the prompts are the same; model.template_arguments: {strftime_now: 2025-12-31} names another."
            )
        if tokenizer.bos_token is not None and self.adds_start:
            prompt = self.text([{"role": "user", "content": "Hi"}], self.shape.form, True, ())
            if tokenizer.bos_token not in prompt:
                remarks.append(
                    f"The tokenizer begins plain text with {tokenizer.bos_token}, and the chat template does not write "
                    "it. Like Transformers' apply_chat_template, hfkit adds none; a template that begins with "
                    "{{ bos_token }} does."
                )
        left_out = {"tools": "tools", "reasoning_content": "reasoning"}
        for part, word in left_out.items():
            if part in self.shape.hidden:
                remarks.append(f"The chat template does not show {word}: neither at training nor at inference.")
        return tuple(remarks)

    @cached_property
    def marks(self) -> re.Pattern[str]:
        """Finds added tokens in text."""
        return any_of(self._added)

    @cached_property
    def control(self) -> ControlTokens:
        """The tokens that content must not spell."""
        special = special_token_texts(self.tokenizer)
        if self.tokenizer.chat_template is None:
            return ControlTokens(special)
        stops = {self.marks.findall(text)[-1] for text in self.shape.continuations.values()} | self.shape.stops
        return ControlTokens(special | self.shape.between | stops)

    @cached_property
    def adds_start(self) -> bool:
        """Whether the tokenizer puts its start token before plain text."""
        start = self.tokenizer.bos_token_id
        return start is not None and list(self.tokenizer("a")["input_ids"])[:1] == [start]

    def _refuse_two_starts(self, form: Form) -> None:
        start = self.tokenizer.bos_token_id
        ids = self.tokens.encode(self.text([{"role": "user", "content": "Hi"}], form, True, ()))
        if start is not None and ids[:2] == [start, start]:
            raise RequestError(f"the chat template writes the start token {self.tokenizer.bos_token} twice; {_OTHER}")


def _shaped(message: Mapping[str, Any], form: Form) -> MessageDict:
    """The message in the form that the template wants, reasoning under the names that templates know."""
    shaped = dict(message)
    reasoning = shaped.get("reasoning_content")
    if reasoning is not None:
        shaped = {"thinking": reasoning, **shaped}
    if form.parts:
        shaped["content"] = [{"type": "text", "text": shaped["content"]}]
    if form.json_arguments and "tool_calls" in shaped:
        shaped["tool_calls"] = [_with_json_arguments(call) for call in shaped["tool_calls"]]
    return shaped


def _with_json_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
