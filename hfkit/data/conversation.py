"""The canonical training example: a list of messages with roles, and where it came from."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rag.answer import Message


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)

    def as_message(self) -> Message:
        return {"role": self.role, "content": self.content}


class Grounding(BaseModel):
    """What a synthesised example knows of its own truth.

    `gold` is the number (from 1) of the passage that answers, None where none does. `question` is the bare question.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    gold: int | None


class Conversation(BaseModel):
    """A conversation. `document` names what it was made from: rows of one document never stand on both sides of a
    split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    document: str
    messages: tuple[Turn, ...] = Field(min_length=1)
    grounding: Grounding | None = None

    def as_messages(self) -> list[Message]:
        return [turn.as_message() for turn in self.messages]
