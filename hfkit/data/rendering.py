"""From messages to the exact tokens a model sees, at training and at inference.

One function renders every prompt, whoever asks: training, evaluation, the app. What is trained for an assistant turn is
what must follow that very prompt: its own text and the stop token. So the mask is exact by construction for any chat
template, with no list of known ones: prompt and reply are tokenised apart, as inference does it, and never searched for
in a rendered whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from hfkit.errors import RequestError
from rag.answer import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Put inside any special token that stands in content, so that text which talks about chat templates stays text.
_BREAK = "\u200b"


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training sequence: `input_ids`, of which the first `prompt_length` are read and the rest are trained."""

    input_ids: tuple[int, ...]
    prompt_length: int

    @property
    def reply_ids(self) -> tuple[int, ...]:
        return self.input_ids[self.prompt_length :]


class Renderer:
    """Renders conversations with a tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None or tokenizer.eos_token is None:
            raise RequestError("the tokenizer names no stop token (eos_token), so a model could not learn to stop")
        self.stop_id = int(tokenizer.eos_token_id)
        # Longest first, so that a token that begins with another is broken as itself.
        # Many tokenizers mark most of their special tokens in the vocabulary alone.
        marked = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        special = {*marked, *map(str, tokenizer.all_special_tokens)}
        self._special = tuple(sorted(special, key=lambda token: (-len(token), token)))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens a model is given before it has to speak, the generation prompt at their end."""
        return self._tokenise(self._apply(messages, generation_prompt=True))

    def training_sequences(self, messages: Sequence[Message]) -> list[Rendered]:
        """One sequence for each assistant turn, each after the prompt that inference would feed it.

        Raises:
            RequestError: the template does not render, it changes the prompt once the reply is there, or it does not
            end
                an assistant's turn with the stop token.
        """
        sequences = []
        for position, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._apply(messages[:position], generation_prompt=True)
            whole = self._apply(messages[: position + 1], generation_prompt=False)
            if not whole.startswith(prompt):
                raise RequestError(
                    "the chat template renders a prompt differently once the reply follows it, so training could not "
                    "show the model what inference will; name another template in model.chat_template"
                )
            reply = whole[len(prompt) :]
            stop = str(self.tokenizer.eos_token)
            if stop not in reply:
                raise RequestError(
                    f"the chat template does not end an assistant's turn with the stop token {stop}, so the model "
                    "would never learn to stop; name another template in model.chat_template"
                )
            # What a template writes after the stop token (a line break, mostly) is never generated, hence not trained.
            spoken = reply[: reply.index(stop)]
            if not spoken.strip() and message["content"].strip():
                raise RequestError(
                    "the chat template writes the stop token before the assistant's words; "
                    "name another template in model.chat_template"
                )
            reply = spoken + stop
            prompt_ids = self._tokenise(prompt)
            sequences.append(Rendered((*prompt_ids, *self._tokenise(reply)), len(prompt_ids)))
        return sequences

    def spelled_specials(self, messages: Sequence[Message]) -> list[str]:
        """The special tokens that the content of `messages` spells out, and that are rendered as plain text."""
        return [token for token in self._special if any(token in message["content"] for message in messages)]

    def _apply(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        if not messages:
            raise RequestError("the conversation begins with the assistant: there is no prompt for its first words")
        plain = [{"role": message["role"], "content": self._as_text(message["content"])} for message in messages]
        try:
            rendered = self.tokenizer.apply_chat_template(
                plain, tokenize=False, add_generation_prompt=generation_prompt
            )
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise RequestError(f"the chat template does not render these messages: {error}") from error
        return str(rendered)

    def _as_text(self, content: str) -> str:
        for token in self._special:
            if token in content:
                content = content.replace(token, token[0] + _BREAK + token[1:])
        return content

    def _tokenise(self, text: str) -> list[int]:
        # The template has written whatever special tokens it wants; the tokenizer must add none of its own.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
