"""Parquet files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hfkit.data.ledger import Ledger
from hfkit.data.sources.batch import Located
from hfkit.data.sources.files import DataFile
from hfkit.data.sources.reading import DAMAGE, damage, opened
from hfkit.errors import RequestError

BINARY_COLUMN = "a column of binary data, left out"

_MAGIC = b"PAR1"


def read_parquet(file: DataFile, ledger: Ledger, batch_rows: int) -> Iterator[Located]:
    """The file's rows; columns of binary data are left out and noted.

    Raises:
        RequestError: it is not a whole Parquet file, or nothing but binary data is in it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hfkit.data.sources.arrow_rows import binary_columns, rows_of

    number = 0
    with _seekable(file) as source:
        try:
            with pq.ParquetFile(source) as table:
                names = list(table.schema_arrow.names)
                left_out = binary_columns(table.schema_arrow)
                kept = [name for name in names if name not in left_out]
                _check_columns(file, names, kept)
                for name in left_out:
                    ledger.note(BINARY_COLUMN, file.name, name)
                for batch in table.iter_batches(batch_size=batch_rows, columns=kept):
                    yield from rows_of(batch, file.name, number, ledger)
                    number += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            place = f"{file.name}#{number}" if number else file.name
            said = _first_line(error)
            raise RequestError(f"{place}: no whole Parquet file ({said}); fetch or write it again") from error


def is_parquet(path: Path) -> bool:
    """Whether the file starts and ends as Parquet files do. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
        file.seek(-min(len(_MAGIC), path.stat().st_size), 2)
        return start == _MAGIC == file.read()


def _check_columns(file: DataFile, names: list[str], kept: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RequestError(f"{file.name}: two columns are named {', '.join(twice)}; rename one of them")
    if not kept:
        raise RequestError(f"{file.name}: has no columns but of binary data ({', '.join(names)}), which is no text")


@contextmanager
def _seekable(file: DataFile) -> Iterator[Path | IO[bytes]]:
    """Parquet is read from its end: a compressed file is unpacked onto the disk first."""
    if not file.gzipped:
        with opened(file):  # Says what is wrong with a file that cannot be opened.
            pass
        yield file.path
        return
    with tempfile.TemporaryFile() as unpacked:
        with opened(file) as stream:
            try:
                shutil.copyfileobj(stream, unpacked, 2**20)
            except DAMAGE as error:
                raise damage(error, file.name) from error
        unpacked.seek(0)
        yield unpacked


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
