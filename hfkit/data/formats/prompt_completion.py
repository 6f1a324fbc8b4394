"""`prompt_completion`: a prompt and what is to follow, each as text or as a list of messages.

{"prompt": "What is BM25?", "completion": "A ranking function."}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfkit.data.conversation import Conversation, Turn
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.messages import SYSTEM, TOOLS
from hfkit.data.formats.tool_calls import tools_in
from hfkit.data.formats.turns import assistant, conversation_of, read_turns, user, with_system
from hfkit.data.formats.values import is_text_or_turns, optional_text
from hfkit.data.ledger import RowFault

_REPLIES = frozenset({"completion", "response", "output", "reply", "target", "solution", "answer"})
_SUMMARIES = frozenset({"summary", "highlights"})
# Which names of the reply go with which name of the prompt. A question with an answer is question_answer.
_PAIRS: Mapping[str, frozenset[str]] = {
    "prompt": _REPLIES,
    "question": _REPLIES - {"answer"},
    "query": _REPLIES - {"answer"},
    "problem": _REPLIES,
    "input": _REPLIES,
    "source": frozenset({"target"}),
    "article": _SUMMARIES,
    "document": _SUMMARIES,
    "text": _SUMMARIES,
}


def prompt_turns(value: Any, where: str, origin: Origin) -> tuple[Turn, ...]:
    """A prompt: text is the user's, a list of messages is taken as it is."""
    return (user(value),) if isinstance(value, str) else _turns(value, where, origin)


def reply_turns(value: Any, where: str, origin: Origin) -> tuple[Turn, ...]:
    """A reply: text is the assistant's, a list of messages is taken as it is."""
    return (assistant(value),) if isinstance(value, str) else _turns(value, where, origin)


def _turns(value: Any, where: str, origin: Origin) -> tuple[Turn, ...]:
    if value is None:
        raise RowFault("a value is missing", f"{where} is null or not there")
    return read_turns(value, where, origin)


def convert(values: Values, origin: Origin) -> Conversation:
    prompt = prompt_turns(values["prompt"], "prompt", origin)
    completion = reply_turns(values["completion"], "completion", origin)
    # Only the completion is trained: an earlier reply in the prompt is part of what is asked.
    asked = tuple(turn.model_copy(update={"train": False}) if turn.role == "assistant" else turn for turn in prompt)
    if completion[0].role != "assistant":
        raise RowFault("a completion that does not begin with the assistant", f"but with the {completion[0].role}")
    turns = with_system((*asked, *completion), optional_text(values["system"], "system"), origin)
    return conversation_of(turns, tools_in(values["tools"], "tools"), origin)


def _belongs(columns: Mapping[str, str]) -> bool:
    # Columns that the recipe itself maps are no guess.
    prompt, completion = columns["prompt"], columns["completion"]
    return prompt not in _PAIRS or completion in _PAIRS[prompt] or completion not in _REPLIES | _SUMMARIES


PROMPT_COMPLETION = Format(
    name="prompt_completion",
    kind="conversation",
    fields=(
        FormatField(
            "prompt", is_text_or_turns, "text or a list of turns", tuple(name for name in _PAIRS if name != "prompt")
        ),
        FormatField(
            "completion",
            is_text_or_turns,
            "text or a list of turns",
            (*sorted(_REPLIES - {"completion"}), *sorted(_SUMMARIES)),
        ),
        TOOLS,
        SYSTEM,
    ),
    convert=convert,
    becomes="a conversation of prompt and completion",
    belongs=_belongs,
)
