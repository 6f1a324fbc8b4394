"""CSV and TSV files with a row of column names at the top."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from hfkit.data.ledger import Ledger
from hfkit.data.sources.batch import Located
from hfkit.data.sources.files import DataFile
from hfkit.data.sources.reading import MAX_BYTES, MAX_WORDS, lines_of, opened, refuse_other_encoding
from hfkit.data.sources.strict_json import NOT_UTF8, utf8_fault
from hfkit.errors import RequestError

RAGGED = "more or fewer values than columns"
BAD_QUOTES = "quotes that do not fit"


def read_delimited(file: DataFile, ledger: Ledger) -> Iterator[Located]:
    """The file's rows, all values text. A row may span lines inside quotes; its place is the line that it starts on.

    Columns are separated by commas in .csv (semicolons or tabs where the first line has them and no comma), by tabs in
    .tsv. Rows with quotes, columns or bytes that do not fit are dropped, blank lines passed over.

    Raises:
        RequestError: the column names are at fault, a quote is never closed, the file cannot be read to its end, or
        most of its rows are not UTF-8.
    """
    # The limit is the process's; the module's own would refuse documents of more than 128 KiB.
    csv.field_size_limit(MAX_BYTES)
    rows = not_utf8 = first_not_utf8 = 0
    with opened(file) as stream:
        lines = _Lines(lines_of(stream, file), file)
        columns, delimiter = _header(lines, file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            lines.start_record()
            try:
                values = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                lines.refuse_open_quote(error)
                ledger.drop(BAD_QUOTES, lines.place, str(error))
                lines.give_back_all_but_the_first()
                rows += 1
                continue
            if not values:
                continue
            rows += 1
            if lines.broken is not None:
                fault = utf8_fault(lines.broken[1])
                ledger.drop(fault.reason, f"{file.name}:{lines.broken[0]}", fault.detail)
                not_utf8 += fault.reason == NOT_UTF8
                first_not_utf8 = first_not_utf8 or lines.broken[0]
            elif len(values) != len(columns):
                ledger.drop(RAGGED, lines.place, f"{len(values)} where {len(columns)} are wanted")
            else:
                yield dict(zip(columns, values, strict=True)), lines.place, lines.size
    refuse_other_encoding(file, rows, not_utf8, first_not_utf8)


def _header(lines: _Lines, file: DataFile) -> tuple[list[str], str]:
    """The column names, and what separates them."""
    while True:
        lines.start_record()
        try:
            first = next(lines)
        except StopIteration:
            return [], ","
        if first.strip():
            break
    if lines.broken is not None:
        raise RequestError(f"{lines.place}: the column names are {utf8_fault(lines.broken[1])}; save the file as UTF-8")
    delimiter = "\t" if file.kind == "tsv" else next((mark for mark in ",;\t" if mark in first), ",")
    lines.give_back()
    lines.start_record()
    try:
        names = next(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        lines.refuse_open_quote(error)
        raise RequestError(f"{lines.place}: the column names cannot be read: {error}") from error
    columns = [name.strip() or f"column {number}" for number, name in enumerate(names, start=1)]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise RequestError(f"{lines.place}: two columns are named {', '.join(twice)}; rename one of them")
    return columns, delimiter


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str
    size: int
    broken: UnicodeDecodeError | None


class _Lines:
    """Hands lines to csv.reader, and remembers those of the record that it is reading.

    Attributes:
        size: how many bytes long the record is.
        broken: the first line of the record that is not UTF-8, by its number.
    """

    def __init__(self, lines: Iterator[tuple[int, bytes | None]], file: DataFile) -> None:
        self._lines, self._name = lines, file.name
        self._given_back: deque[_Line] = deque()
        self._record: list[_Line] = []
        self._ended = False
        self._first = 0
        self.size = 0
        self.broken: tuple[int, UnicodeDecodeError] | None = None

    @property
    def place(self) -> str:
        return f"{self._name}:{self._first}"

    def start_record(self) -> None:
        self._record.clear()
        self._first = self.size = 0
        self.broken = None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._given_back.popleft() if self._given_back else self._next_line()
        self._record.append(line)
        self._first = self._first or line.number
        self.size += line.size
        if line.broken is not None and self.broken is None:
            self.broken = (line.number, line.broken)
        return line.text

    def _next_line(self) -> _Line:
        try:
            number, line = next(self._lines)
        except StopIteration:
            self._ended = True
            raise
        if line is None:
            raise RequestError(
                f"{self._name}:{number}: a line of more than {MAX_WORDS}; is it a CSV file, and are all quotes closed?"
            )
        try:
            return _Line(number, line.decode("utf-8"), len(line), None)
        except UnicodeDecodeError as error:
            return _Line(number, line.decode("utf-8", "replace"), len(line), error)

    def give_back(self) -> None:
        """The record's lines will be read once more."""
        self._given_back.extendleft(reversed(self._record))

    def give_back_all_but_the_first(self) -> None:
        self._given_back.extendleft(reversed(self._record[1:]))

    def refuse_open_quote(self, error: csv.Error) -> None:
        """A quote that is never closed takes all that follows into its row: that is the file's fault, not the row's."""
        if self._ended and not self._given_back:
            raise RequestError(f"{self.place}: a quote that is opened in this row is never closed") from error
        if self.size > MAX_BYTES:
            raise RequestError(
                f"{self.place}: a value of more than {MAX_WORDS}; is a quote in this row not closed?"
            ) from error
