"""How a chat template and a tokenizer fit together, found out by rendering small conversations of marked words.

Nothing here knows any template. What is found out: in what form the template takes contents and arguments, which roles
and parts it shows, which token ends an assistant's turn, and which tokens it writes between turns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hfkit.data.bounded_templates import TemplateFault
from hfkit.data.special_tokens import any_of, is_markup, shared_start
from hfkit.errors import RequestError

MessageDict: TypeAlias = dict[str, Any]
Ending = Literal["words", "call"]

Render: TypeAlias = Callable[[Sequence[MessageDict], "Form", bool, Sequence[Mapping[str, Any]]], str]
"""The text of messages in a form, with or without a generation prompt, with tools."""

# Words that no template writes, changes or looks for.
_SYSTEM, _QUESTION, _ANSWER, _NEXT = "Qzsystem", "Qzquestion", "Qzanswer", "Qznext"
_THOUGHT, _TOOL, _ARGUMENT, _RESULT = "Qzthought", "qztool", "Qzargument", "Qzresult"

_TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": _TOOL,
            "description": "Looks up a place.",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string", "description": "Its name."}},
                "required": ["place"],
            },
        },
    },
)


@dataclass(frozen=True, slots=True)
class Form:
    """How messages are handed to the template.

    Attributes:
        parts: contents as a list with one part of type text, which templates of vision models may want.
        json_arguments: the arguments of calls as JSON text, where a template cannot take an object.
    """

    parts: bool = False
    json_arguments: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a template.

    Attributes:
        stops: the texts of the tokens that end an assistant's turn.
        continuations: where the template closes turns with what begins the next one alone: what that is, after words
            and after a call. Up to and including the token that stops.
        tails: what the template was seen to write after the stop at the end of a conversation.
        between: tokens that the template writes between turns.
        hidden: roles and parts (`reasoning_content`, `tools`, `tool_calls`) that the template does not show.
    """

    form: Form
    stops: frozenset[str]
    continuations: Mapping[Ending, str]
    tails: frozenset[str]
    between: frozenset[str]
    hidden: frozenset[str]


def find_shape(render: Render, added: Collection[str], special: Collection[str], known_stops: Collection[str]) -> Shape:
    """Renders small conversations and reads off what the template does.

    Args:
        render: the template, bound to its variables.
        added: the texts of all added tokens; `special`: those flagged as special; `known_stops`: those that the
            tokenizer's `eos_token` and the model's generation settings name.

    Raises:
        RequestError: the template cannot be used at all.
    """
    form = _find_form(render)
    marks = any_of(added)
    ends: dict[Ending, str] = {}
    continuations: dict[Ending, str] = {}
    tails = set()
    between: set[str] = set()
    question = _message("user", _QUESTION)
    follow_ups: dict[Ending, tuple[MessageDict, str, MessageDict, str, Sequence[Mapping[str, Any]]]] = {
        "words": (_message("assistant", _ANSWER), _ANSWER, _message("user", _NEXT), _NEXT, ()),
        "call": (_call(), _ARGUMENT, _result(), _RESULT, _TOOLS),
    }
    for ending, (reply, last_word, follow_up, next_word, tools) in follow_ups.items():
        try:
            whole = render([question, reply], form, False, tools)
        except TemplateFault:
            continue
        try:
            longer = render([question, reply, follow_up], form, False, tools)
        except TemplateFault:
            longer = ""
        if last_word not in whole:
            continue
        tail = whole[whole.rindex(last_word) + len(last_word) :]
        following = _between(longer, last_word, next_word)
        between |= set(marks.findall(following))
        stop = _stop(tail, following, marks, known_stops, added)
        if stop is not None:
            ends[ending] = stop
            tails.add(tail[tail.index(stop) + len(stop) :])
        elif following.startswith(tail):
            begins = _first(following[len(tail) :], marks, added)
            if begins is not None:
                continuations[ending] = begins
    if "words" not in ends and "words" not in continuations:
        raise RequestError(
            "the chat template does not end an assistant's turn with a stop token, so the model would never learn to "
            "stop. Name another template in model.chat_template (a Jinja file, or builtin:chatml), one that writes "
            "{{ eos_token }} after what the assistant says"
        )
    opening = _try(render, [question], form, True)
    between |= set(marks.findall(opening or ""))
    return Shape(
        form=form,
        stops=frozenset({*ends.values(), *known_stops}),
        continuations=continuations,
        tails=frozenset(tails),
        between=frozenset(token for token in between if not is_markup(token, added)),
        hidden=_hidden(render, form),
    )


def _message(role: str, content: str) -> MessageDict:
    return {"role": role, "content": content}


def _call() -> MessageDict:
    function = {"name": _TOOL, "arguments": {"place": _ARGUMENT}}
    call = {"type": "function", "id": "call00001", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _result() -> MessageDict:
    return {"role": "tool", "content": _RESULT, "name": _TOOL, "tool_call_id": "call00001"}


def _try(
    render: Render,
    messages: Sequence[MessageDict],
    form: Form,
    generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str | None:
    """The text, or None where the template refuses."""
    try:
        return render(messages, form, generation_prompt, tools)
    except TemplateFault:
        return None


def _find_form(render: Render) -> Form:
    """The form in which the template shows what is said."""
    messages = [_message("user", _QUESTION), _message("assistant", _ANSWER)]
    refusal: TemplateFault | None = None
    parts = None
    for candidate in (False, True):
        try:
            text = render(messages, Form(parts=candidate), False, ())
        except TemplateFault as fault:
            refusal = refusal or fault
            continue
        # A template that writes what it is given, whatever it is, shows a list in quotation marks.
        quoted = any(f"{mark}{_ANSWER}{mark}" in text for mark in "\"'")
        if _QUESTION in text and _ANSWER in text and not (candidate and quoted):
            parts = candidate
            break
    if parts is None:
        if refusal is not None:
            raise RequestError(
                f"the chat template does not render a question and its answer: {refusal}. "
                "Mend it, or name another template in model.chat_template"
            ) from refusal
        raise RequestError(
            "the chat template does not show what the user and the assistant say; "
            "name another template in model.chat_template"
        )
    for as_json in (False, True):
        text = _try(render, [messages[0], _call()], Form(parts, as_json), False, _TOOLS) or ""
        # A template that joins an object to text writes it as Python does, in single quotes.
        if _ARGUMENT in text and f"'{_ARGUMENT}'" not in text:
            return Form(parts, as_json)
    return Form(parts)


def _between(text: str, first: str, second: str) -> str:
    """What stands between the last `first` before the last `second`, and that one; empty where they do not."""
    end = text.rfind(second)
    start = text.rfind(first, 0, max(end, 0))
    return text[start + len(first) : end] if 0 <= start < end else ""


def _stop(
    tail: str, following: str, marks: re.Pattern[str], known_stops: Collection[str], added: Collection[str]
) -> str | None:
    """The token that ends the turn: in `tail`, which ends a conversation; `following` is what stands there when the
    conversation goes on.

    A token that is known to stop, or the last token that the template writes in both places: whatever comes first.
    """
    ended = list(marks.finditer(tail))
    goes_on = marks.finditer(following)
    shared = len(shared_start(tail, following))
    last = None
    known = None
    for token in ended:
        # Where the text goes on, a longer token may stand there.
        other = next(goes_on, None)
        if token.end() <= shared and other is not None and other[0] == token[0] and not is_markup(token[0], added):
            last = token
        if known is None and token[0] in known_stops:
            known = token
    found = [token for token in (known, last) if token is not None]
    return min(found, key=lambda token: token.start())[0] if found else None


def _first(text: str, marks: re.Pattern[str], added: Collection[str]) -> str | None:
    """`text` up to and including the added token it begins with."""
    token = marks.match(text, len(text) - len(text.lstrip()))
    return None if token is None or is_markup(token[0], added) else text[: token.end()]


def _hidden(render: Render, form: Form) -> frozenset[str]:
    """Roles and parts that the template takes and does not show. What it refuses, it says itself."""
    question, answer = _message("user", _QUESTION), _message("assistant", _ANSWER)
    thoughtful = {**answer, "reasoning_content": _THOUGHT, "thinking": _THOUGHT}
    shown = {
        "system": ([_message("system", _SYSTEM), question, answer], (), _SYSTEM),
        "developer": ([_message("developer", _SYSTEM), question, answer], (), _SYSTEM),
        "tool": ([question, _call(), _result(), answer], _TOOLS, _RESULT),
        "reasoning_content": ([question, thoughtful], (), _THOUGHT),
        "tools": ([question, answer], _TOOLS, _TOOL),
        "tool_calls": ([question, _call()], (), _TOOL),
    }
    hidden = set()
    for name, (messages, tools, word) in shown.items():
        text = _try(render, messages, form, False, tools)
        if text is not None and word not in text:
            hidden.add(name)
    return frozenset(hidden)
