"""The prepared dataset: a folder of Parquet shards, examples as JSON and sequences as the exact tokens to train on.

    examples/train-00000.parquet    id, document, kind, example (the whole canonical example, as JSON)
    sequences/train-00000.parquet   row (an example's id), input_ids, spans, length, trained

and the same for `test`. `spans` are the trained positions [s0, e0, s1, e1, ...], ends excluded. The same rows give the
same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal

from hfkit.artifact import file_sha256
from hfkit.data.examples import EXAMPLE, Example

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

Side = Literal["train", "test"]
EXAMPLES: Final = "examples"
SEQUENCES: Final = "sequences"

_ROWS_A_SHARD = 100_000
# Written group by group, so that memory holds no whole shard.
_ROWS_A_GROUP = 5_000


@dataclass(frozen=True, slots=True)
class PreparedSequence:
    """One training sequence. `spans` are the trained [start, end) positions of `input_ids`, flat and ascending."""

    row: str
    input_ids: tuple[int, ...]
    spans: tuple[int, ...]

    @property
    def is_trained(self) -> list[bool]:
        """For each token, whether the loss is computed on it."""
        marks = [False] * len(self.input_ids)
        for start, end in zip(self.spans[::2], self.spans[1::2], strict=True):
            marks[start:end] = [True] * (end - start)
        return marks


def example_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("id", pa.string()), ("document", pa.string()), ("kind", pa.string()), ("example", pa.string())])


def sequence_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("row", pa.string()),
            ("input_ids", pa.list_(pa.int32())),
            ("spans", pa.list_(pa.int32())),
            ("length", pa.int32()),
            ("trained", pa.int32()),
        ]
    )


def example_batch(examples: Sequence[Example]) -> pa.RecordBatch:
    """Examples as a batch of `example_schema`."""
    import pyarrow as pa

    columns = (
        [example.id for example in examples],
        [example.document for example in examples],
        [example.kind for example in examples],
        [example.model_dump_json() for example in examples],
    )
    return pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=example_schema())


class ShardWriter:
    """Writes batches into `FOLDER/NAME-00000.parquet` and on. Use it as a context manager: it ends with at least one
    shard, which may be empty."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        self._folder, self._name, self._schema = folder, name, schema
        self._shard = 0
        self._rows_in_shard = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ShardWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, batch: pa.RecordBatch) -> None:
        assert self._writer is not None
        if self._rows_in_shard and self._rows_in_shard + batch.num_rows > _ROWS_A_SHARD:
            self._writer.close()
            self._shard += 1
            self._open()
        self._writer.write_batch(batch, row_group_size=_ROWS_A_GROUP)
        self._rows_in_shard += batch.num_rows

    def _open(self) -> None:
        import pyarrow.parquet as pq

        path = self._folder / f"{self._name}-{self._shard:05}.parquet"
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows_in_shard = 0


def shards(folder: Path, what: Literal["examples", "sequences"], side: Side) -> list[Path]:
    """The shards of one side, in order."""
    return sorted((folder / what).glob(f"{side}-*.parquet"))


def read_examples(folder: Path, side: Side) -> Iterator[Example]:
    """The examples of one side, in order."""
    import pyarrow.parquet as pq

    for path in shards(folder, EXAMPLES, side):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=_ROWS_A_GROUP, columns=["example"]):
            for text in batch.column(0).to_pylist():
                yield EXAMPLE.validate_json(text)


def read_sequences(folder: Path, side: Side, first: int | None = None) -> Iterator[PreparedSequence]:
    """The sequences of one side, in order; the `first` of them where that is given."""
    import pyarrow.parquet as pq

    left = first
    for path in shards(folder, SEQUENCES, side):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1_000, columns=["row", "input_ids", "spans"]):
            rows = batch.to_pylist() if left is None else batch.slice(0, left).to_pylist()
            for row in rows:
                yield PreparedSequence(row["row"], tuple(row["input_ids"]), tuple(row["spans"]))
            if left is not None:
                left -= len(rows)
                if left == 0:
                    return


def sequence_lengths(folder: Path, side: Side) -> list[int]:
    """Tokens of each sequence of one side, in order."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(path, columns=["length"]) for path in shards(folder, SEQUENCES, side)]
    return [int(length) for table in tables for length in table.column(0).to_pylist()]


def pick_sequences(folder: Path, side: Side, numbers: Sequence[int]) -> list[PreparedSequence]:
    """The sequences at these places, in the order asked for; reads no more than the row groups that hold them."""
    import pyarrow.parquet as pq

    found: dict[int, PreparedSequence] = {}
    wanted = sorted(set(numbers))
    before = 0
    for path in shards(folder, SEQUENCES, side):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            here = [number for number in wanted if before <= number < before + rows]
            if here:
                table = file.read_row_group(group, columns=["row", "input_ids", "spans"])
                for number in here:
                    row = table.slice(number - before, 1).to_pylist()[0]
                    found[number] = PreparedSequence(row["row"], tuple(row["input_ids"]), tuple(row["spans"]))
            before += rows
    return [found[number] for number in numbers]


def open_sequences(folder: Path, side: Side, cache: Path) -> Dataset:
    """The sequences as a memory-mapped dataset: row, input_ids, spans, length, trained."""
    from datasets import Dataset

    dataset = Dataset.from_parquet([str(path) for path in shards(folder, SEQUENCES, side)], cache_dir=str(cache))
    assert isinstance(dataset, Dataset)
    return dataset


def content_hash(folder: Path) -> str:
    """Hex SHA-256 over the names and the bytes of all shards: two folders that agree in it hold the same data."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*/*.parquet")):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
