"""From messages to the exact tokens a model sees, at training and at inference.

One function renders every prompt, whoever asks: training, evaluation, the app. What is trained for an assistant's turn
is what must follow that very prompt: what the template writes for the turn, up to and including the token that stops
it. So the mask is exact by construction for any chat template, with no list of known ones, and it is never searched for
in a rendered whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import JsonValue

from hfkit.data.bounded_templates import TemplateFault
from hfkit.data.conversation import Conversation, Turn
from hfkit.data.examples import Example
from hfkit.data.exchanges import Exchange, Exchanges
from hfkit.data.joining import Joining
from hfkit.data.ledger import RowFault
from hfkit.data.shown import Shown
from hfkit.data.special_tokens import changed_texts, texts_in
from hfkit.data.template_shape import MessageDict
from hfkit.data.texts import every_text
from hfkit.data.tokenizer_template import TokenizerTemplate
from hfkit.errors import RequestError
from rag.answer import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SpecialTokens = Literal["escape", "drop", "refuse"]


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training sequence.

    Attributes:
        input_ids: all its tokens.
        spans: what is trained of it, as [start, end), ascending and disjoint. No span begins at 0: the first token of a
            sequence is predicted by nothing.
    """

    input_ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def trained_tokens(self) -> int:
        return sum(end - start for start, end in self.spans)


class Renderer:
    """Renders conversations with a tokenizer's chat template.

    Args:
        tokenizer: with the chat template to use, or without one where only plain text is rendered.
        template_arguments: what the template is given beside the messages (`model.template_arguments`).
        special_tokens: what becomes of rows whose content spells a control token: the token is broken with a space of
            no width, the row is dropped, or the work is refused. Prompts of inference are always escaped.
        stop_ids: tokens that end a reply by the model's own generation settings, beside the tokenizer's `eos_token`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template_arguments: Mapping[str, JsonValue] | None = None,
        special_tokens: SpecialTokens = "escape",
        stop_ids: Sequence[int] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.policy = special_tokens
        self._template = TokenizerTemplate(tokenizer, template_arguments, stop_ids)
        # What the context of the conversations last rendered loses; each is held, so that its id stays its own.
        self._lost: dict[int, tuple[Conversation, tuple[str, ...]]] = {}

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply: what generation has to stop at, and what a tuned model's settings must name.

        Raises:
            RequestError: the template cannot be used.
        """
        return self._template.stop_ids

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of this template; full sentences."""
        return self._template.remarks

    @cached_property
    def _turns(self) -> Exchanges:
        return Exchanges(self._template.text, self._template.shape, self._template.marks)

    @cached_property
    def _shown(self) -> Shown:
        return Shown(self._turns)

    @cached_property
    def _joining(self) -> Joining:
        return Joining(self._turns, self._template.control, self._template.marks)

    # What is asked of a renderer.

    def prompt_ids(
        self, messages: Sequence[Message | Turn], tools: Sequence[Mapping[str, JsonValue]] = ()
    ) -> list[int]:
        """The tokens a model is given before it has to speak, the generation prompt at their end.

        Raises:
            RequestError: there is no message, or the template refuses them.
        """
        if not messages:
            raise RequestError("there is no message to answer")
        template = self._template
        broken = template.control.broken
        dicts = changed_texts([_as_dict(message) for message in messages], broken)
        try:
            text = template.text(dicts, template.shape.form, True, changed_texts(tools, broken))
        except TemplateFault as fault:
            raise RequestError(f"the chat template refuses these messages: {fault}") from fault
        return template.tokens.encode(text)

    def training_sequences(self, conversation: Conversation) -> list[Rendered]:
        """The sequences of one conversation: all trained turns in one where each then stands after the very tokens that
        inference would feed, else one a turn. None where no turn is trained.

        Raises:
            RowFault: the template refuses the row, or cannot show it faithfully.
            RequestError: the template can never work, or `special_tokens` is "refuse" and the content spells one.
        """
        (rendered,) = self.render_many([conversation])
        if isinstance(rendered, RowFault):
            raise rendered
        return rendered

    def render_many(self, conversations: Sequence[Conversation]) -> list[list[Rendered] | RowFault]:
        """What `training_sequences` gives for each, many times faster: texts are tokenised together.

        Raises:
            RequestError: as `training_sequences`.
        """
        self._lost.clear()
        exchanges: list[list[Exchange] | RowFault] = []
        for conversation in conversations:
            try:
                exchanges.append(self._exchanges(conversation))
            except RowFault as fault:
                exchanges.append(fault)
        flat = [exchange for row in exchanges if not isinstance(row, RowFault) for exchange in row]
        texts = [text for each in flat for text in (each.prompt, each.prompt + each.reply)]
        encoded = iter(self._template.tokens.encode_many(texts))
        rendered: list[list[Rendered] | RowFault] = []
        for row in exchanges:
            if isinstance(row, RowFault):
                rendered.append(row)
                continue
            pairs = [(each, next(encoded), next(encoded)) for each in row]
            try:
                rendered.append(_in_one([self._sequence(*pair) for pair in pairs]))
            except RowFault as fault:
                rendered.append(fault)
        return rendered

    def text_sequences(self, text: str, max_length: int) -> list[Rendered]:
        """Plain text in sequences of at most `max_length` tokens, the end-of-text token behind it.

        Every token is trained once: a sequence begins with the last token of the one before, which predicts its next.

        Raises:
            RowFault: the text spells a special token, and such rows are to be dropped.
            RequestError: as before, where they are to be refused; or the tokenizer has no token to end a text with.
        """
        template = self._template
        if not template.known_stops:
            raise RequestError("the tokenizer names no eos_token, so a model could not learn where a text ends")
        spelled = sorted(template.control.spelled(text))
        self._apply_policy(spelled, "a text")
        start = [int(self.tokenizer.bos_token_id or 0)] if template.adds_start else []
        ids = [*start, *template.tokens.encode(template.control.broken(text)), template.known_stops[0]]
        sequences = []
        for begin in range(0, len(ids) - 1, max(max_length - 1, 1)):
            piece = ids[begin : begin + max_length]
            sequences.append(Rendered(tuple(piece), ((1, len(piece)),)))
        return sequences

    def spelled_specials(self, example: Example) -> list[str]:
        """The control tokens that an example's content spells out, and that are rendered as plain text."""
        return sorted({token for text in every_text(example) for token in self._template.control.spelled(text)})

    def left_out(self, conversation: Conversation) -> tuple[str, ...]:
        """What `conversation` holds and the template does not show, of what a row can do without: its tools, the
        reasoning of trained turns, and what stands in the messages before the last trained turn."""
        hidden = self._template.shape.hidden
        found = []
        if conversation.tools and "tools" in hidden:
            found.append("tools")
        if "reasoning_content" in hidden and any(t.is_trained and t.reasoning_content for t in conversation.messages):
            found.append("reasoning_content")
        if id(conversation) not in self._lost:
            try:
                self._exchanges(conversation)
            except RowFault:
                return tuple(found)
        _, context = self._lost.get(id(conversation), (conversation, ()))
        return (*found, f"earlier messages: {', '.join(context)}") if context else tuple(found)

    # From a conversation to texts.

    def _apply_policy(self, spelled: Sequence[str], place: str) -> None:
        if not spelled or self.policy == "escape":
            return
        names = ", ".join(spelled)
        if self.policy == "drop":
            raise RowFault("the content spells a special token", names)
        raise RequestError(
            f"{place}: the content spells the special token {names}. Mend the row, or let such rows be escaped or "
            "dropped (data.quality.special_tokens: escape or drop)"
        )

    def _exchanges(self, conversation: Conversation) -> list[Exchange]:
        turns = conversation.messages
        trained = [position for position, turn in enumerate(turns) if turn.is_trained]
        if not trained:
            return []
        if trained[0] == 0:
            raise RowFault("the conversation begins with the assistant", "there is no prompt for its first words")
        turns = turns[: trained[-1] + 1]
        self._refuse_hidden(turns)
        plain = [turn.for_template() for turn in turns]
        leaves = [text for turn in plain for text in _leaves(turn)]
        leaves += texts_in([dict(tool) for tool in conversation.tools])
        control = self._template.control
        spelled = sorted({token for text in leaves for token in control.spelled(text)})
        self._apply_policy(spelled, conversation.id)
        messages: list[MessageDict] = changed_texts(plain, control.broken) if spelled else plain
        tools: Sequence[Mapping[str, Any]] = (
            changed_texts(list(conversation.tools), control.broken) if spelled else conversation.tools
        )
        try:
            found = [self._turns.of_last(messages[: position + 1], tools) for position in trained]
            context: tuple[str, ...] = ()
            for position, exchange in zip(trained, found, strict=True):
                loss = self._shown.losses(messages[: position + 1], tools, exchange)
                for what in loss.turn:
                    # A template that shows no reasoning at all is used, and the report says so.
                    if what != "reasoning" or "reasoning_content" not in self._template.shape.hidden:
                        raise RowFault("the chat template leaves out what the turn says", what)
                context = loss.context
            self._lost[id(conversation)] = (conversation, context)
            if any(control.could_join(control.broken(text)) for text in leaves):
                self._joining.refuse(messages, tools, trained, found)
        except TemplateFault as fault:
            raise RowFault("the chat template refuses this row", str(fault)) from fault
        return found

    def _refuse_hidden(self, turns: Sequence[Turn]) -> None:
        hidden = self._template.shape.hidden
        for turn in turns:
            if turn.role in hidden and turn.content.strip():
                raise RowFault("the chat template leaves out a message", f"it shows none of the role {turn.role}")

    # From texts to tokens.

    def _sequence(self, exchange: Exchange, prompt_ids: list[int], joint_ids: list[int]) -> Rendered:
        """Prompt and reply tokenised together where that leaves the prompt's tokens as they are, else apart."""
        start = len(prompt_ids)
        ids = joint_ids if joint_ids[:start] == prompt_ids else self._apart(exchange, prompt_ids, joint_ids)
        stops = self.stop_ids
        if len(ids) <= start or ids[-1] not in stops or any(stop in ids[start:-1] for stop in stops):
            raise RowFault("the tokenizer does not end the reply with one stop token", repr(exchange.reply[-40:]))
        return Rendered(tuple(ids), ((start, len(ids)),))

    def _apart(self, exchange: Exchange, prompt_ids: list[int], joint_ids: list[int]) -> list[int]:
        template, decode = self._template, self.tokenizer.decode
        encode = template.tokens.encode
        wanted = decode(joint_ids, skip_special_tokens=False)
        stop = template.known_stop_texts[0] if template.known_stop_texts else template.control.tokens[0]
        # Some tokenizers put a space before what opens a text, or a stretch: so alone, and behind what can be cut off.
        ways = [encode(exchange.reply)]
        for before in (stop, "\n"):
            cut = encode(before)
            behind = encode(before + exchange.reply)
            if behind[: len(cut)] == cut:
                ways.append(behind[len(cut) :])
        if exchange.reply.startswith(" "):
            ways.append(encode(exchange.reply[1:]))
        for reply_ids in ways:
            ids = [*prompt_ids, *reply_ids]
            if decode(ids, skip_special_tokens=False) == wanted:
                return ids
        raise RowFault(
            "the tokenizer joins the end of the prompt and the beginning of the reply", "they cannot be told apart"
        )


def _in_one(turns: list[Rendered]) -> list[Rendered]:
    """One sequence with all the turns, where each stands in the last one's as it stands in its own."""
    if len(turns) < 2:
        return turns
    whole = turns[-1].input_ids
    if any(whole[: len(turn.input_ids)] != turn.input_ids for turn in turns[:-1]):
        return turns
    return [Rendered(whole, tuple(turn.spans[0] for turn in turns))]


def _as_dict(message: Message | Turn) -> MessageDict:
    return dict(message.for_template()) if isinstance(message, Turn) else dict(message)


def _leaves(message: Mapping[str, JsonValue]) -> list[str]:
    """Every text of a message but its role and its own keys."""
    return [text for key, value in message.items() if key != "role" for text in texts_in(value)]
