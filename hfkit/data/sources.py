"""Reads training conversations from files. Every fault names its file and line."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hfkit.data.conversation import Conversation, Turn
from hfkit.errors import RequestError

_FAULTS_SHOWN = 10


class _Row(BaseModel):
    """A line of a JSONL file. Columns beside `messages` are somebody's own and are left alone."""

    model_config = ConfigDict(extra="ignore")

    messages: tuple[Turn, ...] = Field(min_length=1)


def read_conversations(path: Path) -> list[Conversation]:
    """The conversations of a JSONL file, one `{"messages": [...]}` a line; blank lines are passed over.

    Raises:
        RequestError: the file cannot be read or holds no conversation, or lines are not conversations that end with the
            assistant; the first ten such lines are named.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        broken = content.count(b"\n", 0, error.start) + 1
        raise RequestError(f"{path}:{broken}: is not UTF-8 text ({error.reason})") from error
    conversations = []
    faults = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _Row.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            faults.append(f"{path}:{number}: {where + ': ' if where else ''}{first['msg']}")
            continue
        if row.messages[-1].role != "assistant":
            faults.append(f"{path}:{number}: messages: the last one must be the assistant's, it is what is learned")
            continue
        name = f"{path.as_posix()}:{number}"
        conversations.append(Conversation(id=name, document=name, messages=row.messages))
    if faults:
        more = f"\n(and {len(faults) - _FAULTS_SHOWN} more such lines)" if len(faults) > _FAULTS_SHOWN else ""
        raise RequestError("\n".join(faults[:_FAULTS_SHOWN]) + more)
    if not conversations:
        raise RequestError(f"{path}: holds no conversations")
    return conversations
