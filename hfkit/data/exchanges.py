"""One trained turn as text: the prompt that inference will feed, and what has to be said after it.

What has to be said is read off what the template writes: with the turn, and without it but with the generation prompt.
Where the one does not begin with the other, a reply is taken only if the template itself shows it to be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hfkit.data.ledger import RowFault
from hfkit.data.special_tokens import changed_texts
from hfkit.data.template_shape import Ending, MessageDict, Render, Shape

_OPENED = re.compile(r"<([A-Za-z][\w-]*)>\s*\Z")
_MARK = "Qzmark"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A trained turn: the prompt, and what the model has to say after it, the stop token at its end."""

    prompt: str
    reply: str


class Exchanges:
    """Finds exchanges with one template.

    Args:
        write: the template.
        shape: what is known of it.
        marks: finds added tokens in text.
    """

    def __init__(self, write: Render, shape: Shape, marks: re.Pattern[str]) -> None:
        self._write = write
        self._shape = shape
        self._marks = marks

    def of_last(self, messages: Sequence[MessageDict], tools: Sequence[Mapping[str, Any]]) -> Exchange:
        """The last of `messages` as what has to be said after the prompt that the others make.

        Raises:
            TemplateFault: the template refuses the messages.
            RowFault: it cannot show the turn as inference would.
        """
        form = self._shape.form
        prompt = self._write(messages[:-1], form, True, tools)
        whole = self._write(messages, form, False, tools)
        said: str | None = whole[len(prompt) :]
        if not whole.startswith(prompt):
            said = self._after_thought(messages, tools, prompt, whole)
            if said is None:
                said = self._after_other_history(messages, tools, prompt, whole)
        if said is None:
            raise RowFault(
                "the chat template shows the prompt differently once the reply follows it",
                "training could not show what inference feeds; see whether a template argument "
                "(model.template_arguments, such as enable_thinking) changes that, or name another template in "
                "model.chat_template",
            )
        reply = self._up_to_stop(said, messages, tools)
        _require_calls(reply, messages[-1])
        return Exchange(prompt, reply)

    def _after_thought(
        self, messages: Sequence[MessageDict], tools: Sequence[Mapping[str, Any]], prompt: str, whole: str
    ) -> str | None:
        """What has to be said after a generation prompt that opens a tag which the turn does not show, such as <think>.

        The thought, or nothing, and the closing tag have to come first. Tried is the same turn with its thought spelled
        out, and it is right where the template proves it to be the same: it writes the thought and nothing else more,
        or drops it at once, or shows the same history once the conversation goes on.
        """
        opened = _OPENED.search(prompt)
        if opened is None or not whole.startswith(prompt[: opened.start()]):
            return None
        before, after = whole[: opened.start()], whole[opened.start() :]
        form, last = self._shape.form, messages[-1]
        for thought, words in _spelled_out(last, opened[1]):
            turn = {key: value for key, value in last.items() if key != "reasoning_content"}
            turn["content"] = opened[0] + thought + words
            spelled_out = self._write([*messages[:-1], turn], form, False, tools)
            if spelled_out == whole:
                return thought + after
            if spelled_out.startswith(prompt):
                said = spelled_out[len(prompt) :]
                # A thought that the turn has spells its own tag, and the prompt fixes the space behind it.
                own = after.removeprefix(f"<{opened[1]}>")
                if spelled_out in (before + opened[0] + thought + after, before + opened[0] + own.lstrip()):
                    return said
                goes_on = {"role": "user", "content": _MARK}
                if self._write([*messages[:-1], turn, goes_on], form, False, tools) == self._write(
                    [*messages, goes_on], form, False, tools
                ):
                    return said
        return None

    def _after_other_history(
        self, messages: Sequence[MessageDict], tools: Sequence[Mapping[str, Any]], prompt: str, whole: str
    ) -> str | None:
        """What has to be said after `prompt`, where the template shortens what came before once the turn is there.

        That is what it writes for the turn right after a question, if `whole` ends in the very same: behind the same
        generation prompt.
        """
        form = self._shape.form
        history = self._write(messages[:-1], form, False, tools)
        opening = prompt[len(history) :] if prompt.startswith(history) else ""
        question = next((message for message in reversed(messages[:-1]) if message["role"] == "user"), None)
        if not opening or question is None:
            return None
        short_prompt = self._write([question], form, True, tools)
        short = self._write([question, messages[-1]], form, False, tools)
        if not short_prompt.endswith(opening) or not short.startswith(short_prompt):
            return None
        said = short[len(short_prompt) :]
        return said if whole.endswith(opening + said) else None

    def _up_to_stop(self, said: str, messages: Sequence[MessageDict], tools: Sequence[Mapping[str, Any]]) -> str:
        shape = self._shape
        for token in self._marks.finditer(said):
            if token[0] in shape.stops:
                rest = said[token.end() :]
                if rest not in shape.tails and not self._is_fixed(rest, messages, tools):
                    raise RowFault(
                        "the chat template writes the stop token before the turn is over", f"{token[0]} before {rest!r}"
                    )
                return said[: token.end()]
        ending: Ending = "call" if messages[-1].get("tool_calls") else "words"
        if ending not in shape.continuations:
            raise RowFault(
                "the chat template writes no stop token after this turn", "name another template in model.chat_template"
            )
        return said + shape.continuations[ending]

    def _is_fixed(self, rest: str, messages: Sequence[MessageDict], tools: Sequence[Mapping[str, Any]]) -> bool:
        """Whether what follows the stop token is the same whatever is said."""
        marked = changed_texts(messages[-1], lambda text: text + _MARK if text.strip() else text)
        other = self._write([*messages[:-1], marked], self._shape.form, False, tools)
        return _MARK in other[: len(other) - len(rest)] and other.endswith(rest) and _MARK not in rest


def _require_calls(reply: str, last: MessageDict) -> None:
    """A turn of which the template leaves a call out would be trained as another turn."""
    calls = [call["function"]["name"] for call in last.get("tool_calls", ())]
    for name in set(calls):
        if reply.count(name) < calls.count(name):
            raise RowFault("the chat template leaves out a tool call", f"of {name}")


def _spelled_out(turn: MessageDict, tag: str) -> list[tuple[str, str]]:
    """The thought of a turn up to and including the closing tag, and its words: the ways in which it may be written."""
    content = str(turn["content"])
    thought = turn.get("reasoning_content")
    inline = re.match(rf"\s*<{tag}>\s*(.*?</{tag}>)", content, re.DOTALL)
    if inline is not None and not thought:
        return [(inline[1], content[inline.end() :])]
    closings = (f"\n</{tag}>\n\n", f"\n</{tag}>\n", f"\n</{tag}>", f"</{tag}>")
    return [(str(thought or "") + closing, content) for closing in closings]
