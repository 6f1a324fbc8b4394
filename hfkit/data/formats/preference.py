"""`preference`: two replies to one prompt, of which one is preferred.

    {"prompt": "Say hello.", "chosen": "Hello!", "rejected": "No."}

Replies may be lists of messages. Whole conversations in `chosen` and `rejected` are cut where they part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hfkit.data.conversation import Turn
from hfkit.data.examples import Preference
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.messages import SYSTEM, TOOLS
from hfkit.data.formats.prompt_completion import prompt_turns, reply_turns
from hfkit.data.formats.tool_calls import tools_in
from hfkit.data.formats.turns import assistant, user, with_system
from hfkit.data.formats.values import is_text_or_turns, key_of, optional_text
from hfkit.data.ledger import RowFault

# Anthropic's helpful and harmless data writes whole conversations as one text with these marks.
_SPEAKER = re.compile(r"\n\n(Human|Assistant):[ ]?")


def convert(values: Values, origin: Origin) -> Preference:
    chosen = _reply(values["chosen"], "chosen", origin)
    rejected = _reply(values["rejected"], "rejected", origin)
    given = values["prompt"]
    shared = 0
    if chosen[0].role != "assistant" or rejected[0].role != "assistant" or given is None:
        shared = _shared(chosen, rejected)
    prompt = chosen[:shared]
    if given is not None:
        stated = prompt_turns(given, "prompt", origin)
        prompt = _one_prompt(stated, prompt)
    chosen, rejected = chosen[shared:], rejected[shared:]
    check_prompt(prompt)
    for name, reply in (("chosen", chosen), ("rejected", rejected)):
        if not reply or reply[0].role != "assistant" or reply[-1].role != "assistant":
            raise RowFault("a reply that is not the assistant's", f"{name} after the prompt")
    if chosen == rejected:
        raise RowFault("chosen and rejected are the same")
    return Preference(
        id=origin.id,
        document=document_of(prompt, origin),
        metadata=origin.metadata,
        prompt=with_system(prompt, optional_text(values["system"], "system"), origin),
        chosen=chosen,
        rejected=rejected,
        tools=tools_in(values["tools"], "tools"),
    )


def check_prompt(prompt: tuple[Turn, ...]) -> None:
    """Raises RowFault where nobody asks before the reply."""
    if not any(turn.role in ("user", "tool") for turn in prompt):
        raise RowFault("replies without a prompt")


def document_of(prompt: tuple[Turn, ...], origin: Origin) -> str:
    """All replies to one prompt belong together, so that none of them is on the other side of a split."""
    return key_of("\n".join(turn.content for turn in prompt), "prompt") if origin.document is None else origin.document


def _reply(value: Any, where: str, origin: Origin) -> tuple[Turn, ...]:
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        pieces = _SPEAKER.split(value)[1:]
        return tuple(
            user(said.strip()) if speaker == "Human" else assistant(said.strip())
            for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
        )
    return reply_turns(value, where, origin)


def _shared(chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> int:
    """How many turns both begin with. The replies keep at least one turn each."""
    most = min(len(chosen), len(rejected)) - 1
    return next((number for number in range(most) if chosen[number] != rejected[number]), most)


def _one_prompt(stated: tuple[Turn, ...], repeated: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """The prompt that is stated in a column of its own, which the replies may repeat."""
    if not repeated or repeated == stated:
        return stated
    # A prompt as text is often the first or the last thing asked of a conversation that the replies repeat in full.
    asked = {turn.content.strip() for turn in repeated if turn.role == "user"}
    if len(stated) == 1 and stated[0].role == "user" and stated[0].content.strip() in asked:
        return repeated
    # Or the prompt begins with a system turn or earlier rounds, and the replies repeat its end.
    if stated[-len(repeated) :] == repeated:
        return stated
    raise RowFault("a prompt that is not the one in chosen and rejected")


def looks_like_reply(value: Any) -> bool:
    return is_text_or_turns(value)


def _belongs(columns: Mapping[str, str]) -> bool:
    return columns["chosen"] != columns["rejected"]


PREFERENCE = Format(
    name="preference",
    kind="preference",
    fields=(
        FormatField("chosen", looks_like_reply, "text or a list of turns", ("preferred",)),
        FormatField("rejected", looks_like_reply, "text or a list of turns", ("dispreferred",)),
        FormatField(
            "prompt",
            looks_like_reply,
            "text or a list of turns",
            ("question", "query", "instruction", "input", "conversations", "messages"),
            required=False,
        ),
        TOOLS,
        SYSTEM,
    ),
    convert=convert,
    becomes="a prompt with a chosen and a rejected reply",
    belongs=_belongs,
)
