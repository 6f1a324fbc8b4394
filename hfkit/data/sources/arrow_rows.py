"""Arrow's record batches, of Parquet files and of Hub datasets, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.sources.batch import Located
from hfkit.data.sources.plain_values import plain


def binary_columns(schema: pa.Schema) -> list[str]:
    """Columns that hold bytes, at any depth: pictures, sound."""
    return [field.name for field in schema if _holds_binary(field.type)]


def rows_of(batch: pa.RecordBatch, name: str, start: int, ledger: Ledger) -> Iterator[Located]:
    """The batch's rows; `start` is the number of the first, as the place `name#number` counts them."""
    rows = batch.to_pylist(maps_as_pydicts="strict")
    unusual = [
        field.name
        for field, column in zip(batch.schema, batch.columns, strict=True)
        if not _is_plain(field.type, [column])
    ]
    size = batch.nbytes // max(len(rows), 1)
    for number, row in enumerate(rows, start=start):
        place = f"{name}#{number}"
        try:
            for column in unusual:
                row[column] = plain(row[column], column)
        except RowFault as fault:
            ledger.drop(fault.reason, place, fault.detail)
            continue
        yield row, place, size


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
