"""From messages to the exact tokens a model sees, at training and at inference.

One function renders every prompt, whoever asks: training, evaluation, the app. What is trained for an assistant's turn
is what must follow that very prompt: what the template writes for the turn, up to and including the token that stops
it. So the mask is exact by construction for any chat template, with no list of known ones, and it is never searched for
in a rendered whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import JsonValue

from hfkit.data.bounded_templates import TemplateFault
from hfkit.data.chat_template import DATE, ChatTemplate
from hfkit.data.conversation import Conversation, Turn
from hfkit.data.examples import Example
from hfkit.data.exchanges import Exchange, Exchanges
from hfkit.data.joining import Joining
from hfkit.data.ledger import RowFault
from hfkit.data.shown import Shown
from hfkit.data.special_tokens import ControlTokens, any_of, changed_texts, special_token_texts, texts_in
from hfkit.data.template_shape import Form, MessageDict, Shape, find_shape
from hfkit.data.texts import every_text
from hfkit.data.tokenising import Tokens
from hfkit.errors import RequestError
from rag.answer import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SpecialTokens = Literal["escape", "drop", "refuse"]

_OTHER = "name another template in model.chat_template"


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
        self._arguments = dict(template_arguments or {})
        self._variables = {**tokenizer.special_tokens_map, **self._arguments}
        self._added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        for name in special_token_texts(tokenizer) - set(self._added):
            self._added[name] = int(cast(int, tokenizer.convert_tokens_to_ids(name)))
        by_number = {number: text for text, number in self._added.items()}
        eos = [] if tokenizer.eos_token is None else [self._added[str(tokenizer.eos_token)]]
        self._known_stops = tuple(
            dict.fromkeys([*eos, *(number for number in stop_ids if 0 <= number < len(tokenizer))])
        )
        self._known_stop_texts = [by_number[number] for number in self._known_stops if number in by_number]
        self._tokens = Tokens(tokenizer)
        self._templates: dict[str, ChatTemplate] = {}
        # What the context of the conversations last rendered loses; each is held, so that its id stays its own.
        self._lost: dict[int, tuple[Conversation, tuple[str, ...]]] = {}

    # What the template does, found out once.

    @cached_property
    def _shape(self) -> Shape:
        if self.tokenizer.chat_template is None:
            raise RequestError(
                "the model's tokenizer has no chat template. Name one in model.chat_template: a Jinja file, "
                "builtin:chatml or builtin:plain; or train on plain text (data.sources: format: text)"
            )
        if isinstance(self._found_shape, str):
            raise RequestError(self._found_shape)
        return self._found_shape

    @cached_property
    def _found_shape(self) -> Shape | str:
        """The shape, or why the template can never be used. That is kept as well: every row of an evaluation asks, and
        a template without end takes its time to be refused."""
        try:
            shape = find_shape(self._text, self._added, special_token_texts(self.tokenizer), self._known_stop_texts)
            self._refuse_two_starts(shape.form)
        except RequestError as error:
            return str(error)
        except TemplateFault as fault:
            return f"the chat template does not render a question that is to be answered: {fault}; {_OTHER}"
        return shape

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end a reply: what generation has to stop at, and what a tuned model's settings must name.

        Raises:
            RequestError: the template cannot be used.
        """
        if self.tokenizer.chat_template is None:
            return self._known_stops
        ends = [self._shape.continuations[ending] for ending in sorted(self._shape.continuations)]
        own = [self._added[text] for text in sorted(self._shape.stops - set(self._known_stop_texts))]
        last = [self._added[self._marks.findall(text)[-1]] for text in ends]
        return tuple(dict.fromkeys([*self._known_stops, *own, *last]))

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of this template; full sentences."""
        remarks = []
        tokenizer = self.tokenizer
        self._shape  # noqa: B018  (renders, which shows whether the template asks for the date)
        if any(template.reads_date for template in self._templates.values()):
            date = self._arguments.get("strftime_now", DATE.date().isoformat())
            remarks.append(
                f"The chat template writes the date. Training and hfkit's own inference both show it {date}, so that "
                "the prompts are the same; model.template_arguments: {strftime_now: 2025-12-31} names another."
            )
        if tokenizer.bos_token is not None and self._adds_start:
            prompt = self._text([{"role": "user", "content": "Hi"}], self._shape.form, True, ())
            if tokenizer.bos_token not in prompt:
                remarks.append(
                    f"The tokenizer begins plain text with {tokenizer.bos_token}, and the chat template does not write "
                    "it. Like Transformers' apply_chat_template, hfkit adds none; a template that begins with "
                    "{{ bos_token }} does."
                )
        left_out = {"tools": "tools", "reasoning_content": "reasoning"}
        for part, word in left_out.items():
            if part in self._shape.hidden:
                remarks.append(f"The chat template does not show {word}: neither at training nor at inference.")
        return tuple(remarks)

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        """Finds added tokens in text."""
        return any_of(self._added)

    @cached_property
    def _control(self) -> ControlTokens:
        special = special_token_texts(self.tokenizer)
        if self.tokenizer.chat_template is None:
            return ControlTokens(special)
        stops = {self._marks.findall(text)[-1] for text in self._shape.continuations.values()} | self._shape.stops
        return ControlTokens(special | self._shape.between | stops)

    @cached_property
    def _turns(self) -> Exchanges:
        return Exchanges(self._text, self._shape, self._marks)

    @cached_property
    def _shown(self) -> Shown:
        return Shown(self._turns)

    @cached_property
    def _joining(self) -> Joining:
        return Joining(self._turns, self._control, self._marks)

    @cached_property
    def _adds_start(self) -> bool:
        """Whether the tokenizer puts its start token before plain text."""
        start = self.tokenizer.bos_token_id
        return start is not None and list(self.tokenizer("a")["input_ids"])[:1] == [start]

    def _refuse_two_starts(self, form: Form) -> None:
        start = self.tokenizer.bos_token_id
        ids = self._tokens.encode(self._text([{"role": "user", "content": "Hi"}], form, True, ()))
        if start is not None and ids[:2] == [start, start]:
            raise RequestError(f"the chat template writes the start token {self.tokenizer.bos_token} twice; {_OTHER}")

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
        dicts = [_as_dict(message) for message in messages]
        control = self._control
        try:
            text = self._text(
                changed_texts(dicts, control.broken), self._shape.form, True, changed_texts(tools, control.broken)
            )
        except TemplateFault as fault:
            raise RequestError(f"the chat template refuses these messages: {fault}") from fault
        return self._tokens.encode(text)

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
        encoded = iter(
            self._tokens.encode_many([text for each in flat for text in (each.prompt, each.prompt + each.reply)])
        )
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
        if not self._known_stops:
            raise RequestError("the tokenizer names no eos_token, so a model could not learn where a text ends")
        spelled = sorted(self._control.spelled(text))
        self._apply_policy(spelled, "a text")
        start = [int(self.tokenizer.bos_token_id or 0)] if self._adds_start else []
        ids = [*start, *self._tokens.encode(self._control.broken(text)), self._known_stops[0]]
        sequences = []
        for begin in range(0, len(ids) - 1, max(max_length - 1, 1)):
            piece = ids[begin : begin + max_length]
            sequences.append(Rendered(tuple(piece), ((1, len(piece)),)))
        return sequences

    def spelled_specials(self, example: Example) -> list[str]:
        """The control tokens that an example's content spells out, and that are rendered as plain text."""
        return sorted({token for text in every_text(example) for token in self._control.spelled(text)})

    def left_out(self, conversation: Conversation) -> tuple[str, ...]:
        """What `conversation` holds and the template does not show, of what a row can do without: its tools, the
        reasoning of trained turns, and what stands in the messages before the last trained turn."""
        hidden = self._shape.hidden
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

    def _text(
        self,
        messages: Sequence[MessageDict],
        form: Form,
        generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]],
    ) -> str:
        """What the template writes.

        Raises:
            TemplateFault: it refuses, or fails.
        """
        given = [dict(tool) for tool in tools] or None
        text = self.tokenizer.get_chat_template(None, given)
        template = self._templates.get(text)
        if template is None:
            template = self._templates[text] = ChatTemplate(text)
        shaped = [_shaped(message, form) for message in messages]
        return template.render(shaped, generation_prompt=generation_prompt, tools=given, variables=self._variables)

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
        control = self._control
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
                    if what != "reasoning" or "reasoning_content" not in self._shape.hidden:
                        raise RowFault("the chat template leaves out what the turn says", what)
                context = loss.context
            self._lost[id(conversation)] = (conversation, context)
            if any(control.could_join(control.broken(text)) for text in leaves):
                self._joining.refuse(messages, tools, trained, found)
        except TemplateFault as fault:
            raise RowFault("the chat template refuses this row", str(fault)) from fault
        return found

    def _refuse_hidden(self, turns: Sequence[Turn]) -> None:
        hidden = self._shape.hidden
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
        decode = self.tokenizer.decode
        wanted = decode(joint_ids, skip_special_tokens=False)
        stop = self._known_stop_texts[0] if self._known_stop_texts else self._control.tokens[0]
        # Some tokenizers put a space before what opens a text, or a stretch: so alone, and behind what can be cut off.
        ways = [self._tokens.encode(exchange.reply)]
        for before in (stop, "\n"):
            cut = self._tokens.encode(before)
            behind = self._tokens.encode(before + exchange.reply)
            if behind[: len(cut)] == cut:
                ways.append(behind[len(cut) :])
        if exchange.reply.startswith(" "):
            ways.append(self._tokens.encode(exchange.reply[1:]))
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


def _shaped(message: Mapping[str, Any], form: Form) -> MessageDict:
    """The message in the form that the template wants, reasoning under the names that templates know."""
    shaped = dict(message)
    reasoning = shaped.get("reasoning_content")
    if reasoning is not None:
        shaped = {"thinking": reasoning, **shaped}
    if form.parts:
        shaped["content"] = [{"type": "text", "text": shaped["content"]}]
    if form.json_arguments and "tool_calls" in shaped:
        shaped["tool_calls"] = [_with_json_arguments(call) for call in shaped["tool_calls"]]
    return shaped


def _with_json_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
