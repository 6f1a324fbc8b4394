"""`alpaca`: an instruction, perhaps an input that it is about, and the output.

{"instruction": "Translate into French.", "input": "Good morning", "output": "Bonjour"}
"""

from __future__ import annotations

from typing import Any

from hfkit.data.conversation import Conversation, Turn
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.messages import SYSTEM
from hfkit.data.formats.turns import assistant, conversation_of, user, with_system
from hfkit.data.formats.values import is_list, is_text, optional_text, parsed, refuse, text_of


def convert(values: Values, origin: Origin) -> Conversation:
    instruction = text_of(values["instruction"], "instruction")
    about = optional_text(values["input"], "input")
    asked = instruction if about is None else f"{instruction}\n\n{about}"
    turns = (*_history(values["history"]), user(asked), assistant(text_of(values["output"], "output")))
    return conversation_of(with_system(turns, optional_text(values["system"], "system"), origin), (), origin)


def _history(value: Any) -> tuple[Turn, ...]:
    """Earlier rounds of the conversation, each a pair of what was asked and answered."""
    rounds = parsed(value, "history")
    if rounds is None or rounds == "":
        return ()
    if not is_list(rounds):
        refuse("a history that is not a list of pairs", value, "history")
    turns: list[Turn] = []
    for number, pair in enumerate(rounds):
        if not is_list(pair) or len(pair) != 2:
            refuse("a history that is not a list of pairs", pair, f"history.{number}")
        turns += (user(text_of(pair[0], f"history.{number}.0")), assistant(text_of(pair[1], f"history.{number}.1")))
    return tuple(turns)


ALPACA = Format(
    name="alpaca",
    kind="conversation",
    fields=(
        FormatField("instruction", is_text, "text"),
        FormatField("output", is_text, "text", ("response", "completion", "answer")),
        FormatField("input", is_text, "text", ("context",), required=False),
        SYSTEM,
        FormatField("history", is_list, "a list of pairs", required=False),
    ),
    convert=convert,
    becomes="a conversation of instruction, input and output",
)
