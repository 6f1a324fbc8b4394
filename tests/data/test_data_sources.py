"""Files of every kind as rows with the names of their places."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.sources import check_source, identify_source, json_file, read_source
from hfkit.data.sources.batch import in_batches
from hfkit.data.sources.plain_values import plain, plain_row
from hfkit.data.sources.strict_json import parse_object
from hfkit.errors import RequestError
from hfkit.recipe import PathSource

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=4)


def read(path: str | Path, ledger: Ledger | None = None, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    """Places and rows of a path's source. Without a ledger of the test's own nothing may be dropped."""
    own = Ledger()
    batches = list(read_source(PathSource(path=str(path)), ledger or own, **options))
    assert own.dropped == ()
    return [(place, dict(row)) for batch in batches for place, row in zip(batch.places, batch.rows, strict=True)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json_lines(workplace: Path) -> None:
    write(workplace / "a.jsonl", '\n{"a": 1, "b": {"c": [null, true, "x"]}}\r\n \t\n{"a": "\u2028\u0085"}')
    assert read("a.jsonl") == [
        ("a.jsonl:2", {"a": 1, "b": {"c": [None, True, "x"]}}),
        ("a.jsonl:4", {"a": "\u2028\x85"}),
    ]


def test_json_lists(workplace: Path) -> None:
    write(workplace / "a.json", '[\n {"a": 1},\n {"a": [2, {}]}]\n')
    assert read("a.json") == [("a.json[0]", {"a": 1}), ("a.json[1]", {"a": [2, {}]})]


@pytest.mark.parametrize("wrapper", ["data", "rows", "examples", "records", "instances"])
def test_a_list_that_is_wrapped(workplace: Path, wrapper: str) -> None:
    content = {"version": 1, "meta": {"n": [1, {}]}, wrapper: [{"a": 1}, {"a": 2}], "license": [{"x": 1}]}
    write(workplace / "a.json", json.dumps(content))
    assert read("a.json") == [("a.json[0]", {"a": 1}), ("a.json[1]", {"a": 2})]


def test_one_object_is_one_row(workplace: Path) -> None:
    row = {"messages": [{"role": "user", "content": "x"}], "data": "y"}
    write(workplace / "a.json", json.dumps(row, indent=1))
    assert read("a.json") == [("a.json", row)]


def test_json_lines_under_the_name_of_json(workplace: Path) -> None:
    write(workplace / "a.json", '{"a": 1}\n\n{"a": 2}\n')
    assert read("a.json") == [("a.json:1", {"a": 1}), ("a.json:3", {"a": 2})]


def test_squad(workplace: Path) -> None:
    answered = {
        "id": "1",
        "question": "Who?",
        "answers": [{"text": "Me", "answer_start": 3}, {"text": "I", "answer_start": 0}],
    }
    not_answered = {"id": "2", "question": "Why?", "is_impossible": True, "answers": [], "plausible_answers": []}
    paragraphs = [{"context": "First.", "qas": [answered]}, {"context": "Second.", "qas": [not_answered]}]
    write(workplace / "a.json", json.dumps({"version": "v2.0", "data": [{"title": "T", "paragraphs": paragraphs}]}))
    first = {
        "id": "1",
        "title": "T",
        "context": "First.",
        "question": "Who?",
        "answers": {"text": ["Me", "I"], "answer_start": [3, 0]},
        "is_impossible": False,
    }
    second = first | {"id": "2", "context": "Second.", "question": "Why?", "is_impossible": True}
    second["answers"] = {"text": [], "answer_start": []}
    assert read("a.json") == [
        ("a.json[0].paragraphs[0].qas[0]", first),
        ("a.json[0].paragraphs[1].qas[0]", second),
    ]


@given(st.lists(OBJECTS, min_size=1, max_size=5), st.booleans(), st.sampled_from([None, 0, 2]))
def test_json_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], escaped: bool, indent: int | None
) -> None:
    folder = tmp_path_factory.mktemp("json")
    as_list = write(folder / "a.json", json.dumps(rows, ensure_ascii=escaped, indent=indent))
    lines = "\n".join(json.dumps(row, ensure_ascii=escaped) for row in rows)
    as_lines = write(folder / "a.jsonl", lines)
    assert [row for _, row in read(as_list)] == rows
    assert [row for _, row in read(as_lines)] == rows
    assert [place.rpartition(":")[2] for place, _ in read(as_lines)] == [str(n) for n in range(1, len(rows) + 1)]


@given(OBJECTS, st.booleans())
def test_a_line_means_what_python_takes_it_for(value: dict[str, Any], escaped: bool) -> None:
    line = json.dumps(value, ensure_ascii=escaped)
    assert parse_object(line.encode()) == json.loads(line) == value


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_json_may_be_cut_anywhere_while_it_is_read(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    rows = [{"n": 1234567, "t": 'ä€😀"\\', "f": -1.5e3, "l": [True, None, {}]}, {}, {"n": 12}]
    write(workplace / "a.json", json.dumps({"n": 123456, "data": rows, "m": 98765}, ensure_ascii=False))
    monkeypatch.setattr(json_file, "_BLOCK", block)
    assert [row for _, row in read("a.json")] == rows


def test_csv(workplace: Path) -> None:
    write(workplace / "a.csv", 'a,b\r\n1,"x, ""y"""\r\n\r\n2,"two\r\nlines"\r\n3,5" disk\r\n')
    assert read("a.csv") == [
        ("a.csv:2", {"a": "1", "b": 'x, "y"'}),
        ("a.csv:4", {"a": "2", "b": "two\r\nlines"}),
        ("a.csv:6", {"a": "3", "b": '5" disk'}),
    ]


@pytest.mark.parametrize(
    ("name", "content"), [("a.tsv", "a\tb\n1\tx,y\n"), ("a.csv", "a;b\n1;x,y\n"), ("a.csv", "a\tb\n1\tx,y\n")]
)
def test_columns_that_are_not_separated_by_commas(workplace: Path, name: str, content: str) -> None:
    write(workplace / name, content)
    assert read(name) == [(f"{name}:2", {"a": "1", "b": "x,y"})]


def test_a_csv_file_of_one_column_and_one_without_a_name(workplace: Path) -> None:
    write(workplace / "a.csv", "text\nx\n\n y \n")
    write(workplace / "b.csv", ",text\n0,x\n")
    assert read("a.csv") == [("a.csv:2", {"text": "x"}), ("a.csv:4", {"text": " y "})]
    assert read("b.csv") == [("b.csv:2", {"column 1": "0", "text": "x"})]


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=2, max_size=2)
    )
)
def test_csv_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows, ["the", "end"]])
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", written.getvalue())
    given_back = read(path)
    assert [list(row.values()) for _, row in given_back] == [*rows, ["the", "end"]]
    lines = path.read_bytes().split(b"\n")
    assert all(lines[int(place.rpartition(":")[2]) - 1].startswith(b'"') for place, _ in given_back)


def test_long_values_of_csv_files(workplace: Path) -> None:
    write(workplace / "a.csv", f'a,b\n1,"{"x" * 1_000_000}"\n')
    assert read("a.csv") == [("a.csv:2", {"a": "1", "b": "x" * 1_000_000})]


def test_parquet(workplace: Path) -> None:
    table = pa.table(
        {
            "n": [1, None],
            "text": pa.array(["x", "y"]).dictionary_encode(),
            "turns": [[{"role": "user", "content": "x"}], []],
            "at": [datetime(2026, 1, 2, 3, 4, 5), None],
            "price": [Decimal("1.50"), Decimal("2.00")],
            "score": [float("nan"), 1.5],
            "more": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        }
    )
    pq.write_table(table, workplace / "a.parquet")
    expected = [
        {
            "n": 1,
            "text": "x",
            "turns": [{"role": "user", "content": "x"}],
            "at": "2026-01-02T03:04:05",
            "price": 1.5,
            "score": None,
            "more": {"k": 1},
        },
        {"n": None, "text": "y", "turns": [], "at": None, "price": 2, "score": 1.5, "more": None},
    ]
    assert read("a.parquet") == [("a.parquet#0", expected[0]), ("a.parquet#1", expected[1])]
    json.dumps(expected, allow_nan=False)


def test_values_that_python_cannot_hold_cost_their_row_alone(workplace: Path) -> None:
    last = 253402300799  # 9999-12-31T23:59:59Z, which stands for "never"; an hour later in Berlin
    columns = {
        "n": pa.array(range(6)),
        "until": pa.array([0, last, last + 1, None, 0, 0], pa.timestamp("s", "Europe/Berlin")),
        "more": pa.array([None, None, None, [("k", 1), ("k", 2)], [("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "text": pa.array(["x"] * 5 + [b"\xff"], pa.binary()).view(pa.string()),
    }
    pq.write_table(pa.table(columns), workplace / "a.parquet")
    ledger = Ledger()
    rows = read("a.parquet", ledger, batch_rows=3)
    assert [(place, row["until"]) for place, row in rows] == [
        ("a.parquet#0", "1970-01-01T01:00:00+01:00"),
        ("a.parquet#1", "9999-12-31T23:59:59+00:00"),
        ("a.parquet#4", "1970-01-01T01:00:00+01:00"),
    ]
    assert rows[2][1]["more"] == {"k": 1}
    told = [said for account in ledger.dropped for said in account.first]
    assert len(told) == ledger.rows_dropped == 3
    assert told[0].startswith("a.parquet#2: until: ") and told[1].startswith("a.parquet#3: more: ")
    assert told[2].startswith("a.parquet#5: text: byte 0xff")


def test_parquet_rows_are_counted_over_batches(workplace: Path) -> None:
    pq.write_table(pa.table({"n": list(range(25))}), workplace / "a.parquet", row_group_size=10)
    assert read("a.parquet", batch_rows=4) == [(f"a.parquet#{n}", {"n": n}) for n in range(25)]


def test_binary_columns_are_left_out_and_named(workplace: Path) -> None:
    pictures = [{"bytes": b"x", "path": "x.png"}]
    pq.write_table(pa.table({"text": ["x"], "picture": pictures, "raw": [b"\0"]}), workplace / "a.parquet")
    ledger = Ledger()
    assert read("a.parquet", ledger) == [("a.parquet#0", {"text": "x"})]
    (noted,) = ledger.noted
    assert noted.first == ("a.parquet: picture", "a.parquet: raw") and "binary" in noted.reason
    assert ledger.dropped == ()


def test_a_text_file_is_one_document(workplace: Path) -> None:
    write(workplace / "a.txt", "One.\r\n\r\nTwo.\rThree.\n")
    write(workplace / "b.md", "# Title\n")
    assert read("a.txt") == [("a.txt", {"text": "One.\n\nTwo.\nThree.\n"})]
    assert read("b.md") == [("b.md", {"text": "# Title\n"})]


KINDS: dict[str, Callable[[], bytes]] = {
    "jsonl": lambda: b'{"text": "\xc3\xa4"}\n',
    "json": lambda: b'[{"text": "\xc3\xa4"}]',
    "csv": lambda: b"text\n\xc3\xa4\n",
    "tsv": lambda: b"text\n\xc3\xa4\n",
    "txt": lambda: b"\xc3\xa4",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
def test_encodings_that_say_what_they_are(workplace: Path, kind: str, encoding: str, compressed: bool) -> None:
    text = KINDS[kind]().decode()
    content = (b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding)
    name = f"a.{kind}{'.gz' if compressed else ''}"
    write(workplace / name, gzip.compress(content) if compressed else content)
    assert [row for _, row in read(name)] == [{"text": "ä"}]


def test_compressed_parquet_and_several_gzip_members(workplace: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), workplace / "a.parquet")
    write(workplace / "b.parquet.gz", gzip.compress((workplace / "a.parquet").read_bytes()))
    write(workplace / "c.jsonl.gz", gzip.compress(b'{"n": 1}\n') + gzip.compress(b'{"n": 2}\n'))
    assert read("b.parquet.gz") == [("b.parquet.gz#0", {"n": 1})]
    assert read("c.jsonl.gz") == [("c.jsonl.gz:1", {"n": 1}), ("c.jsonl.gz:2", {"n": 2})]


def test_utf16_over_many_blocks(workplace: Path) -> None:
    rows = [{"text": "ä😀" * (n % 50)} for n in range(5000)]
    write(workplace / "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode("utf-16"))
    assert read("a.jsonl") == [(f"a.jsonl:{n}", row) for n, row in enumerate(rows, start=1)]


def test_a_folder_is_read_in_order_and_what_is_left_out_is_named(workplace: Path) -> None:
    write(workplace / "data/b.jsonl", '{"n": 2}')
    write(workplace / "data/a/z.csv", "n\n1\n")
    write(workplace / "data/c.txt", "three")
    write(workplace / "data/README.md", "# About the data")
    write(workplace / "data/model.bin", b"\0")
    write(workplace / "data/empty.jsonl", b"")
    write(workplace / "data/.hidden.jsonl", '{"n": 0}')
    write(workplace / "data/.git/x.jsonl", '{"n": 0}')
    (workplace / "data/elsewhere").symlink_to(workplace / "data/a")
    ledger = Ledger()
    for folder in ("data", "data/", "./data", str(workplace / "data")):
        assert [row for _, row in read(folder, Ledger())] == [{"n": "1"}, {"n": 2}, {"text": "three"}]
    assert [place for place, _ in read("data", ledger)] == ["data/a/z.csv:2", "data/b.jsonl:1", "data/c.txt"]
    assert sorted(name for noted in ledger.noted for name in noted.first) == [
        "data/README.md",
        "data/elsewhere",
        "data/empty.jsonl",
        "data/model.bin",
    ]


def test_globs(workplace: Path) -> None:
    for number in range(3):
        write(workplace / f"data/{number}/part-{number}.jsonl", f'{{"n": {number}}}')
    write(workplace / "data/0/notes.md", "x")
    assert [row["n"] for _, row in read("data/[01]/*.jsonl")] == [0, 1]
    assert [row["n"] for _, row in read(f"{workplace}/data/**/*.jsonl")] == [0, 1, 2]
    assert [row for _, row in read("data/*/*.md")] == [{"text": "x"}]
    # What is there by that very name is no glob.
    write(workplace / "data[1].jsonl", '{"n": 9}')
    assert [row["n"] for _, row in read("data[1].jsonl")] == [9]


def test_names_that_are_no_text(workplace: Path) -> None:
    name = b"\xff.jsonl".decode("utf-8", "surrogateescape")
    try:
        (workplace / name).write_text('{"n": 1}', encoding="utf-8")
    except OSError:
        pytest.skip("the file system takes names of valid UTF-8 only")
    ((place, _),) = read(".")
    assert place.encode().decode() == "\ufffd.jsonl:1"


def test_batches_are_bounded_in_rows_and_in_bytes() -> None:
    def located(rows: int, size: int) -> list[tuple[dict[str, Any], str, int]]:
        return [({"n": n}, str(n), size) for n in range(rows)]

    assert [len(batch.rows) for batch in in_batches(located(10, 1), 4)] == [4, 4, 2]
    assert [len(batch.rows) for batch in in_batches(located(4, 20 * 2**20), 1000)] == [2, 2]
    assert [batch.places for batch in in_batches(located(2, 1), 1)] == [["0"], ["1"]]


def test_lone_surrogates_are_left_to_the_quality_gates(workplace: Path) -> None:
    write(workplace / "a.jsonl", '{"text": "a\\ud800b"}')
    write(workplace / "a.json", '[{"text": "a\\ud800b"}]')
    assert [row for _, row in read("a.jsonl")] == [row for _, row in read("a.json")] == [{"text": "a\ud800b"}]


def test_integers_are_kept_whole(workplace: Path) -> None:
    write(workplace / "a.jsonl", '{"id": 123456789012345678901234567890}')
    assert [row for _, row in read("a.jsonl")] == [{"id": 123456789012345678901234567890}]


def test_values_that_are_no_json_become_plain() -> None:
    row = {
        "when": datetime(2026, 1, 2, 3),
        "day": date(2026, 1, 2),
        "long": timedelta(seconds=90),
        "whole": Decimal("3.00"),
        "part": Decimal("3.25"),
        "id": UUID(int=1),
        "numpy": np.float32(0.5),
        "count": np.int64(3),
        "tuple": (1, {"x": {2}}),
        "nan": float("nan"),
    }
    assert plain_row(row) == {
        "when": "2026-01-02T03:00:00",
        "day": "2026-01-02",
        "long": 90.0,
        "whole": 3,
        "part": 3.25,
        "id": "00000000-0000-0000-0000-000000000001",
        "numpy": 0.5,
        "count": 3,
        "tuple": [1, {"x": [2]}],
        "nan": None,
    }
    for value in (b"x", object(), float("inf"), Decimal("inf"), {1: 2}):
        with pytest.raises(RowFault, match="column"):
            plain({"in": [value]}, "column")


def test_what_a_path_is_identified_by(workplace: Path) -> None:
    path = write(workplace / "data/a.jsonl", '{"n": 1}')
    source = PathSource(path="data")
    before = identify_source(source)
    path.touch()
    assert identify_source(source) == before
    write(path, '{"n": 2}')
    changed = identify_source(source)
    assert changed != before
    write(workplace / "data/b.jsonl", '{"n": 1}')
    assert identify_source(source) not in (before, changed)
    with pytest.raises(RequestError, match=r"missing\.jsonl: no such file"):
        identify_source(PathSource(path="missing.jsonl"))


def test_what_check_says_of_paths(workplace: Path) -> None:
    write(workplace / "data/a.jsonl", '{"n": 1}\n' * 200)
    write(workplace / "data/b.jsonl.gz", gzip.compress(b'{"n": 1}'))
    write(workplace / "data/x.bin", b"x")
    severity, text = check_source(PathSource(path="data"))
    assert severity == "ok" and "2 files" in text and "KiB" in text and "x.bin" in text
    # Broken inside, which is seen when it is read: check reads no whole files.
    write(workplace / "data/c.parquet", b"PAR1....PAR1")
    assert check_source(PathSource(path="data/c.parquet"))[0] == "ok"
    write(workplace / "data/d.parquet", b"no")
    write(workplace / "data/e.jsonl.gz", b"no")
    write(workplace / "data/f.jsonl", b"")
    for name in ("d.parquet", "e.jsonl.gz", "f.jsonl", "missing.csv"):
        severity, text = check_source(PathSource(path=f"data/{name}"))
        assert severity == "error" and name in text


def test_checking_imports_nothing_heavy(workplace: Path) -> None:
    write(workplace / "a.jsonl", '{"n": 1}')
    script = (
        "import sys\nfrom hfkit.data.sources import check_source, identify_source\n"
        "from hfkit.recipe import HubSource, PathSource\n"
        "print(check_source(PathSource(path='a.jsonl'))[0], check_source(HubSource(hub='no/such'))[0])\n"
        "identify_source(PathSource(path='a.jsonl'))\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow', 'sqlalchemy', 'pandas'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["ok error", "[]"]


def test_memory_does_not_grow_with_the_file(workplace: Path) -> None:
    """20 MB of each, which as rows in memory would be 100 MB and more."""
    with (workplace / "a.csv").open("w") as table, (workplace / "a.json").open("w") as listed:
        table.write("n,text\n")
        listed.write('{"data": [{"n": 0}')
        for number in range(200):
            table.write("".join(f"{number}{n},{'x' * 90}\n" for n in range(1000)))
            listed.write("".join(f',\n{{"n": {n}, "text": "{"x" * 75}"}}' for n in range(1000)))
        listed.write("]}")
    script = (
        "import resource\nfrom hfkit.data.ledger import Ledger\nfrom hfkit.data.sources import read_source\n"
        "from hfkit.recipe import PathSource\n"
        "def largest(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = largest()\n"
        "for name in ('a.csv', 'a.json'):\n"
        "    print(sum(len(batch.rows) for batch in read_source(PathSource(path=name), Ledger())))\n"
        "print(largest() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    rows_of_csv, rows_of_json, kibibytes = map(int, done.stdout.split())
    assert (rows_of_csv, rows_of_json) == (200_000, 200_001)
    assert kibibytes < 40 * 1024
