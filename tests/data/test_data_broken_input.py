"""Broken inputs: a source at fault is an error that names it, a row at fault is dropped, counted and named."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfkit.data.ledger import Ledger
from hfkit.data.sources import check_source, identify_source, read_source
from hfkit.errors import RequestError
from hfkit.failures import explain
from hfkit.recipe import CallableSource, HubSource, PathSource, ReadSource, SqlSource

GOOD = b'{"a": 1}\n'
MANY = GOOD * 20_000


def parquet(table: pa.Table) -> bytes:
    written = io.BytesIO()
    pq.write_table(table, written)
    return written.getvalue()


PARQUET = parquet(pa.table({"text": [f"Row {n} has words of its own, {n * 7919}." for n in range(2000)]}))


def scrambled(content: bytes, start: int, end: int) -> bytes:
    return content[:start] + bytes(byte ^ 0xFF for byte in content[start:end]) + content[end:]


# File's name, its content, and what the error must say. The whole file is at fault.
BROKEN_FILES: dict[str, tuple[str, bytes, str]] = {
    "an empty JSONL file": ("a.jsonl", b"", "a.jsonl: holds no rows"),
    "an empty JSON file": ("a.json", b"", "a.json: holds no rows"),
    "an empty CSV file": ("a.csv", b"", "a.csv: holds no rows"),
    "an empty text file": ("a.txt", b"", "a.txt: holds no rows"),
    "an empty Parquet file": ("a.parquet", b"", "a.parquet: no whole Parquet file"),
    "only blank lines": ("a.jsonl", b"\n \t\r\n\n", "a.jsonl: holds no rows"),
    "only a byte order mark": ("a.jsonl", b"\xef\xbb\xbf", "a.jsonl: holds no rows"),
    "only column names": ("a.csv", b"a,b\n", "a.csv: holds no rows"),
    "an empty list": ("a.json", b"[ ]", "a.json: holds no rows"),
    "an empty list that is wrapped": ("a.json", b'{"data": []}', "a.json: holds no rows"),
    "no row that is JSON": ("a.jsonl", b"x\ny\n", "2 rows: not valid JSON, such as a.jsonl:1:"),
    "a list under the name of JSONL": ("a.jsonl", b'[{"a": 1}]', "a.jsonl:1: a list; a file that is one list"),
    "gzip cut off in the middle": (
        "a.jsonl.gz",
        gzip.compress(os.urandom(9999).hex().encode())[:5000],
        "a.jsonl.gz:1:",
    ),
    "gzip cut off at the end": ("a.jsonl.gz", gzip.compress(GOOD)[:-4], "ends in the middle"),
    "gzip cut off after many rows": ("a.jsonl.gz", gzip.compress(MANY)[:-4], "a.jsonl.gz:20001: the gzip file ends"),
    "gzip cut off, of CSV": ("a.csv.gz", gzip.compress(b"a\n" + b"1\n" * 99)[:-4], "a.csv.gz:101: the gzip file ends"),
    "gzip cut off, of JSON": ("a.json.gz", gzip.compress(b'[{"a": 1}]')[:-4], "a.json.gz:1: the gzip file ends"),
    "gzip cut off, of text": ("a.txt.gz", gzip.compress(b"text")[:-4], "a.txt.gz: the gzip file ends"),
    "gzip cut off, of Parquet": ("a.parquet.gz", gzip.compress(PARQUET)[:-4], "a.parquet.gz: the gzip file ends"),
    "gzip with wrong bytes": ("a.jsonl.gz", scrambled(gzip.compress(MANY), 60, 70), "the gzip file is damaged"),
    "gzip with something after it": ("a.jsonl.gz", gzip.compress(GOOD) + b"more", "the gzip file is damaged"),
    "gzip that is none": ("a.jsonl.gz", GOOD, "a.jsonl.gz: is not compressed with gzip; rename it"),
    "gzip that does not say so": ("a.jsonl", gzip.compress(GOOD), "a.jsonl: is compressed with gzip; rename it"),
    "Windows-1252 in JSONL": (
        "a.jsonl",
        '{"a": "ä"}\n{"a": "ö"}\n'.encode("cp1252"),
        "a.jsonl:1: not UTF-8 text, as 2",
    ),
    "Windows-1252 in CSV": ("a.csv", "a,b\nä,1\nö,2\n".encode("cp1252"), "a.csv:2: not UTF-8 text, as 2 of 2 rows"),
    "Windows-1252 in JSON": ("a.json", '[\n{"a": "ä"}]'.encode("cp1252"), "a.json:2: not UTF-8 text (byte 0xe4"),
    "Windows-1252 in a text file": ("a.txt", "x\n\nä".encode("cp1252"), "a.txt:3: byte 0xe4"),
    "Windows-1252 in column names": ("a.csv", "ä,b\n1,2\n".encode("cp1252"), "a.csv:1: the column names are not UTF-8"),
    "UTF-16 without a mark": ("a.jsonl", GOOD.decode().encode("utf-16-le"), "a.jsonl:1: starts with a zero byte"),
    "UTF-16 cut off": ("a.csv", "a,b\n1,2\n".encode("utf-16")[:-1], "a.csv:2: not valid UTF-16 (truncated data)"),
    "UTF-16 with half a pair": (
        "a.jsonl",
        '\ufeff{}\n"'.encode("utf-16-le") + b"\x00\xd8x\x00",
        "a.jsonl:2: not valid",
    ),
    "JSON that is a number": ("a.json", b"42", "a.json:1: holds 42, which is no list of objects"),
    "JSON that is text": ("a.json", b'"rows"', 'a.json:1: holds "rows", which is no list of objects'),
    "JSON that is cut off": ("a.json", b'[{"a": 1},\n {"a": "x', "a.json:2: not valid JSON"),
    "JSON that is cut off after a comma": ("a.json", b'[{"a": 1},\n', "a.json:2: not valid JSON"),
    "JSON with a comma too many": ("a.json", b'[{"a": 1},\n]', "a.json:2: not valid JSON at column 1: a comma with"),
    "JSON with a comma too few": (
        "a.json",
        b'[{"a": 1}\n{"a": 2}]',
        "a.json:2: not valid JSON at column 1: expected ','",
    ),
    "JSON with a comment": ("a.json", b'[\n// rows\n{"a": 1}]', "a.json:2: not valid JSON at column 1"),
    "JSON with single quotes": ("a.json", b"[{'a': 1}]", "a.json:1: not valid JSON at column 3"),
    "JSON with more after it": ("a.json", b'[{"a": 1}]\n[]', "a.json:2: there is more after the end"),
    "JSON with two lists of rows": (
        "a.json",
        b'{"data": [{}], "rows": [{}]}',
        "holds two lists of rows, data and rows",
    ),
    "JSON 100,000 deep": (
        "a.json",
        b"[" * 100_000,
        "a.json:1: not valid JSON at column 2: a.json[0] is nested too deeply",
    ),
    "JSON with a very long number": ("a.json", b'[{"a": ' + b"1" * 9999 + b"}]", "a number of thousands of digits"),
    "JSON that never closes a quote": (
        "a.json",
        b'[{"a": 1}, {"a": "' + b"x" * 9999,
        "a.json:1: not valid JSON at column 18",
    ),
    "HTML under the name of JSON": ("a.json", b"<!doctype html>", "a.json:1: not valid JSON at column 1"),
    "a quote that is never closed": (
        "a.csv",
        b'a,b\n1,2\n3,"4\n5,6\n7,8\n',
        "a.csv:3: a quote that is opened in this row",
    ),
    "a quote in column names": ("a.csv", b'a,"b\n1,2\n', "a.csv:1: a quote that is opened in this row is never closed"),
    "columns with one name": ("a.csv", b"a,b,a\n1,2,3\n", "a.csv:1: two columns are named a"),
    "line ends of old": ("a.csv", b"a,b\r1,2\r3,4\r", "a.csv:1: the column names cannot be read"),
    "Parquet cut off": ("a.parquet", PARQUET[:-100], "a.parquet: no whole Parquet file"),
    "Parquet that is none": ("a.parquet", b"a,b\n1,2\n" * 9, "a.parquet: no whole Parquet file"),
    "Parquet with wrong bytes": ("a.parquet", scrambled(PARQUET, 4, 400), "a.parquet: no whole Parquet file"),
    "Parquet of pictures": ("a.parquet", parquet(pa.table({"raw": [b"\0"]})), "no columns but of binary data (raw)"),
    "Parquet without rows": (
        "a.parquet",
        PARQUET[:0] + parquet(pa.table({"a": pa.array([], "int8")})),
        "holds no rows",
    ),
    "an unknown type": ("a.docx", b"PK", "a.docx: of no known type; what can be read is .json, .jsonl"),
    "no type": ("a", GOOD, "a: of no known type"),
    "only gz": ("a.gz", gzip.compress(GOOD), "a.gz: of no known type"),
}


ROWS_AT_FAULT = ("no row that is JSON", "a list under the name of JSONL", "Windows-1252 in a text file")


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_is_an_error_that_names_it(workplace: Path, name: str) -> None:
    file, content, said = BROKEN_FILES[name]
    (workplace / file).write_bytes(content)
    refused(PathSource(path=file), said)
    # In a folder, with files that are in order before and after it, it is the same.
    # In a folder, with files that are in order before and after it, it is the same, unless its rows are at fault.
    (workplace / "folder").mkdir()
    (workplace / file).rename(workplace / "folder" / file)
    (workplace / "folder/0.jsonl").write_bytes(GOOD)
    (workplace / "folder/z.jsonl").write_bytes(GOOD)
    if content and name not in ROWS_AT_FAULT and "holds no rows" not in said and "of no known type" not in said:
        refused(PathSource(path="folder"), f"folder/{file}")
    else:
        places = read(PathSource(path="folder"), Ledger())
        assert places == ["folder/0.jsonl:1", "folder/z.jsonl:1"]


# File's name, its content, the places of the rows that are read, and what becomes of the others: reason and place.
BROKEN_ROWS: dict[str, tuple[str, bytes, list[str], list[tuple[str, str]]]] = {
    "lines that are no JSON": (
        "a.jsonl",
        GOOD + b"hello\n" + GOOD[:-3] + b"\n" + GOOD.strip() + b",\n" + GOOD.strip() + GOOD + b"{'a': 1}\n" + GOOD,
        ["a.jsonl:1", "a.jsonl:7"],
        [("not valid JSON", f"a.jsonl:{n}: ") for n in (2, 3, 4, 5, 6)],
    ),
    "lines that are no objects": (
        "a.jsonl",
        b'42\n"x"\nnull\n[{}]\ntrue\n' + GOOD,
        ["a.jsonl:6"],
        [("not a JSON object", f"a.jsonl:{n}: ") for n in (1, 2, 3, 4, 5)],
    ),
    "NaN and its like": (
        "a.jsonl",
        b'{"a": NaN}\n{"a": [-Infinity]}\n{"a": 1e999}\n' + GOOD,
        ["a.jsonl:4"],
        [("NaN or an infinite number", f"a.jsonl:{n}: ") for n in (1, 2, 3)],
    ),
    "NaN in a list": (
        "a.json",
        b'[{"a": NaN}, {"a": 1}, {"a": {"b": 1e999}}]',
        ["a.json[1]"],
        [("NaN or an infinite number", "a.json[0]: NaN"), ("NaN or an infinite number", "a.json[2]: 1e999")],
    ),
    "a key that stands twice": (
        "a.jsonl",
        b'{"a": 1, "a": 2}\n{"m": [{"role": "x", "role": "y"}]}\n{"a": "\\u0022", "b": "a"}\n'
        b'{"a": "\\"a\\":", "b": 1}\n{"a": 1, "a": 2, "b": "\\u0022\\u0022"}\n',
        ["a.jsonl:3", "a.jsonl:4"],
        [("a key that stands twice", f"a.jsonl:{n}: ") for n in (1, 2, 5)],
    ),
    "a key that stands twice, in a list": (
        "a.json",
        b'[{"a": 1, "a": 1}, {"a": {"b": 1, "b": 1}}, {"a": 1}]',
        ["a.json[2]"],
        [("a key that stands twice", "a.json[0]: 'a'"), ("a key that stands twice", "a.json[1]: 'b'")],
    ),
    "100,000 levels": (
        "a.jsonl",
        b"[" * 100_000 + b"\n" + b'{"a":' * 150 + b"1" + b"}" * 150 + b"\n" + GOOD + b'{"a": "' + b"[{" * 900 + b'"}',
        ["a.jsonl:3", "a.jsonl:4"],
        [("nested too deeply", "a.jsonl:1: "), ("nested too deeply", "a.jsonl:2: ")],
    ),
    "150 levels in a list": (
        "a.json",
        b'[{"a": ' + b"[" * 150 + b"]" * 150 + b"}, {}]",
        ["a.json[1]"],
        [("nested too deeply", "a.json[0]: ")],
    ),
    "items that are no objects": (
        "a.json",
        b'[1, {"a": 1}, null, "x", []]',
        ["a.json[1]"],
        [("not a JSON object", f"a.json[{n}]: ") for n in (0, 2, 3, 4)],
    ),
    "a mixed encoding": (
        "a.jsonl",
        '{"a": "ä"}\n'.encode() + '{"a": "ä"}\n'.encode("cp1252") + GOOD,
        ["a.jsonl:1", "a.jsonl:3"],
        [("not UTF-8 text", "a.jsonl:2: byte 0xe4 at column 8")],
    ),
    "a mixed encoding in CSV, over several lines": (
        "a.csv",
        b'a,b\n1,2\n"x\ny\xff\nz",3\n4,5\n6,7\n',
        ["a.csv:2", "a.csv:6", "a.csv:7"],
        [("not UTF-8 text", "a.csv:4: byte 0xff at column 2")],
    ),
    "zero bytes": (
        "a.jsonl",
        GOOD + b"\0\0\0\n" + GOOD,
        ["a.jsonl:1", "a.jsonl:3"],
        [("not valid JSON", "a.jsonl:2: ")],
    ),
    "CSV rows with other columns": (
        "a.csv",
        b'a,b\n1,2\n3\n4,5,6\n\n7,8,\n"9\n9",9\n',
        ["a.csv:2", "a.csv:7"],
        [("more or fewer values than columns", f"a.csv:{n}: ") for n in (3, 4, 6)],
    ),
    "CSV quotes that do not fit": (
        "a.csv",
        b'a,b\n1,2\n"3"x,4\n5,"6\n7,"8"\n9,10\n',
        ["a.csv:2", "a.csv:5", "a.csv:6"],
        [("quotes that do not fit", "a.csv:3: "), ("quotes that do not fit", "a.csv:4: ")],
    ),
    "the last line of a CSV file cut off": (
        "a.csv",
        b"a,b\n1,2\n3",
        ["a.csv:2"],
        [("more or fewer values than columns", "a.csv:3: 1 where 2 are wanted")],
    ),
    "lines of JSON under the name of a list": (
        "a.json",
        GOOD + GOOD + b"x\n" + GOOD,
        ["a.json:1", "a.json:2", "a.json:4"],
        [("not valid JSON", "a.json:3: ")],
    ),
    "SQuAD that is nested otherwise": (
        "a.json",
        b'[{"paragraphs": [{"context": "C", "qas": [{"question": "Q", "answers": "A"}, 5]}, {"context": "C"}, '
        b'{"context": null, "qas": [{}]}, {"context": "C", "qas": [{"question": "Q", "answers": []}]}]}]',
        ["a.json[0].paragraphs[3].qas[0]"],
        [
            ("not as SQuAD nests it", "a.json[0].paragraphs[0].qas[0]: "),
            ("not as SQuAD nests it", "a.json[0].paragraphs[0].qas[1]: "),
            ("not as SQuAD nests it", "a.json[0].paragraphs[1]: "),
            ("not as SQuAD nests it", "a.json[0].paragraphs[2].qas[0]: "),
        ],
    ),
    "infinities in Parquet": (
        "a.parquet",
        parquet(pa.table({"x": [[1.0], [float("inf")], [2.0]]})),
        ["a.parquet#0", "a.parquet#2"],
        [("NaN or an infinite number", "a.parquet#1: in x.0")],
    ),
    "a last line without an end": ("a.jsonl", GOOD + GOOD.strip(), ["a.jsonl:1", "a.jsonl:2"], []),
    "nulls at every depth": ("a.jsonl", b'{"a": null, "b": [null, {"c": null}], "": null}\n', ["a.jsonl:1"], []),
}


@pytest.mark.parametrize("name", BROKEN_ROWS)
def test_a_broken_row_is_dropped_counted_and_named(workplace: Path, name: str) -> None:
    file, content, places, dropped = BROKEN_ROWS[name]
    (workplace / file).write_bytes(content)
    ledger = Ledger()
    assert read(PathSource(path=file), ledger) == places
    assert ledger.rows_dropped == len(dropped)
    told = [(account.reason, place) for account in ledger.dropped for place in account.first]
    assert len(told) == len(dropped)
    for (reason, place), (expected, start) in zip(sorted(told), sorted(dropped), strict=True):
        assert reason == expected and place.startswith(start)
    (workplace / f"{file}.gz").write_bytes(gzip.compress(content))
    assert read(PathSource(path=f"{file}.gz"), Ledger()) == [place.replace(file, f"{file}.gz") for place in places]


def test_a_line_of_100_megabytes_is_dropped(workplace: Path) -> None:
    with (workplace / "a.jsonl").open("wb") as file:
        file.write(GOOD + b'{"a": "')
        for _ in range(100):
            file.write(b"x" * 10**6)
        file.write(b'"}\n' + GOOD)
    ledger = Ledger()
    assert read(PathSource(path="a.jsonl"), ledger) == ["a.jsonl:1", "a.jsonl:3"]
    assert [(account.reason, account.first) for account in ledger.dropped] == [("longer than 64 MiB", ("a.jsonl:2",))]
    (workplace / "a.jsonl").rename(workplace / "a.csv")
    refused(PathSource(path="a.csv"), "a.csv:2: a line of more than 64 MiB")
    (workplace / "a.csv").rename(workplace / "a.txt")
    refused(PathSource(path="a.txt"), "a.txt: longer than 64 MiB, and a text file is one document")
    (workplace / "a.json").write_bytes(b"[" + (workplace / "a.txt").read_bytes()[len(GOOD) : -len(GOOD)] + b"]")
    refused(PathSource(path="a.json"), "1 row: longer than 64 MiB, such as a.json[0]")
    (workplace / "a.json").write_bytes((workplace / "a.json").read_bytes() * 2)
    refused(PathSource(path="a.json"), "a.json:2: there is more after the end of the JSON")


def test_a_quote_that_swallows_more_than_a_row_can_be(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hfkit.data.sources import delimited

    monkeypatch.setattr(delimited, "MAX_BYTES", 1000)
    (workplace / "a.csv").write_text('a,b\n1,"2\n' + "3,4\n" * 1000 + '5,"6"\n', encoding="utf-8")
    refused(PathSource(path="a.csv"), "a.csv:2: a value of more than 64 MiB; is a quote in this row not closed?")


def _socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(path.name)


# What is made in the working directory, the source's path, and what the error must say.
BROKEN_PLACES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "nothing": (lambda here: None, "a.jsonl", "a.jsonl: no such file or folder"),
    "a name that is nearly right": (
        lambda here: (here / "chats.jsonl").write_bytes(GOOD),
        "chat.jsonl",
        "chat.jsonl: no such file or folder; did you mean chats.jsonl?",
    ),
    "no folder": (lambda here: None, "data/a.jsonl", "there is no folder data either"),
    "a file for a folder": (lambda here: (here / "a.jsonl").write_bytes(GOOD), "a.jsonl/b.jsonl", "a.jsonl is a file"),
    "a file with a slash": (lambda here: (here / "a.jsonl").write_bytes(GOOD), "a.jsonl/", "is a file, not a folder"),
    "a file for a folder of a glob": (
        lambda here: (here / "a.jsonl").write_bytes(GOOD),
        "a.jsonl/*.jsonl",
        "a.jsonl/*.jsonl: no file matches; a.jsonl is a file, not a folder",
    ),
    "a glob that matches nothing": (lambda here: None, "*.jsonl", "*.jsonl: no file matches"),
    "a glob in no folder": (lambda here: None, "data/*.jsonl", "there is no folder data"),
    "a glob that matches folders": (lambda here: (here / "data").mkdir(), "dat*", "dat*: matches folders only"),
    "an empty folder": (lambda here: (here / "data").mkdir(), "data", "data: the folder holds no files"),
    "a folder of other files": (
        lambda here: [(here / "data").mkdir(), (here / "data/a.docx").write_bytes(b"x")],
        "data",
        "data: the folder holds only data/a.docx; what can be read",
    ),
    "a folder of empty files": (
        lambda here: [(here / "data").mkdir(), (here / "data/a.jsonl").touch()],
        "data",
        "data: the folder holds only data/a.jsonl; what can be read, if it is not empty,",
    ),
    "a folder under a file's name": (
        lambda here: (here / "a.jsonl").mkdir(),
        "a.jsonl",
        "a.jsonl: the folder holds no files",
    ),
    "a link to nothing": (
        lambda here: (here / "a.jsonl").symlink_to("gone.jsonl"),
        "a.jsonl",
        "a.jsonl: is a link to gone.jsonl, which does not exist",
    ),
    "a link to nothing, in a folder": (
        lambda here: [(here / "data").mkdir(), (here / "data/a.jsonl").symlink_to("gone.jsonl")],
        "data",
        "data/a.jsonl: is a link to gone.jsonl, which does not exist",
    ),
    "a link to itself": (lambda here: (here / "a.jsonl").symlink_to("a.jsonl"), "a.jsonl", "a.jsonl: cannot be read"),
    "a pipe": (lambda here: os.mkfifo(here / "a.jsonl"), "a.jsonl", "a.jsonl: is a pipe, not a file"),
    "a pipe in a folder": (
        lambda here: [(here / "data").mkdir(), os.mkfifo(here / "data/a.jsonl")],
        "data",
        "data/a.jsonl: is a pipe, not a file",
    ),
    "a socket": (lambda here: _socket(here / "a.jsonl"), "a.jsonl", "a.jsonl: is a socket, not a file"),
    "a device": (lambda here: (here / "a.jsonl").symlink_to("/dev/zero"), "a.jsonl", "is a device, not a file"),
    "a name that is too long": (lambda here: None, "x" * 300 + ".jsonl", "cannot be read: File name too long"),
}


@pytest.mark.parametrize("name", BROKEN_PLACES)
def test_a_path_that_is_no_file_is_an_error_that_names_it(workplace: Path, name: str) -> None:
    make, path, said = BROKEN_PLACES[name]
    make(workplace)
    refused(PathSource(path=path), said)
    severity, text = check_source(PathSource(path=path))
    assert severity == "error" and said in text
    with pytest.raises(RequestError):
        identify_source(PathSource(path=path))


@pytest.fixture
def not_root() -> Iterator[Path]:
    """A folder that belongs to the user that the test runs as, who is not root."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        root = os.geteuid() == 0
        if root:
            os.chown(name, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)


def test_permission_denied(not_root: Path) -> None:
    locked = not_root / "locked"
    locked.mkdir()
    for path in (not_root / "a.jsonl", locked / "b.jsonl"):
        path.write_bytes(GOOD)
    (not_root / "a.jsonl").chmod(0)
    locked.chmod(0)
    try:
        refused(PathSource(path=f"{not_root}/a.jsonl"), "a.jsonl: cannot be read: Permission denied")
        assert check_source(PathSource(path=f"{not_root}/a.jsonl"))[0] == "error"
        refused(PathSource(path=f"{locked}/b.jsonl"), "b.jsonl: cannot be read: Permission denied")
        refused(PathSource(path=f"{not_root}"), "locked: the folder cannot be read: Permission denied")
    finally:
        locked.chmod(0o700)


SQL = {"sql": "SELECT x FROM t", "url": "sqlite:///a.db"}

BROKEN_SQL: dict[str, tuple[dict[str, object], str]] = {
    "a statement with a typo": ({"sql": "SELEC x FROM t"}, "'SELEC x FROM t' is no query"),
    "a query with a typo": ({"sql": "SELECT x FORM t"}, 'sql: sqlite:///a.db: near "t": syntax error'),
    "a table that is not there": ({"sql": "SELECT x FROM u"}, "sql: sqlite:///a.db: no such table: u"),
    "a column that is not there": ({"sql": "SELECT y FROM t"}, "sql: sqlite:///a.db: no such column: y"),
    "a statement that writes": ({"sql": "DELETE FROM t"}, "'DELETE FROM t' is no query"),
    "a query that writes": ({"sql": "WITH u AS (SELECT 1) DELETE FROM t RETURNING x"}, "readonly database"),
    "two statements": ({"sql": "SELECT 1; DELETE FROM t"}, "a semicolon inside the query"),
    "a name without a value": ({"sql": "SELECT x FROM t WHERE x = :low"}, "the query's :low has no value"),
    "a value without a name": ({"parameters": {"low": 1}}, "parameters has low, and the query has no :low"),
    "columns with one name": ({"sql": "SELECT x, x FROM t"}, "two columns are named x; give one another name with AS"),
    "no rows": ({"sql": "SELECT x FROM t WHERE x > 99"}, "sql: holds no rows"),
    "a database that is not there": ({"url": "sqlite:///gone.db"}, "there is no file gone.db"),
    "a database in memory": ({"url": "sqlite://"}, "names no file"),
    "a folder": ({"url": "sqlite:////tmp"}, "is a folder, not a database"),
    "a file that is no database": ({"url": "sqlite:///a.txt"}, "file is not a database"),
    "no URL": ({"url": "a.db"}, "url: this is no database's URL"),
    "a kind of database that nobody knows": ({"url": "nothing://x/y"}, "nothing"),
    "a driver that is not installed": ({"url": "oracle+cx_oracle://u@h/d"}, "the driver cx_Oracle is not installed"),
    "a driver that is asynchronous": ({"url": "mysql+aiomysql://u@h/d"}, "aiomysql"),
    "a variable that is not set": ({"url": "env:NOT_SET_ANYWHERE"}, "the environment variable NOT_SET_ANYWHERE is not"),
    "a server that does not answer": ({"url": "postgresql+psycopg://u:pw@127.0.0.1:1/d"}, "127.0.0.1:1/d"),
}


@pytest.mark.parametrize("name", BROKEN_SQL)
def test_a_broken_query_is_an_error(workplace: Path, name: str) -> None:
    pytest.importorskip("sqlalchemy")
    (workplace / "a.txt").write_text("no database " * 99, encoding="utf-8")
    with closing(sqlite3.connect("a.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
    settings, said = BROKEN_SQL[name]
    refused(SqlSource.model_validate(SQL | settings), said)
    assert sorted(path.name for path in workplace.iterdir()) == ["a.db", "a.txt"]


FUNCTIONS = """
import sys

def raises():
    raise ValueError("kaput\\nand more")

def raises_later():
    yield {"a": 1}
    raise KeyError("gone")

def junk():
    return [1, None, {"a": 1}, "x", {2: 3}, {"b": object()}, {"c": b"x"}, {"d": float("inf")}]

def only_junk():
    return [1, 2]

def nothing():
    return []

def text():
    return "rows"

def mapping():
    return {"a": 1}

def none():
    pass

def leaves():
    sys.exit(0)

def leaves_later():
    yield {"a": 1}
    sys.exit(0)

def deep():
    row = {}
    for _ in range(5000):
        row = {"a": row}
    return [{"a": 1}, row]

NUMBER = 5
"""

BROKEN_FUNCTIONS: dict[str, tuple[str, str]] = {
    "one that raises": ("broken_rows:raises", "broken_rows:raises: ValueError: kaput, when it was called"),
    "one that raises later": ("broken_rows:raises_later", "broken_rows:raises_later#1: KeyError: 'gone', before"),
    "one that leaves": ("broken_rows:leaves", "broken_rows:leaves: SystemExit: 0"),
    "one that leaves later": ("broken_rows:leaves_later", "broken_rows:leaves_later#1: SystemExit: 0"),
    "one that gives text": ("broken_rows:text", "gives a value of the type str; let it yield rows"),
    "one that gives a mapping": ("broken_rows:mapping", "gives a value of the type dict; let it yield rows"),
    "one that gives nothing": ("broken_rows:none", "gives a value of the type NoneType; let it yield rows"),
    "one that gives no rows": ("broken_rows:nothing", "broken_rows:nothing: holds no rows"),
    "one that gives junk only": ("broken_rows:only_junk", "2 rows: not a mapping, such as broken_rows:only_junk#0"),
    "one that is not there": ("broken_rows:gone", "the module broken_rows has no function gone"),
    "one that is a number": ("broken_rows:NUMBER", "broken_rows:NUMBER: is of the type int, not a function"),
    "no module": ("gone_rows:rows", "there is no module gone_rows; modules are looked for in the working directory"),
    "a module that imports what is not there": ("importing_rows:rows", "no module gone_rows, which importing_rows"),
    "a module that is no Python": ("wrong_rows:rows", "wrong_rows:rows: SyntaxError"),
    "a module that raises": ("raising_rows:rows", "raising_rows:rows: ZeroDivisionError: division by zero, when"),
}


@pytest.fixture
def modules(workplace: Path) -> Iterator[Path]:
    """The modules of the broken functions in the working directory, forgotten again after the test."""
    (workplace / "broken_rows.py").write_text(FUNCTIONS, encoding="utf-8")
    (workplace / "importing_rows.py").write_text("import gone_rows\n", encoding="utf-8")
    (workplace / "wrong_rows.py").write_text("def rows(:\n", encoding="utf-8")
    (workplace / "raising_rows.py").write_text("1 / 0\n", encoding="utf-8")
    yield workplace
    for name in ("broken_rows", "importing_rows", "wrong_rows", "raising_rows"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", BROKEN_FUNCTIONS)
def test_a_broken_function_is_an_error_that_names_it(modules: Path, name: str) -> None:
    function, said = BROKEN_FUNCTIONS[name]
    refused(CallableSource(callable=function), said, allow_code=True)


def test_a_function_with_arguments_that_it_does_not_take(modules: Path) -> None:
    source = CallableSource(callable="broken_rows:nothing", arguments={"count": 1})
    refused(source, "unexpected keyword argument 'count', when it was called with count", allow_code=True)


def test_a_function_that_was_not_allowed(modules: Path) -> None:
    refused(CallableSource(callable="broken_rows:nothing"), "add the line allow_code: true to the recipe")
    assert "broken_rows" not in sys.modules


def test_junk_from_a_function_is_dropped(modules: Path) -> None:
    ledger = Ledger()
    assert read(CallableSource(callable="broken_rows:junk"), ledger, allow_code=True) == ["broken_rows:junk#2"]
    told = sorted(place.partition(": ")[0] for account in ledger.dropped for place in account.first)
    assert told == [f"broken_rows:junk#{n}" for n in (0, 1, 3, 4, 5, 6, 7)] and ledger.rows_dropped == 7
    assert read(CallableSource(callable="broken_rows:deep"), ledger, allow_code=True) == ["broken_rows:deep#0"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hub": "hfkit/no-such-dataset"}, "is not in the cache and HF_HUB_OFFLINE is set"),
        ({"hub": "hfkit/no-such-dataset", "streaming": True}, "is not in the cache and HF_HUB_OFFLINE is set"),
        ({"hub": "hfkit/no-such-dataset", "config": "x", "revision": "v1"}, "hfkit/no-such-dataset"),
        ({"hub": "hfkit/no/such/dataset"}, "no dataset's id on the Hub, which has the form owner/name"),
        ({"hub": "../chats"}, "no dataset's id on the Hub"),
        ({"hub": "https://hub/x"}, "no dataset's id on the Hub"),
        ({"hub": "here/chats"}, "is a path on this machine too; to read that, write path: instead"),
    ],
)
def test_a_hub_id_that_cannot_be_read(workplace: Path, settings: dict[str, object], said: str) -> None:
    (workplace / "here/chats").mkdir(parents=True)
    refused(HubSource.model_validate(settings), said)
    assert check_source(HubSource.model_validate(settings))[0] == "error"


def read(source: ReadSource, ledger: Ledger, *, allow_code: bool = False) -> list[str]:
    """The places of the source's rows, which are JSON all through."""
    places: list[str] = []
    for batch in read_source(source, ledger, allow_code=allow_code):
        for row in batch.rows:
            json.dumps(row, allow_nan=False)
        places += batch.places
    return places


def refused(source: ReadSource, said: str, *, allow_code: bool = False) -> None:
    """Reading the source is a wrong request, told in one sentence that has `said` in it."""
    with pytest.raises(RequestError) as caught:
        list(read_source(source, Ledger(), allow_code=allow_code))
    explained = explain(caught.value)
    assert explained.exit_code == 2
    assert said in explained.text
    assert "\n" not in explained.text and "Traceback" not in explained.text
