"""Rows of a table into documents; `rag.readers.worker` calls it, in a process whose memory and time are bounded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rag.corpus import Document, Section
from rag.limits import Limits
from rag.readers.decoding import decode, printable
from rag.readers.delimited import rows_of
from rag.readers.draft import one_line, over_bytes, scalars, too_long
from rag.readers.unreadable import Unreadable

if TYPE_CHECKING:
    import pyarrow

FORMATS = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv", ".arrow")
# Few, because one row may be as long as a book.
_BATCH = 256
_PIECE = 1_000_000

Row = Mapping[str, object]
# The columns that there are, where a row tells, and rows; a text in a row's place says why it cannot be read.
Batch = tuple[Sequence[str], Sequence["Row | str"]]


@dataclass(frozen=True)
class Columns:
    """Which columns make a row's document: those of its text, the one that names it, the one that heads it, and those
    that become metadata."""

    text: tuple[str, ...]
    id: str | None
    title: str | None
    keep: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        every = (*self.text, self.id, self.title, *self.keep)
        return list(dict.fromkeys(name for name in every if name is not None))


def row_document(columns: Columns, prefix: str, number: int, place: str, row: Row, limits: Limits) -> Document | str:
    """The row's document, or why there is none. Its id is `prefix` and the value of the column `id`, or `number`. Text
    columns are paragraphs of their own, in the order in which the source names them."""
    parts = [printable(text) for column in columns.text if (text := _text(row.get(column)).strip())]
    if not parts:
        return "empty"
    text = "\n\n".join(parts)
    if len(text) > limits.characters:
        return too_long(limits)
    name = number if columns.id is None else row.get(columns.id)
    id = printable(one_line(f"{prefix}{name}", 1_000))
    title = printable(one_line(_text(row.get(columns.title)))) if columns.title else ""
    metadata = scalars({column: row.get(column) for column in columns.keep})
    sections = (Section((title,) if title else (), 0, len(text)),)
    return Document(id, title or id, text, sections, place, metadata)


def batches(path: Path, columns: Columns, limits: Limits) -> Iterator[Batch]:
    """A file's rows, some at a time, in order; of Parquet and Arrow files no other column is read.

    Raises:
        Unreadable: it is no such file. Whatever else pyarrow raises on a damaged file means the same.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path, columns)
    if suffix == ".arrow":
        return _arrow(path, columns)
    if suffix in (".jsonl", ".ndjson"):
        return _in_batches(_json_rows(path, limits))
    return _in_batches(_delimited_rows(path, limits))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.replace("\r\n", "\n").replace("\r", "\n")
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return "\n\n".join(value)
    if isinstance(value, (int, float)):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _parquet(path: Path, columns: Columns) -> Iterator[Batch]:
    import pyarrow.parquet

    # Threads and read-ahead would take address space that is bounded here.
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_PIECE) as file:
        names = file.schema_arrow.names
        yield names, ()
        for batch in file.iter_batches(_BATCH, columns=_there(columns, names), use_threads=False):
            yield names, _values(batch)


def _arrow(path: Path, columns: Columns) -> Iterator[Batch]:
    import pyarrow

    with pyarrow.OSFile(str(path)) as file, pyarrow.ipc.open_stream(file) as stream:
        names = stream.schema.names
        yield names, ()
        for whole in stream:
            batch = whole.select(_there(columns, names))
            for start in range(0, batch.num_rows, _BATCH):
                yield names, _values(batch.slice(start, _BATCH))


def _there(columns: Columns, names: Sequence[str]) -> list[str]:
    return [name for name in columns.names if name in names]


def _values(batch: pyarrow.RecordBatch) -> list[Row | str]:
    """Some values are beyond Python: a year above 9999, a map that has a key twice, text that is not UTF-8."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError, KeyError):  # pyarrow's ArrowInvalid is a ValueError
        if batch.num_rows == 1:
            return ["holds a value that cannot be read"]
        return [row for number in range(batch.num_rows) for row in _values(batch.slice(number, 1))]


def _json_rows(path: Path, limits: Limits) -> Iterator[Row | str]:
    with path.open("rb") as stream:
        while line := stream.readline(limits.bytes + 1):
            length = len(line)
            if length > limits.bytes:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(_PIECE)
                    length += len(line)
                yield over_bytes(length, limits)
            elif line.strip():
                yield _json_row(line)


def _json_row(line: bytes) -> Row | str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg}"
    except RecursionError:
        return "JSON nested too deep"
    except ValueError:  # not UTF-8, or an integer of thousands of digits
        return "not JSON that can be read"
    return row if isinstance(row, dict) else "no JSON object"


def _delimited_rows(path: Path, limits: Limits) -> Iterator[Row | str]:
    with path.open("rb") as stream:
        data = stream.read(limits.bytes + 1)
    if len(data) > limits.bytes:
        raise Unreadable(over_bytes(path.stat().st_size, limits))
    for _, names, values in rows_of(decode(data), "," if path.suffix.lower() == ".csv" else "\t", limits):
        yield dict(zip(names, values, strict=False))


def _in_batches(rows: Iterable[Row | str]) -> Iterator[Batch]:
    waiting = iter(rows)
    while some := list(itertools.islice(waiting, _BATCH)):
        yield next((list(row) for row in some if not isinstance(row, str)), ()), some
