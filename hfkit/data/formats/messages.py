"""`messages`: a list of messages with role and content, as OpenAI and Transformers write conversations.

{"messages": [{"role": "user", "content": "What is BM25?"}, {"role": "assistant", "content": "A function."}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfkit.data.conversation import Conversation
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.tool_calls import tools_in
from hfkit.data.formats.turns import conversation_of, read_turns, with_system
from hfkit.data.formats.values import is_list, optional_text, parsed
from hfkit.data.ledger import RowFault

COLUMNS = ("conversations", "conversation", "chat", "dialogue", "dialog", "turns")


def first_turn(value: Any) -> Mapping[str, Any] | None:
    """The first turn of what looks like a list of turns, or of its JSON text."""
    try:
        turns = parsed(value, "")
    except RowFault:
        return None
    return turns[0] if is_list(turns) and turns and isinstance(turns[0], Mapping) else None


def _looks_right(value: Any) -> bool:
    first = first_turn(value)
    return first is not None and "role" in first


def _looks_like_tools(value: Any) -> bool:
    return isinstance(value, str) or is_list(value)


SYSTEM = FormatField(
    "system", lambda value: isinstance(value, str), "text", ("system_prompt", "system_message"), required=False
)
TOOLS = FormatField("tools", _looks_like_tools, "a list of schemas", ("functions",), required=False)


def convert(values: Values, origin: Origin) -> Conversation:
    turns = read_turns(values["messages"], "messages", origin)
    turns = with_system(turns, optional_text(values["system"], "system"), origin)
    return conversation_of(turns, tools_in(values["tools"], "tools"), origin)


MESSAGES = Format(
    name="messages",
    kind="conversation",
    fields=(
        FormatField("messages", _looks_right, "a list of turns with role and content", COLUMNS),
        TOOLS,
        SYSTEM,
    ),
    convert=convert,
    becomes="a conversation",
)
