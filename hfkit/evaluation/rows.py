"""What a task asks and what a model answers: test rows of each kind, and the answer to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, JsonValue

from hfkit.data.conversation import Turn

Kind = Literal["generation", "choice", "text", "preference"]
"""How a task asks: for a reply, for the likelihoods of given replies, of a text, or of a better and a worse reply."""


class _Row(BaseModel):
    """A test row.

    Attributes:
        id: names the row, once in its task.
        group: rows of one group (a document, a conversation) are alike, and are resampled together.
        slices: what results are broken down by: a word a key, or a number that is cut into ranges.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    group: str
    slices: dict[str, str | float] = {}


class GenerationRow(_Row):
    """Asks for a reply to `messages`. `references` are replies that are right, in whatever form the metric wants them;
    `facts` is what a metric needs beside them, such as the number of the passage that answers, or a JSON schema.
    `tools` are JSON Schemas of the functions that may be called."""

    kind: Literal["generation"] = "generation"
    messages: tuple[Turn, ...]
    references: tuple[str, ...]
    facts: dict[str, JsonValue] = {}
    tools: tuple[Mapping[str, JsonValue], ...] = ()


class ChoiceRow(_Row):
    """Asks how likely each of `choices` is as the reply to `messages`; `correct` is the number of the right one. Where
    `messages` is empty, `context` is plain text that the choices continue."""

    kind: Literal["choice"] = "choice"
    messages: tuple[Turn, ...] = ()
    context: str = ""
    choices: tuple[str, ...]
    correct: int


class TextRow(_Row):
    """Asks how likely `text` is."""

    kind: Literal["text"] = "text"
    text: str


class PreferenceRow(_Row):
    """Asks whether the reply `chosen` to `messages` is more likely than `rejected`."""

    kind: Literal["preference"] = "preference"
    messages: tuple[Turn, ...]
    chosen: str
    rejected: str


Row: TypeAlias = GenerationRow | ChoiceRow | TextRow | PreferenceRow


class Generation(BaseModel):
    """What a model said. `stopped` is False where it was cut off at the limit instead of ending by itself; `near_tie`
    says that two tokens were so close at some step that rounding could have chosen the other one."""

    model_config = ConfigDict(frozen=True)

    text: str
    stopped: bool
    near_tie: bool = False


class Likelihood(BaseModel):
    """How likely a piece of text is: `log_likelihood` is the sum over its tokens, in nats; `bytes` is its length in
    UTF-8; `is_greedy` says whether greedy decoding would have written it."""

    model_config = ConfigDict(frozen=True)

    log_likelihood: float
    tokens: int
    bytes: int
    is_greedy: bool


class Likelihoods(BaseModel):
    """The answer to a choice (one for each, in their order), a text (one), or a preference (chosen, rejected)."""

    model_config = ConfigDict(frozen=True)

    of: tuple[Likelihood, ...]


class Failed(BaseModel):
    """No answer could be had, and why: the endpoint gave none, the numbers were NaN, the prompt did not fit."""

    model_config = ConfigDict(frozen=True)

    reason: str


Answer: TypeAlias = Generation | Likelihoods | Failed
