"""Columns of a dataset as documents: a row of a table, local or on the Hub, gives one document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from rag.corpus import Corpus, Document, Skipped
from rag.errors import RagRequestError
from rag.files import near
from rag.limits import Limits
from rag.readers.decoding import printable
from rag.readers.pool import ReaderPool
from rag.readers.tables import FORMATS, Columns, Row, row_document

PREFIX = "dataset:"
_HUB_ID = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")
_OPTIONS = ("text", "id", "title", "keep", "split", "config", "revision")
_EXAMPLE = "dataset:pages.parquet#text=question,answer&id=key&title=question"
# Rows without a document that are named; a column that is empty in a million rows would fill the screen.
_NAMED = 100


@dataclass(frozen=True)
class DatasetSource:
    """`dataset:WHERE#text=COLUMNS`, taken apart.

    `where` is a file (.parquet, .jsonl, .csv, .tsv, .arrow), a folder of such files or one that `save_to_disk` wrote,
    or an id on the Hub. `split`, `config` and `revision` are of a dataset on the Hub.
    """

    source: str
    where: str
    columns: Columns
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
        Columns(_names(options["text"]), options.get("id"), options.get("title"), _names(options.get("keep", ""))),
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
        if path.suffix.lower() not in FORMATS:
            raise RagRequestError(f"{source}: a dataset's file must be one of {', '.join(FORMATS)}")
        return [(path.as_posix(), path)]
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in FORMATS and file.is_file()]
        if not files:
            raise RagRequestError(f"{source}: no file in {path} is one of {', '.join(FORMATS)}")
        return [(file.as_posix(), file) for file in files]
    if path.suffix.lower() in FORMATS or not _HUB_ID.fullmatch(wanted.where):
        raise RagRequestError(f"{source}: there is no file or folder {path}{near(path)}")
    return []


def read_source(source: str, earlier: Sequence[str], limits: Limits, pool: ReaderPool) -> Corpus:
    """A document for each row; its id is `WHERE#` and the value of the `id` column, or the row's number from 0. What
    else tells the source apart from `earlier` ones stands before the number sign, or behind it (`_id_prefix`).

    A row that gives no document is skipped, and a file that cannot be read; then the source is named as skipped, so
    that an index keeps what it holds of it. Files are read in the pool's processes.

    Raises:
        RagRequestError: the dataset or one of the columns is not there, or the Hub's cannot be read.
    """
    wanted = parse_source(source)
    files = source_files(source)
    prefix = _id_prefix(wanted, earlier, local=bool(files))
    rows = _Rows()
    if files:
        for name, path in files:
            table = {**asdict(wanted.columns), "prefix": prefix, "first": rows.count, "known": bool(rows.documents)}
            found = pool.rows(name, path, table).result()
            if found.missing is not None:
                raise _no_column(wanted, *found.missing)
            for row in found.rows:
                rows.add(row, printable(name))
            if found.broken is not None:
                where = "" if name == wanted.where else f"{printable(name)}: "
                rows.skipped.append(Skipped(printable(wanted.where), f"{where}{found.broken}", found.passing))
    else:
        place = f"{wanted.where}@{wanted.revision or 'main'}"
        for number, values in enumerate(_hub_rows(wanted)):
            rows.add(row_document(wanted.columns, prefix, number, place, values, limits), place)
    return rows.corpus()


class _Rows:
    """What the rows gave so far."""

    def __init__(self) -> None:
        self.count = 0
        self.skipped: list[Skipped] = []
        self.documents: dict[str, Document] = {}
        self._unnamed: dict[str, tuple[int, str]] = {}
        self._named = 0

    def add(self, row: Document | str, place: str) -> None:
        """`place` is where it was read; a text is the reason why there is no document."""
        reason = row if isinstance(row, str) else None
        if isinstance(row, Document) and self.documents.setdefault(row.id, row) is not row:
            reason = "a second row of this id"
        if reason is not None and self._named < _NAMED:
            self.skipped.append(Skipped(f"{place} row {self.count}", reason))
            self._named += 1
        elif reason is not None:
            times, _ = self._unnamed.get(place, (0, ""))
            self._unnamed[place] = (times + 1, f"the last of them, row {self.count}: {reason}")
        self.count += 1

    def corpus(self) -> Corpus:
        more = [Skipped(f"{place}, {times:,} more rows", last) for place, (times, last) in self._unnamed.items()]
        return Corpus(tuple(self.documents.values()), (*self.skipped, *more))


def _id_prefix(wanted: DatasetSource, earlier: Sequence[str], *, local: bool) -> str:
    """What the ids of a source's rows begin with: its place, and of a dataset on the Hub the configuration, the split
    and the revision that are not the usual ones. A source that reads other text columns of the same rows than an
    `earlier` one has them in its ids, too."""
    others = (parse_source(other) for other in earlier if is_source(other))
    place = _place(wanted, local)
    first = next((other.columns.text for other in others if _place(other, local) == place), wanted.columns.text)
    return f"{place}#" if first == wanted.columns.text else f"{place}#{','.join(wanted.columns.text)}#"


def _place(wanted: DatasetSource, local: bool) -> str:
    usual = local or (wanted.config is None and wanted.split == "train")
    part = "" if usual else f"/{wanted.config or 'default'}/{wanted.split}"
    return f"{wanted.where}{part}" if local or wanted.revision is None else f"{wanted.where}{part}@{wanted.revision}"


def _names(written: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in written.split(",") if name.strip())


def _no_column(wanted: DatasetSource, column: str, there: Sequence[str]) -> RagRequestError:
    return RagRequestError(f"{wanted.source}: there is no column {column!r}; there are {', '.join(there)}")


def _hub_rows(wanted: DatasetSource) -> Iterator[Row]:
    """Rows from the Hub, or from its cache, with no other columns than are wanted: those with sound or pictures would
    be decoded. The library runs no code of the dataset's repository."""
    import datasets
    import pyarrow
    from huggingface_hub.errors import HfHubHTTPError

    # The last is what goes wrong in the network: the HTTP library's own, whichever that is.
    failures: tuple[type[Exception], ...] = (OSError, ValueError, RuntimeError, ImportError, OverflowError)
    failures += (datasets.exceptions.DatasetsError, pyarrow.ArrowException, HfHubHTTPError.__bases__[0])
    try:
        rows = datasets.load_dataset(wanted.where, wanted.config, split=wanted.split, revision=wanted.revision)
    except failures as error:
        raise RagRequestError(
            f"{wanted.source}: there is no file or folder {wanted.where}, and on the Hub: {_first_line(error)}"
        ) from None
    for column in wanted.columns.names:
        if column not in rows.column_names:
            raise _no_column(wanted, column, rows.column_names)
    number = 0
    try:
        for row in rows.select_columns(wanted.columns.names):
            yield row
            number += 1
    except failures as error:
        raise RagRequestError(f"{wanted.source}: row {number} cannot be read: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
