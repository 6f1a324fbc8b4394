"""The turns of a conversation, in the ways that datasets write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from hfkit.data.conversation import Conversation, Role, ToolCall, Turn
from hfkit.data.formats.format import Origin
from hfkit.data.formats.tool_calls import tool_calls_in
from hfkit.data.formats.values import described, is_list, is_truth, parsed, read_json, refuse, text_of
from hfkit.data.ledger import RowFault

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
}
# Roles under which ShareGPT writes calls as a turn of their own.
_CALLS = frozenset({"function_call", "tool_call"})

_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value", "text")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_READ = frozenset(
    {*_ROLE_KEYS, *_CONTENT_KEYS, *_REASONING_KEYS}
    | {"tool_calls", "function_call", "tool_call_id", "name", "train", "weight"}
)
# Keys whose loss would change what the turn says; others are somebody's own, and are noted.
_CONTENT_THAT_IS_NO_TEXT = frozenset(
    {"image", "images", "image_url", "audio", "audios", "input_audio", "video", "videos", "file", "files"}
    | {"attachments", "refusal", "parts", "tool_use", "tool_result", "tool_results"}
)
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def read_turns(value: Any, where: str, origin: Origin) -> tuple[Turn, ...]:
    """The turns of a list of messages, or of its JSON text.

    Raises:
        RowFault: a turn is not a message, has no known role, or says something that a Turn cannot hold.
    """
    messages = parsed(value, where)
    if isinstance(messages, Mapping):
        messages = [messages]
    if not is_list(messages):
        refuse("no list of turns", value, where)
    if not messages:
        raise RowFault("a conversation without turns", where)
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        place = f"{where}.{number}"
        if not isinstance(message, Mapping):
            refuse("a turn that is not an object", message, place)
        if len(message) == 2:
            # Nearly all turns are just these two, and there are millions of them.
            role, content = message.get("role"), message.get("content")
            if role in ("user", "assistant", "system") and isinstance(content, str):
                turns.append(Turn(role=role, content=content))
                continue
        turn, is_call = _read_turn(message, place, origin)
        last = turns[-1] if turns else None
        if is_call and last is not None and last.role == "assistant" and last.train == turn.train:
            # What an assistant says and calls before anybody answers is one turn to the model.
            turns[-1] = last.model_copy(update={"tool_calls": (*last.tool_calls, *turn.tool_calls)})
        else:
            turns.append(turn)
    return tuple(turns)


def _read_turn(message: Mapping[str, Any], place: str, origin: Origin) -> tuple[Turn, bool]:
    """The turn, and whether it is nothing but calls, written under a role of their own."""
    named = _first(message, _ROLE_KEYS)
    if not isinstance(named, str):
        refuse("a turn without a role", named, f"{place}.role")
    written = named.strip().lower()
    role = _ROLES.get(written)
    if role is None:
        raise RowFault("an unknown role", f"{place}.role is {described(named)}")
    _leave_nothing_out(message, place, origin)
    content = _first(message, _CONTENT_KEYS)
    calls: tuple[ToolCall, ...] = ()
    if written in _CALLS:
        calls, content = tool_calls_in(_call_text(content, place), f"{place}.value"), None
    calls = (*calls, *_calls_of(message, place))
    if calls and role != "assistant":
        raise RowFault("a tool call by somebody who is not the assistant", f"{place}.tool_calls")
    text, thought = _content(content, bool(calls), place)
    reasoning = _first(message, _REASONING_KEYS)
    if reasoning is not None:
        reasoning = text_of(reasoning, f"{place}.reasoning_content")
        thought = reasoning if thought is None else thought + reasoning
    if thought is not None and role != "assistant":
        if thought.strip():
            raise RowFault("reasoning by somebody who is not the assistant", place)
        thought = None
    turn = Turn(
        role=role,
        content=text,
        reasoning_content=thought if thought else None,
        tool_calls=calls,
        name=_word(message, "name", place),
        tool_call_id=_word(message, "tool_call_id", place),
        train=_is_trained(message, role, place, origin),
    )
    return turn, written in _CALLS


def _first(message: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((message[key] for key in keys if message.get(key) is not None), None)


def _leave_nothing_out(message: Mapping[str, Any], place: str, origin: Origin) -> None:
    # Tables give every message every key, with null in those that it has not.
    others = [key for key in message if key not in _READ and message[key] not in (None, "", [], {})]
    for key in others:
        if key in _CONTENT_THAT_IS_NO_TEXT:
            raise RowFault("content that is not text", f"{place}.{key}")
    for key in others:
        origin.note(f"messages with the key {str(key)[:40]!r}, which is not used", place)
    for keys in (_ROLE_KEYS, _CONTENT_KEYS, _REASONING_KEYS):
        given = [key for key in keys if message.get(key) is not None]
        if len(given) > 1 and any(message[key] != message[given[0]] for key in given[1:]):
            raise RowFault("a turn that says one thing twice", f"{place} has {' and '.join(given)}")


def _call_text(content: Any, place: str) -> Any:
    return read_json(content, f"{place}.value") if isinstance(content, str) else content


def _calls_of(message: Mapping[str, Any], place: str) -> tuple[ToolCall, ...]:
    calls = tool_calls_in(message.get("tool_calls"), f"{place}.tool_calls")
    return (*calls, *tool_calls_in(message.get("function_call"), f"{place}.function_call"))


def _content(content: Any, calls: bool, place: str) -> tuple[str, str | None]:
    """What is said, and what was thought where it stands among the parts of the content."""
    where = f"{place}.content"
    if isinstance(content, str):
        return content, None
    if content is None:
        if calls:
            return "", None
        raise RowFault("a turn without content", f"{where} is null or not there")
    if not is_list(content):
        refuse("content that is not text", content, where)
    said, thought = [], []
    for number, part in enumerate(content):
        if isinstance(part, str):
            said.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            said.append(part["text"])
        elif isinstance(part, Mapping) and kind == "thinking" and isinstance(part.get("thinking"), str):
            thought.append(part["thinking"])
        else:
            refuse("content that is not text", part if kind is None else kind, f"{where}.{number}")
    return "".join(said), "".join(thought) if thought else None


def _word(message: Mapping[str, Any], key: str, place: str) -> str | None:
    value = message.get(key)
    return None if value is None else text_of(value, f"{place}.{key}")


def _is_trained(message: Mapping[str, Any], role: Role, place: str, origin: Origin) -> bool:
    given = {key: message[key] for key in ("train", "weight") if message.get(key) is not None}
    wishes = set()
    for key, value in given.items():
        if not is_truth(value) or isinstance(value, str):
            refuse("a turn whose train or weight is neither 0 nor 1", value, f"{place}.{key}")
        wishes.add(bool(value))
    if len(wishes) > 1:
        raise RowFault("a turn that says one thing twice", f"{place} has train and weight, which differ")
    if role != "assistant":
        if True in wishes:
            origin.note("turns marked for training that are not the assistant's; these are never trained", place)
        return True
    return wishes != {False}


def user(text: str) -> Turn:
    return Turn(role="user", content=text)


def assistant(text: str) -> Turn:
    return Turn(role="assistant", content=text)


def with_system(turns: tuple[Turn, ...], own: str | None, origin: Origin) -> tuple[Turn, ...]:
    """`turns` with a system prompt in front: the row's `own`, else the source's, where the turns have none yet."""
    has_one = bool(turns) and turns[0].role in ("system", "developer") and bool(turns[0].content.strip())
    if has_one:
        if own is not None and own != turns[0].content:
            raise RowFault("two system prompts", "the row has one in its system column and one in its turns")
        return turns
    prompt = own if own is not None else origin.system
    if prompt is None:
        return turns
    blank = bool(turns) and turns[0].role in ("system", "developer")
    return (Turn(role="system", content=prompt), *(turns[1:] if blank else turns))


def conversation_of(turns: tuple[Turn, ...], tools: tuple[dict[str, JsonValue], ...], origin: Origin) -> Conversation:
    """The training example of whole turns.

    Raises:
        RowFault: there is nothing to learn from it.
    """
    roles = [turn.role for turn in turns]
    if "assistant" not in roles:
        raise RowFault("a conversation without a turn of the assistant")
    if roles[-1] != "assistant":
        # Nothing would be learned from what stands after the last reply.
        raise RowFault("a conversation that does not end with the assistant", f"its last turn is the {roles[-1]}'s")
    if not any(turn.is_trained for turn in turns):
        raise RowFault("a conversation of which no turn is trained")
    return Conversation(
        id=origin.id,
        document=origin.id if origin.document is None else origin.document,
        messages=turns,
        tools=tools,
        metadata=origin.metadata,
    )
