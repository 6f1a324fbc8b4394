"""What a format is: its fields, the columns they may stand in, and how a row of them becomes an example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from hfkit.data.conversation import Metadata
from hfkit.data.examples import Example, Kind
from hfkit.data.ledger import Ledger
from hfkit.recipe.data import FormatName

Values: TypeAlias = Mapping[str, Any]
"""One row's values by field. A field whose column the row does not have is None."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What an example takes over from its row beside the format's own fields.

    Attributes:
        id: where the row stands, such as `chats.jsonl:17`.
        document: what the row belongs to; None lets the format decide, which is the row itself unless it knows better.
        metadata: the columns that the recipe keeps.
        system: a system prompt for conversations that have none.
        ledger: where remarks go about rows that stay.
    """

    id: str
    document: str | None
    metadata: Metadata
    system: str | None
    ledger: Ledger

    def note(self, reason: str, detail: str = "") -> None:
        self.ledger.note(reason, self.id, detail)


@dataclass(frozen=True, slots=True)
class FormatField:
    """A field of a format.

    Attributes:
        name: as the recipe's `fields` calls it.
        looks_right: whether one value (never None) has the field's shape. It decides detection alone: a single row
            with another shape is a fault of that row.
        shape: the shape in words, such as "text".
        aliases: columns that hold this field under another name, in lower case.
        loose: more of these, that often hold something else: found beside another format, they leave it open
            which of the two is meant.
        required: whether a format without it is another format.
    """

    name: str
    looks_right: Callable[[Any], bool]
    shape: str
    aliases: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    required: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases, *self.loose)


def _always(columns: Mapping[str, str]) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Format:
    """A shape of rows.

    Attributes:
        convert: makes the example; raises RowFault.
        belongs: whether the columns that were found (field to lower-case column) make sense together. It keeps
            detection from taking a loose pair of aliases for the format; a stated format is not asked.
        becomes: what a row becomes, in words.
    """

    name: FormatName
    kind: Kind
    fields: tuple[FormatField, ...]
    convert: Callable[[Values, Origin], Example]
    becomes: str
    belongs: Callable[[Mapping[str, str]], bool] = field(default=_always)

    @property
    def required(self) -> tuple[FormatField, ...]:
        return tuple(of for of in self.fields if of.required)

    def field_named(self, name: str) -> FormatField | None:
        return next((of for of in self.fields if of.name == name), None)
