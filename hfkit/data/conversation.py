"""The canonical training example: a list of messages with roles, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rag.answer import Message

Role = Literal["system", "developer", "user", "assistant", "tool"]

Metadata: TypeAlias = Mapping[str, str | int | float | bool | None]
"""Columns that a recipe keeps: what a report can be sliced by."""


class ToolFunction(BaseModel):
    """What is called, and with what. Arguments are an object, as chat templates want them, never its JSON text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    arguments: Mapping[str, JsonValue] = {}


class ToolCall(BaseModel):
    """A call that an assistant's turn makes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["function"] = "function"
    id: str | None = None
    function: ToolFunction


class Turn(BaseModel):
    """One message of a conversation.

    Attributes:
        content: what was said; empty only where an assistant calls tools instead, or in rows that quality gates drop.
        reasoning_content: what an assistant thought before it spoke.
        tool_calls: what an assistant calls.
        name, tool_call_id: of a tool's answer: which tool it is from and which call it answers.
        train: False leaves an assistant's turn out of the loss; other roles are never trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str = ""
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    train: bool = True

    @property
    def is_trained(self) -> bool:
        return self.role == "assistant" and self.train

    def as_message(self) -> Message:
        """Role and content, which is all that a reader of grounded answers sees."""
        return {"role": self.role, "content": self.content}

    def for_template(self) -> dict[str, JsonValue]:
        """The message as chat templates take it: keys that say nothing are left out."""
        message: dict[str, JsonValue] = {"role": self.role, "content": self.content}
        if self.reasoning_content is not None:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump(mode="json", exclude_none=True) for call in self.tool_calls]
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


class Grounding(BaseModel):
    """What an example over numbered passages knows of its own truth.

    `gold` is the number (from 1) of the passage that answers, None where none does. `question` is the bare question.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    gold: int | None


class Conversation(BaseModel):
    """A conversation.

    Attributes:
        id: where it stands, such as `chats.jsonl:17`.
        document: what it was made from, or its group: rows of one document never stand on both sides of a split.
        messages: the turns, in order.
        tools: JSON Schemas of the functions that may be called.
        grounding: of an example over numbered passages.
        metadata: columns that the recipe keeps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["conversation"] = "conversation"
    id: str
    document: str
    messages: tuple[Turn, ...] = Field(min_length=1)
    tools: tuple[Mapping[str, JsonValue], ...] = ()
    grounding: Grounding | None = None
    metadata: Metadata = {}

    def as_messages(self) -> list[Message]:
        return [turn.as_message() for turn in self.messages]
