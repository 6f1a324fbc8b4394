"""Every text that an example holds, to look at or to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from pydantic import JsonValue

from hfkit.data.conversation import Conversation, Turn
from hfkit.data.examples import (
    Example,
    LabelledText,
    PlainText,
    Preference,
    RatedReply,
    RetrievalExample,
    TextPair,
)

Change = Callable[[str], str]
_Value = TypeVar("_Value")


def every_text(example: Example) -> Iterator[str]:
    """All texts of `example` that a model may see: those of its turns, calls and tools included."""
    match example:
        case Conversation():
            for turn in example.messages:
                yield from _turn_texts(turn)
            for tool in example.tools:
                yield from _strings(tool)
        case Preference():
            for turn in (*example.prompt, *example.chosen, *example.rejected):
                yield from _turn_texts(turn)
            yield from _strings(example.tools)
        case RatedReply():
            for turn in (*example.prompt, *example.completion):
                yield from _turn_texts(turn)
            yield from _strings(example.tools)
        case PlainText():
            yield example.text
        case LabelledText():
            yield example.text
            if example.second_text is not None:
                yield example.second_text
            if isinstance(example.label, str):
                yield example.label
        case TextPair():
            yield example.first
            yield example.second
        case RetrievalExample():
            yield example.query
            yield from example.positives
            yield from example.negatives


def with_texts(example: Example, change: Change) -> Example:
    """`example` with `change` applied to each of its texts."""
    match example:
        case Conversation():
            grounding = example.grounding
            if grounding is not None:
                grounding = grounding.model_copy(update={"question": change(grounding.question)})
            messages = _changed_turns(example.messages, change)
            tools = _changed(example.tools, change)
            return example.model_copy(update={"messages": messages, "tools": tools, "grounding": grounding})
        case Preference():
            return example.model_copy(
                update={
                    "prompt": _changed_turns(example.prompt, change),
                    "chosen": _changed_turns(example.chosen, change),
                    "rejected": _changed_turns(example.rejected, change),
                    "tools": _changed(example.tools, change),
                }
            )
        case RatedReply():
            return example.model_copy(
                update={
                    "prompt": _changed_turns(example.prompt, change),
                    "completion": _changed_turns(example.completion, change),
                    "tools": _changed(example.tools, change),
                }
            )
        case PlainText():
            return example.model_copy(update={"text": change(example.text)})
        case LabelledText():
            return example.model_copy(
                update={
                    "text": change(example.text),
                    "second_text": None if example.second_text is None else change(example.second_text),
                    "label": change(example.label) if isinstance(example.label, str) else example.label,
                }
            )
        case TextPair():
            return example.model_copy(update={"first": change(example.first), "second": change(example.second)})
        case RetrievalExample():
            return example.model_copy(
                update={
                    "query": change(example.query),
                    "positives": tuple(map(change, example.positives)),
                    "negatives": tuple(map(change, example.negatives)),
                }
            )


def _turn_texts(turn: Turn) -> Iterator[str]:
    if turn.reasoning_content is not None:
        yield turn.reasoning_content
    yield turn.content
    for call in turn.tool_calls:
        yield call.function.name
        yield from _strings(call.function.arguments)
    if turn.name is not None:
        yield turn.name


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _changed_turns(turns: tuple[Turn, ...], change: Change) -> tuple[Turn, ...]:
    return tuple(_changed_turn(turn, change) for turn in turns)


def _changed_turn(turn: Turn, change: Change) -> Turn:
    calls = tuple(
        call.model_copy(
            update={
                "function": call.function.model_copy(
                    update={
                        "name": change(call.function.name) or call.function.name,
                        "arguments": _changed(call.function.arguments, change),
                    }
                )
            }
        )
        for call in turn.tool_calls
    )
    reasoning = None if turn.reasoning_content is None else change(turn.reasoning_content)
    name = None if turn.name is None else change(turn.name)
    return turn.model_copy(
        update={"content": change(turn.content), "reasoning_content": reasoning, "tool_calls": calls, "name": name}
    )


def _changed(value: _Value, change: Change) -> _Value:
    """`value` with all its strings changed, keys included."""
    return _changed_json(value, change)  # type: ignore[return-value, arg-type]


def _changed_json(value: JsonValue | tuple[JsonValue, ...], change: Change) -> object:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _changed_json(inner, change) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(_changed_json(inner, change) for inner in value)
    if isinstance(value, list):
        return [_changed_json(inner, change) for inner in value]
    return value
