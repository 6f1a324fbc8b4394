"""JSON Lines: one object a line."""

from __future__ import annotations

from collections.abc import Iterator

from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.sources.batch import Located
from hfkit.data.sources.files import DataFile
from hfkit.data.sources.reading import TOO_LONG, lines_of, opened, refuse_other_encoding
from hfkit.data.sources.strict_json import NOT_UTF8, parse_object


def read_json_lines(file: DataFile, ledger: Ledger) -> Iterator[Located]:
    """The file's rows; blank lines are passed over, lines that hold no row are dropped.

    Raises:
        RequestError: the file cannot be read to its end, or most of its lines are not UTF-8.
    """
    rows = not_utf8 = first_not_utf8 = 0
    with opened(file) as stream:
        for number, line in lines_of(stream, file):
            if line is None:
                rows += 1
                ledger.drop(TOO_LONG, f"{file.name}:{number}")
                continue
            if line.isspace():
                continue
            rows += 1
            place = f"{file.name}:{number}"
            try:
                row = parse_object(line)
            except RowFault as fault:
                ledger.drop(fault.reason, place, fault.detail)
                if fault.reason == NOT_UTF8:
                    not_utf8 += 1
                    first_not_utf8 = first_not_utf8 or number
                continue
            yield row, place, len(line)
    refuse_other_encoding(file, rows, not_utf8, first_not_utf8)
