"""The prepared dataset: Parquet files whose rows hold a conversation and the exact tokens that are trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from hfkit.data.conversation import Conversation, Grounding, Turn
from hfkit.data.rendering import Rendered

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN = "train.parquet"
TEST = "test.parquet"


class PreparedRow(BaseModel):
    """A row. `input_ids` is the whole sequence, of which all after the first `prompt_length` tokens are trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    document: str
    messages: tuple[Turn, ...]
    grounding: Grounding | None
    input_ids: tuple[int, ...]
    prompt_length: int
    length: int

    @classmethod
    def of(cls, conversation: Conversation, rendered: Rendered) -> PreparedRow:
        return cls(
            id=conversation.id,
            document=conversation.document,
            messages=conversation.messages,
            grounding=conversation.grounding,
            input_ids=rendered.input_ids,
            prompt_length=rendered.prompt_length,
            length=len(rendered.input_ids),
        )


def write_rows(rows: Sequence[PreparedRow], path: Path) -> None:
    """Write rows in the order given; the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("document", pa.string()),
            ("messages", pa.list_(turn)),
            ("grounding", pa.struct([("question", pa.string()), ("gold", pa.int32())])),
            ("input_ids", pa.list_(pa.int32())),
            ("prompt_length", pa.int32()),
            ("length", pa.int32()),
        ]
    )
    pq.write_table(pa.Table.from_pylist([row.model_dump() for row in rows], schema=schema), path)


def read_rows(path: Path) -> list[PreparedRow]:
    import pyarrow.parquet as pq

    return [PreparedRow.model_validate(row) for row in pq.read_table(path).to_pylist()]


def open_dataset(path: Path, cache: Path) -> Dataset:
    """The rows as a memory-mapped dataset with what training needs: input_ids, prompt_length and length."""
    from datasets import Dataset

    dataset = Dataset.from_parquet(str(path), cache_dir=str(cache), columns=["input_ids", "prompt_length", "length"])
    assert isinstance(dataset, Dataset)
    return dataset
