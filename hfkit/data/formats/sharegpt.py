"""`sharegpt`: a list of turns with from and value, where calls of tools are turns of their own.

{"conversations": [{"from": "human", "value": "What is BM25?"}, {"from": "gpt", "value": "A ranking function."}]}
"""

from __future__ import annotations

from typing import Any

from hfkit.data.conversation import Conversation
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.messages import COLUMNS, SYSTEM, TOOLS, first_turn
from hfkit.data.formats.tool_calls import tools_in
from hfkit.data.formats.turns import conversation_of, read_turns, with_system
from hfkit.data.formats.values import optional_text


def _looks_right(value: Any) -> bool:
    first = first_turn(value)
    return first is not None and "from" in first and "role" not in first


def convert(values: Values, origin: Origin) -> Conversation:
    turns = read_turns(values["conversations"], "conversations", origin)
    turns = with_system(turns, optional_text(values["system"], "system"), origin)
    return conversation_of(turns, tools_in(values["tools"], "tools"), origin)


SHAREGPT = Format(
    name="sharegpt",
    kind="conversation",
    fields=(
        FormatField("conversations", _looks_right, "a list of turns with from and value", ("messages", *COLUMNS[1:])),
        TOOLS,
        SYSTEM,
    ),
    convert=convert,
    becomes="a conversation",
)
