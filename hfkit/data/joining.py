"""Content that would complete a control token beside what a template writes: found by rendering harmless words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hfkit.data.bounded_templates import TemplateFault
from hfkit.data.exchanges import Exchange, Exchanges
from hfkit.data.ledger import RowFault
from hfkit.data.special_tokens import ControlTokens, changed_texts
from hfkit.data.template_shape import MessageDict


class Joining:
    """Compares the control tokens of conversations with those of harmless ones.

    Args:
        exchanges: what renders them.
        control: the tokens that only a template may write.
        marks: finds added tokens in text, these and others.
    """

    def __init__(self, exchanges: Exchanges, control: ControlTokens, marks: re.Pattern[str]) -> None:
        self._exchanges = exchanges
        self._control = control
        self._marks = marks
        self._shapes: dict[object, list[list[str]] | None] = {}

    def refuse(
        self,
        messages: Sequence[MessageDict],
        tools: Sequence[Mapping[str, Any]],
        trained: Sequence[int],
        exchanges: Sequence[Exchange],
    ) -> None:
        """Content that stands right beside what the template writes could complete a control token there.

        So the control tokens of each text are compared with those of the same conversation in harmless words; first of
        one of its shape, and only where these differ of this very one.
        """
        found = [marks for each in exchanges for marks in (self._marked(each.prompt), self._marked(each.reply))]
        if not tools and found == self._expected(messages, trained):
            return
        if found != self._harmless_marks(messages, tools, trained, self._control.harmless):
            raise RowFault("the content would become a special token beside what the chat template writes")

    def _expected(self, messages: Sequence[MessageDict], trained: Sequence[int]) -> list[list[str]] | None:
        """The control tokens of any conversation of this shape, if one could be rendered."""
        shape = (tuple(map(_outline, messages)), tuple(trained))
        if shape not in self._shapes:
            if len(self._shapes) > 10_000:
                self._shapes.clear()
            try:
                marks = self._harmless_marks(messages, (), trained, lambda text: "a" if text.strip() else text)
            except (RowFault, TemplateFault):
                marks = None
            self._shapes[shape] = marks
        return self._shapes[shape]

    def _harmless_marks(
        self,
        messages: Sequence[MessageDict],
        tools: Sequence[Mapping[str, Any]],
        trained: Sequence[int],
        change: Callable[[str], str],
    ) -> list[list[str]]:
        harmless, harmless_tools = changed_texts(list(messages), change), changed_texts(list(tools), change)
        exchanges = [self._exchanges.of_last(harmless[: position + 1], harmless_tools) for position in trained]
        return [marks for each in exchanges for marks in (self._marked(each.prompt), self._marked(each.reply))]

    def _marked(self, text: str) -> list[str]:
        """The control tokens of a text, in order."""
        return [token for token in self._marks.findall(text) if token in self._control.every]


def _outline(message: MessageDict) -> tuple[object, ...]:
    """What templates ask of a message, its words aside."""
    calls = message.get("tool_calls", ())
    reasoning = message.get("reasoning_content")
    return message["role"], bool(message["content"].strip()), reasoning and bool(reasoning.strip()), len(calls)
