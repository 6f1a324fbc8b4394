"""The canonical examples: one type a task, whatever shape the source had."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from hfkit.data.conversation import Conversation, Metadata, Turn


class _Origin(BaseModel):
    """`id` is where the example stands (`chats.jsonl:17`); rows of one `document` never stand on both sides of a
    split; `metadata` are the columns that the recipe keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    document: str
    metadata: Metadata = {}


class PlainText(_Origin):
    """Text to be continued: every token of it is trained."""

    kind: Literal["text"] = "text"
    text: str


class Preference(_Origin):
    """Two replies to one prompt, the first of which is preferred (DPO and its kin)."""

    kind: Literal["preference"] = "preference"
    prompt: tuple[Turn, ...]
    chosen: tuple[Turn, ...] = Field(min_length=1)
    rejected: tuple[Turn, ...] = Field(min_length=1)
    tools: tuple[dict[str, JsonValue], ...] = ()


class RatedReply(_Origin):
    """One reply and whether it is wanted (KTO)."""

    kind: Literal["rated_reply"] = "rated_reply"
    prompt: tuple[Turn, ...]
    completion: tuple[Turn, ...] = Field(min_length=1)
    wanted: bool
    tools: tuple[dict[str, JsonValue], ...] = ()


class LabelledText(_Origin):
    """A text, or two, and the class it belongs to."""

    kind: Literal["labelled_text"] = "labelled_text"
    text: str
    second_text: str | None = None
    label: str | int


class TextPair(_Origin):
    """Two texts that belong together, or how alike they are (`score`, whatever its scale)."""

    kind: Literal["text_pair"] = "text_pair"
    first: str
    second: str
    score: float | None = None


class RetrievalExample(_Origin):
    """A query, the passages that answer it, and passages that do not."""

    kind: Literal["retrieval"] = "retrieval"
    query: str
    positives: tuple[str, ...] = Field(min_length=1)
    negatives: tuple[str, ...] = ()


Example: TypeAlias = Conversation | PlainText | Preference | RatedReply | LabelledText | TextPair | RetrievalExample

Kind = Literal["conversation", "text", "preference", "rated_reply", "labelled_text", "text_pair", "retrieval"]

EXAMPLE: TypeAdapter[Example] = TypeAdapter(Annotated[Example, Field(discriminator="kind")])
"""Reads and writes examples as JSON."""
