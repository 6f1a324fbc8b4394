"""A chat template in the language of Ollama, Go's text/template, where the two say the same.

A template is translated by what it writes, not by its text: it is rendered for short conversations, each turn's opening
and closing is read off, and what follows from them is compared with what the template writes for other conversations.
Where they differ (a template that trims what is said, or rewrites earlier turns) there is no translation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from hfkit.data.bounded_templates import TemplateFault
from hfkit.data.chat_template import ChatTemplate
from rag.answer import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# As in a message; a translation knows three of them.
Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class TurnTemplate:
    """A template that writes one turn after the other, each between its role's opening and closing.

    Attributes:
        turns: what stands before and behind the content of each role.
        without_system: what stands first where the conversation has no system message.
        reply: what opens the reply, at the end.
    """

    turns: Mapping[Role, tuple[str, str]]
    without_system: str
    reply: str

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt of `messages`."""
        begins = "" if messages[0]["role"] == "system" else self.without_system
        turns = [self.turns[message["role"]] for message in messages]
        said = (opens + message["content"] + closes for (opens, closes), message in zip(turns, messages, strict=True))
        return begins + "".join(said) + self.reply

    def in_go(self) -> str:
        """The same as Ollama reads it. Every text is a quoted string, so that no space is lost or added."""
        parts = []
        if self.without_system:
            first = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{_quoted(self.without_system)}{{{{ end }}}}'
            parts.append(f"{{{{ if .Messages }}}}{first}{{{{ end }}}}")
        parts.append("{{ range .Messages }}")
        for number, (role, (opens, closes)) in enumerate(self.turns.items()):
            word = "if" if number == 0 else "else if"
            condition = f'{{{{ {word} eq .Role "{role}" }}}}'
            parts.append(f"{condition}{_quoted(opens)}{{{{ .Content }}}}{_quoted(closes)}")
        return "".join(parts) + "{{ end }}{{ end }}" + _quoted(self.reply)


def turn_template(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> TurnTemplate | None:
    """What the tokenizer's chat template comes to with these template arguments; None where there is no translation.

    A start token that the tokenizer puts before any text is left out: whoever reads the prompt adds it again.
    """
    if not isinstance(tokenizer.chat_template, str):
        return None
    variables = {**tokenizer.special_tokens_map, **arguments}
    start = ""
    if tokenizer.bos_token is not None and list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]:
        start = str(tokenizer.bos_token)

    try:
        template = ChatTemplate(tokenizer.chat_template)

        def text(messages: Sequence[Message], reply: bool) -> str:
            rendered = template.render(messages, generation_prompt=reply, variables=variables)
            return rendered.removeprefix(start)

        found = _read_off(text)
        if found is None or any(found.render(messages) != text(messages, True) for messages in _conversations()):
            return None
    except TemplateFault:
        return None
    return found


def _read_off(text: Callable[[Sequence[Message], bool], str]) -> TurnTemplate | None:
    """From conversations that grow by one turn: what each turn adds."""
    grown = [_message(role, f"<{role} says>") for role in ("system", "user", "assistant")]
    turns: dict[Role, tuple[str, str]] = {}
    before = ""
    for count, message in enumerate(grown, 1):
        after = text(grown[:count], False)
        opens, _, closes = after.removeprefix(before).partition(message["content"])
        if not after.startswith(before) or message["content"] not in after:
            return None
        turns[message["role"]] = (opens, closes)
        before = after
    asked = text(grown[1:2], False)
    without_system = asked.removesuffix("".join([turns["user"][0], grown[1]["content"], turns["user"][1]]))
    reply = text(grown[:2], True).removeprefix(text(grown[:2], False))
    return TurnTemplate(turns, without_system, reply)


def _conversations() -> list[list[Message]]:
    """What a translation must get right."""
    plain = {"system": "Be brief.", "user": "What is glass?", "assistant": "Sand, melted."}
    odd = {"system": "  \n", "user": ' a\n\n{{ b }} "c" ', "assistant": "<think>\nd\n</think>\n\n e \n"}
    courses = ("u", "su", "uau", "suau", "uauau", "suauau")
    names = {role[0]: role for role in _ROLES}
    return [
        [_message(names[turn], said[names[turn]]) for turn in course] for said in (plain, odd) for course in courses
    ]


def _message(role: Role, content: str) -> Message:
    return {"role": role, "content": content}


def _quoted(text: str) -> str:
    """An action that writes `text`. JSON's escapes are Go's as well. Three quotation marks would end the template."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
