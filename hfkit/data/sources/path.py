"""Sources that lie in files."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from hfkit.artifact import file_sha256
from hfkit.data.ledger import Ledger
from hfkit.data.sources.batch import Located
from hfkit.data.sources.delimited import read_delimited
from hfkit.data.sources.files import DataFile, FileList, list_files
from hfkit.data.sources.json_file import read_json_file
from hfkit.data.sources.json_lines import read_json_lines
from hfkit.data.sources.parquet import is_parquet, read_parquet
from hfkit.data.sources.reading import opened
from hfkit.data.sources.text_file import read_text_file
from hfkit.errors import RequestError
from hfkit.recipe import PathSource


def path_rows(source: PathSource, ledger: Ledger, batch_rows: int) -> Iterator[Located]:
    """The rows of all the source's files, one file after the other by name.

    Raises:
        RequestError: there is no file, or one of them cannot be read.
    """
    found = list_files(source.path)
    for name, why in found.left_out:
        ledger.note(why, name)
    for file in found.files:
        yield from _rows_of(file, ledger, batch_rows)


def path_identity(source: PathSource) -> JsonValue:
    """Each file's name and its content's hash."""
    try:
        return [[file.name, file_sha256(file.path)] for file in list_files(source.path).files]
    except OSError as error:
        raise RequestError(f"{source.path}: cannot be read: {error}") from error


def check_path(source: PathSource) -> str:
    """How many files and bytes there are. Their first bytes are looked at, no more.

    Raises:
        RequestError: there is no file, or one of them is not what its name says.
    """
    found = list_files(source.path)
    for file in found.files:
        _check_start(file)
    if len(found.files) == 1 and found.files[0].bytes == 0:
        raise RequestError(f"{found.files[0].name}: the file is empty")
    return f"{source.path} can be read: {_in_words(found)}"


def _rows_of(file: DataFile, ledger: Ledger, batch_rows: int) -> Iterator[Located]:
    match file.kind:
        case "json":
            return read_json_file(file, ledger)
        case "json_lines":
            return read_json_lines(file, ledger)
        case "csv" | "tsv":
            return read_delimited(file, ledger)
        case "parquet":
            return read_parquet(file, ledger, batch_rows)
        case "text":
            return read_text_file(file, ledger)


def _check_start(file: DataFile) -> None:
    with opened(file):
        pass
    if file.kind == "parquet" and not file.gzipped and not is_parquet(file.path):
        raise RequestError(f"{file.name}: no whole Parquet file; fetch or write it again")


def _in_words(found: FileList) -> str:
    size = float(sum(file.bytes for file in found.files))
    units = iter(("bytes", "KiB", "MiB", "GiB"))
    unit = next(units)
    while size >= 1024 and unit != "GiB":
        size, unit = size / 1024, next(units)
    count = len(found.files)
    left_out = f"; {len(found.left_out)} left out, such as {found.left_out[0][0]}" if found.left_out else ""
    return f"{count} file{'s' if count > 1 else ''}, {size:.4g} {unit}{left_out}"
