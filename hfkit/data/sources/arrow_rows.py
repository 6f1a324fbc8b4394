"""Arrow's record batches, of Parquet files and of Hub datasets, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.sources.batch import Located
from hfkit.data.sources.plain_values import plain
from hfkit.data.sources.strict_json import NOT_UTF8

# What Arrow raises for dates beyond Python's years, time zones that nobody knows, maps in which a key stands twice, and
# text that is not UTF-8.
_NOT_HELD = (OverflowError, KeyError, ValueError)


def binary_columns(schema: pa.Schema) -> list[str]:
    """Columns that hold bytes, at any depth: pictures, sound."""
    return [field.name for field in schema if _holds_binary(field.type)]


def rows_of(batch: pa.RecordBatch, name: str, start: int, ledger: Ledger) -> Iterator[Located]:
    """The batch's rows; `start` is the number of the first, as the place `name#number` counts them. A row with a value
    that Python cannot hold is dropped into `ledger`."""
    rows = _python_rows(batch)
    unusual = [
        field.name
        for field, column in zip(batch.schema, batch.columns, strict=True)
        if not _is_plain(field.type, [column])
    ]
    size = batch.nbytes // max(len(rows), 1)
    for number, row in enumerate(rows, start=start):
        place = f"{name}#{number}"
        try:
            if isinstance(row, RowFault):
                raise row
            for column in unusual:
                row[column] = plain(row[column], column)
        except RowFault as fault:
            ledger.drop(fault.reason, place, fault.detail)
            continue
        yield row, place, size


def _python_rows(batch: pa.RecordBatch) -> list[dict[str, Any] | RowFault]:
    """The batch's rows as Python has them, or what is at fault with one. One by one is slower by far, and is done where
    all at once does not go."""
    try:
        return list(batch.to_pylist(maps_as_pydicts="strict"))
    except _NOT_HELD:
        return [_python_row(batch, number) for number in range(batch.num_rows)]


def _python_row(batch: pa.RecordBatch, number: int) -> dict[str, Any] | RowFault:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = _python_value(column[number])
        except UnicodeDecodeError as error:
            return RowFault(NOT_UTF8, f"{name}: byte 0x{error.object[error.start]:02x}: {error.reason}")
        except _NOT_HELD as error:
            return RowFault("a value that Python cannot hold", f"{name}: {' '.join(map(str, error.args))}")
    return row


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py(maps_as_pydicts="strict")
    except _NOT_HELD:
        if not types.is_timestamp(value.type) or value.type.tz is None:
            raise
    # The end of the year 9999 stands for "never", and is the year 10000 in zones to the east. UTC names the same time.
    return value.cast(pa.timestamp(value.type.unit, "UTC")).as_py()


def _holds_binary(kind: pa.DataType) -> bool:
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    if types.is_binary_view(kind):
        return True
    if types.is_dictionary(kind):
        return _holds_binary(kind.value_type)
    return any(_holds_binary(kind.field(number).type) for number in range(kind.num_fields))


def _is_plain(kind: pa.DataType, columns: Sequence[pa.Array]) -> bool:
    """Whether Arrow gives plain JSON values for all of this type. Of floats that hangs on the values."""
    if types.is_null(kind) or types.is_boolean(kind) or types.is_integer(kind):
        return True
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return True
    if types.is_floating(kind):
        return all(pc.all(pc.is_finite(column), min_count=0).as_py() is not False for column in columns)
    if types.is_struct(kind):
        return all(
            _is_plain(kind.field(number).type, [column.field(number) for column in columns])
            for number in range(kind.num_fields)
        )
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type, [column.values for column in columns])
    return False
