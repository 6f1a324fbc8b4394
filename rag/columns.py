"""Columns of a dataset as documents: a row of a table, local or on the Hub, gives one document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from rag.corpus import Corpus, Document, Section, Skipped
from rag.errors import RagRequestError
from rag.files import near
from rag.limits import Limits
from rag.readers.decoding import decode, printable
from rag.readers.delimited import rows_of
from rag.readers.draft import one_line, over_bytes, scalars
from rag.readers.unreadable import Unreadable

PREFIX = "dataset:"
_FORMATS = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv", ".arrow")
_HUB_ID = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")
_OPTIONS = ("text", "id", "title", "keep", "split", "config", "revision")
_EXAMPLE = "dataset:pages.parquet#text=question,answer&id=key&title=question"

Row = Mapping[str, object]


@dataclass(frozen=True)
class DatasetSource:
    """`dataset:WHERE#text=COLUMNS`, taken apart.

    `where` is a file (.parquet, .jsonl, .csv, .tsv, .arrow), a folder of such files or one that `save_to_disk` wrote,
    or an id on the Hub. `text` are the columns that make the text, `id` the one that names a row, `title` the one that
    heads it, `keep` those that become metadata. `split`, `config` and `revision` are of a dataset on the Hub.
    """

    source: str
    where: str
    text: tuple[str, ...]
    id: str | None
    title: str | None
    keep: tuple[str, ...]
    split: str
    config: str | None
    revision: str | None


def is_source(source: str) -> bool:
    return source.startswith(PREFIX)


def parse_source(source: str) -> DatasetSource:
    """Raises RagRequestError where it is written otherwise."""
    where, _, written = source.removeprefix(PREFIX).partition("#")
    try:
        options = dict(parse_qsl(written, strict_parsing=True, keep_blank_values=False)) if written else {}
    except ValueError:
        options = {"": ""}
    unknown = [name for name in options if name not in _OPTIONS]
    if not where or unknown or not options.get("text"):
        what = f"knows no {unknown[0]!r} ({', '.join(_OPTIONS)})" if unknown else "must name a place and text columns"
        raise RagRequestError(f"{source}: a dataset {what}; for example {_EXAMPLE}")
    return DatasetSource(
        source,
        where,
        _names(options["text"]),
        options.get("id"),
        options.get("title"),
        _names(options.get("keep", "")),
        options.get("split", "train"),
        options.get("config"),
        options.get("revision"),
    )


def source_files(source: str) -> list[tuple[str, Path]]:
    """(name, path) of the local files of a dataset; none of one on the Hub.

    Raises:
        RagRequestError: it is neither here nor an id on the Hub.
    """
    wanted = parse_source(source)
    path = Path(wanted.where)
    if path.is_file():
        if path.suffix.lower() not in _FORMATS:
            raise RagRequestError(f"{source}: a dataset's file must be one of {', '.join(_FORMATS)}")
        return [(path.as_posix(), path)]
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in _FORMATS and file.is_file()]
        if not files:
            raise RagRequestError(f"{source}: no file in {path} is one of {', '.join(_FORMATS)}")
        return [(file.as_posix(), file) for file in files]
    if path.suffix.lower() in _FORMATS or not _HUB_ID.fullmatch(wanted.where):
        raise RagRequestError(f"{source}: there is no file or folder {path}{near(path)}")
    return []


def read_source(source: str, limits: Limits) -> Corpus:
    """A document for each row; its id is `WHERE#` and the value of the `id` column, or the row's number from 0.

    Raises:
        RagRequestError: the dataset or one of the columns is not there, or it cannot be read.
    """
    wanted = parse_source(source)
    files = source_files(source)
    documents: list[Document] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()
    rows = _local_rows(wanted, files, limits) if files else _hub_rows(wanted)
    for number, (place, row) in enumerate(rows):
        if number == 0:
            _check_columns(wanted, row)
        name = number if wanted.id is None else row.get(wanted.id)
        id = printable(one_line(f"{wanted.where}#{name}", 1_000))
        problem = "a second row of this id" if id in seen else None
        document = _document(wanted, id, place, row)
        if document is None:
            problem = "empty"
        elif len(document.text) > limits.characters:
            problem = f"more than the {limits.characters:,} characters that one document may have"
        seen.add(id)
        if problem is None and document is not None:
            documents.append(document)
        else:
            skipped.append(Skipped(f"{place} row {number}", problem or "empty"))
    return Corpus(tuple(documents), tuple(skipped))


def _document(wanted: DatasetSource, id: str, place: str, row: Row) -> Document | None:
    """Text columns are paragraphs of their own, in the order in which the source names them."""
    parts = [printable(text) for column in wanted.text if (text := _text(row.get(column)).strip())]
    if not parts:
        return None
    text = "\n\n".join(parts)
    title = printable(one_line(_text(row.get(wanted.title)))) if wanted.title else ""
    metadata = scalars({column: row.get(column) for column in wanted.keep})
    sections = (Section((title,) if title else (), 0, len(text)),)
    return Document(id, title or id, text, sections, place, metadata)


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


def _names(written: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in written.split(",") if name.strip())


def _check_columns(wanted: DatasetSource, row: Row) -> None:
    for column in (*wanted.text, wanted.id, wanted.title, *wanted.keep):
        if column is not None and column not in row:
            raise RagRequestError(f"{wanted.source}: there is no column {column!r}; there are {', '.join(row)}")


def _local_rows(wanted: DatasetSource, files: Sequence[tuple[str, Path]], limits: Limits) -> Iterator[tuple[str, Row]]:
    for name, path in files:
        try:
            for row in _file_rows(path, limits):
                yield name, row
        except (OSError, ValueError, Unreadable) as error:  # pyarrow's own errors are among the first two
            raise RagRequestError(f"{wanted.source}: {name} cannot be read: {error}") from None


def _file_rows(path: Path, limits: Limits) -> Iterator[Row]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    elif suffix == ".arrow":
        import pyarrow

        with pyarrow.memory_map(str(path)) as mapped:
            for batch in pyarrow.ipc.open_stream(mapped):
                yield from batch.to_pylist()
    elif suffix in (".jsonl", ".ndjson"):
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise Unreadable(f"line {number} is no object")
                    yield row
    else:
        if path.stat().st_size > limits.bytes:
            raise Unreadable(over_bytes(path.stat().st_size, limits))
        for _, names, values in rows_of(decode(path.read_bytes()), "," if suffix == ".csv" else "\t", limits):
            yield dict(zip(names, values, strict=False))


def _hub_rows(wanted: DatasetSource) -> Iterator[tuple[str, Row]]:
    """Rows from the Hub, or from its cache; the library runs no code of the dataset's repository."""
    import datasets

    try:
        rows = datasets.load_dataset(wanted.where, wanted.config, split=wanted.split, revision=wanted.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RagRequestError(
            f"{wanted.source}: there is no file or folder {wanted.where}, and on the Hub: {first}"
        ) from None
    place = f"{wanted.where}@{wanted.revision or 'main'}"
    for row in rows:
        yield place, row
