"""What a template shows of a conversation: proven once for all conversations of one outline, with marked words.

That the words of a turn stand somewhere in the text proves little: they may stand there for another reason, such as
the argument of a call. So every text and number of a conversation is marked, and rendered, once for each outline: the
roles, which fields are there, and what is called with which arguments. What templates do with the words themselves,
such as cutting them off, is seen by looking for them in each row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import escape

from hfkit.data.bounded_templates import TemplateFault
from hfkit.data.exchanges import Exchange, Exchanges
from hfkit.data.ledger import RowFault
from hfkit.data.template_shape import MessageDict

_THOUGHT = re.compile(r"\s*<([A-Za-z][\w-]*)>.*?</\1>", re.DOTALL)
_OUTLINES = 10_000


@dataclass(frozen=True, slots=True)
class Loss:
    """What the template leaves out: of the last message by what it is, of those before it by number, from 1."""

    turn: tuple[str, ...]
    context: tuple[str, ...]


class Shown:
    """Finds what one template leaves out of trained turns and of what comes before them."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        self._known: dict[object, Loss] = {}

    def losses(self, messages: Sequence[MessageDict], tools: Sequence[Mapping[str, Any]], exchange: Exchange) -> Loss:
        """What is lost of the last of `messages`, rendered as `exchange`, and of the messages before it."""
        outline = (tuple(map(_outline, messages)), bool(tools))
        loss = self._known.get(outline)
        if loss is None:
            if len(self._known) >= _OUTLINES:
                self._known.clear()
            loss = self._known[outline] = self._of_outline(messages, tools)
        turn = loss.turn or tuple(what for what, text in _texts(messages[-1]) if not _stands_in(text, exchange.reply))
        context = list(loss.context)
        for number, message in enumerate(messages[:-1], 1):
            if not _stands_in(message["content"], exchange.prompt):
                context.append(f"words of message {number} ({message['role']})")
        return Loss(turn, tuple(dict.fromkeys(context)))

    def _of_outline(self, messages: Sequence[MessageDict], tools: Sequence[Mapping[str, Any]]) -> Loss:
        for keep in (False, True):
            marks = _Marks(keep)
            marked = [marks.of_message(message) for message in messages]
            try:
                exchange = self._exchanges.of_last(marked, tools)
            except (RowFault, TemplateFault):
                # A template may want certain words, which then stay before the marks.
                continue
            last = len(messages)
            turn = [what for number, what, mark in marks.made if number == last and mark not in exchange.reply]
            context = [
                f"{what} of message {number} ({messages[number - 1]['role']})"
                for number, what, mark in marks.made
                if number < last and mark not in exchange.prompt
            ]
            return Loss(tuple(turn), tuple(context))
        return Loss((), ())


class _Marks:
    """Puts a mark of its own in the place of every text and number."""

    def __init__(self, keep: bool) -> None:
        self.made: list[tuple[int, str, str]] = []
        self._keep = keep
        self._message = 0

    def of_message(self, message: MessageDict) -> MessageDict:
        self._message += 1
        marked = dict(message)
        for field, what in (("content", "words"), ("reasoning_content", "reasoning")):
            if field in marked:
                marked[field] = self._text(marked[field], what)
        if "tool_calls" in marked:
            marked["tool_calls"] = [self._call(call) for call in marked["tool_calls"]]
        return marked

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        arguments = {
            key: self._value(value, f"the argument {key} of {function['name']}")
            for key, value in function["arguments"].items()
        }
        return {**call, "function": {**function, "arguments": arguments}}

    def _value(self, value: Any, what: str) -> Any:
        if isinstance(value, str):
            return self._text(value, what)
        if isinstance(value, Mapping):
            return {key: self._value(item, what) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(item, what) for item in value]
        if isinstance(value, bool) or value is None:
            return value
        number = 830_001_000 + len(self.made)
        self.made.append((self._message, what, str(number)))
        return number if isinstance(value, int) else number + 0.5

    def _text(self, text: str, what: str) -> str:
        if not text.strip():
            return text
        mark = f"Qzm{len(self.made)}q"
        self.made.append((self._message, what, mark))
        return text.rstrip() + mark if self._keep else mark


def _outline(message: MessageDict) -> tuple[object, ...]:
    content = message["content"]
    said = "" if not content else bool(content.strip())
    if len(message) == 2:
        return message["role"], said
    reasoning = message.get("reasoning_content")
    calls = tuple(
        (call["function"]["name"], _kinds(call["function"]["arguments"])) for call in message.get("tool_calls", ())
    )
    return message["role"], said, reasoning and bool(reasoning.strip()), calls, frozenset(message)


def _kinds(value: Any) -> object:
    """The keys and types of arguments."""
    if isinstance(value, Mapping):
        return tuple((key, _kinds(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_kinds, value))
    return type(value), isinstance(value, str) and bool(value.strip())


def _texts(message: MessageDict) -> list[tuple[str, str]]:
    """The words and the texts among the arguments of a trained turn."""
    found = [("words", message["content"])]
    for call in message.get("tool_calls", ()):
        function = call["function"]
        for key, value in function["arguments"].items():
            found += [(f"the argument {key} of {function['name']}", text) for text in _strings(value)]
    return found


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _strings(item)]
    return [text for item in value for text in _strings(item)] if isinstance(value, list | tuple) else []


def _stands_in(text: str, shown: str) -> bool:
    """Whether `text` stands in `shown`: as it is, in quotation marks, or word by word, a thought at its head aside."""
    text = text.strip()
    if text in shown:
        return True
    quoted = json.dumps(text, ensure_ascii=False)[1:-1]
    ways = (quoted, json.dumps(text)[1:-1], json.dumps(quoted, ensure_ascii=False)[1:-1], repr(text)[1:-1])
    if any(way in shown for way in (*ways, str(escape(text)))):
        return True
    thought = _THOUGHT.match(text)
    place = 0
    for word in text[thought.end() if thought else 0 :].split():
        found = shown.find(word, place)
        if found < 0:
            return False
        place = found + len(word)
    return True
