"""`rated_reply`: a prompt, one reply, and whether such a reply is wanted.

{"prompt": "Say hello.", "completion": "No.", "label": false}
"""

from __future__ import annotations

from hfkit.data.examples import RatedReply
from hfkit.data.formats.format import Format, FormatField, Origin, Values
from hfkit.data.formats.messages import SYSTEM, TOOLS
from hfkit.data.formats.preference import check_prompt, document_of
from hfkit.data.formats.prompt_completion import prompt_turns, reply_turns
from hfkit.data.formats.tool_calls import tools_in
from hfkit.data.formats.turns import with_system
from hfkit.data.formats.values import is_text_or_turns, is_truth, optional_text, truth_of
from hfkit.data.ledger import RowFault


def convert(values: Values, origin: Origin) -> RatedReply:
    prompt = prompt_turns(values["prompt"], "prompt", origin)
    completion = reply_turns(values["completion"], "completion", origin)
    check_prompt(prompt)
    if completion[0].role != "assistant" or completion[-1].role != "assistant":
        raise RowFault("a reply that is not the assistant's", "completion")
    return RatedReply(
        id=origin.id,
        document=document_of(prompt, origin),
        metadata=origin.metadata,
        prompt=with_system(prompt, optional_text(values["system"], "system"), origin),
        completion=completion,
        wanted=truth_of(values["label"], "label", "a label that is neither true nor false"),
        tools=tools_in(values["tools"], "tools"),
    )


RATED_REPLY = Format(
    name="rated_reply",
    kind="rated_reply",
    fields=(
        FormatField("prompt", is_text_or_turns, "text or a list of turns", ("question", "query", "messages")),
        FormatField("completion", is_text_or_turns, "text or a list of turns", ("response", "reply", "output")),
        FormatField("label", is_truth, "true or false", ("wanted", "desirable", "thumbs_up", "kto_tag")),
        TOOLS,
        SYSTEM,
    ),
    convert=convert,
    becomes="a prompt and a reply that is wanted or not",
)
