"""Rows of tables as documents."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rag.documents import Skipped, fingerprint_sources, load_corpus
from rag.errors import RagRequestError

ROWS: list[dict[str, object]] = [
    {"key": "a", "question": "Why?", "answer": "Because.", "year": 2020, "tags": ["x", "y"]},
    {"key": "b", "question": "How?", "answer": None, "year": 2021, "tags": []},
    {"key": "c", "question": "", "answer": " ", "year": None, "tags": None},
]


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


def jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row) for row in ROWS))


def saved(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(path))


@pytest.mark.parametrize(("name", "write"), [("t.parquet", parquet), ("t.jsonl", jsonl), ("folder", saved)])
def test_rows_are_documents(name: str, write: Callable[[Path], None]) -> None:
    write(Path(name))
    source = f"dataset:{name}#text=question,answer&id=key&title=question&keep=year,tags"
    corpus = load_corpus([source])
    first, second = corpus.documents
    assert (first.id, first.title, first.text) == (f"{name}#a", "Why?", "Why?\n\nBecause.")
    assert first.metadata == {"year": 2020, "tags": "x, y"}
    assert first.sections[0].heading_path == ("Why?",)
    assert first.source.startswith(name)
    assert (second.id, second.text, second.metadata) == (f"{name}#b", "How?", {"year": 2021})
    (skipped,) = corpus.skipped
    assert (skipped.source, skipped.reason) == (f"{first.source} row 2", "empty")


def test_csv_rows_and_numbers_for_ids() -> None:
    Path("t.csv").write_text("text,n\nfirst,1\nsecond,2\nfirst,3\n")
    corpus = load_corpus(["dataset:t.csv#text=text"])
    assert [(document.id, document.title) for document in corpus.documents] == [
        ("t.csv#0", "t.csv#0"),
        ("t.csv#1", "t.csv#1"),
        ("t.csv#2", "t.csv#2"),
    ]
    corpus = load_corpus(["dataset:t.csv#text=n&id=text"])
    assert corpus.skipped == (Skipped("t.csv row 2", "a second row of this id"),)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("dataset:t.csv", "must name a place and text columns; for example dataset:pages"),
        ("dataset:#text=a", "must name a place"),
        ("dataset:t.csv#text=a&titel=b", r"knows no 'titel' \(text, id, title"),
        ("dataset:t.csv#text", "must name a place|knows no"),
        ("dataset:t.csv#text=body", "no column 'body'; there are text, n"),
        ("dataset:t.csv#text=text&keep=m", "no column 'm'"),
        ("dataset:s.csv#text=text", r"no file or folder s\.csv; did you mean t\.csv"),
        ("dataset:not an id#text=text", "no file or folder not an id"),
        ("dataset:t.txt#text=text", "must be one of .parquet"),
        ("dataset:empty#text=text", "no file in empty is one of"),
        ("dataset:bad.parquet#text=text", r"bad\.parquet cannot be read"),
        ("dataset:bad.jsonl#text=text", r"bad\.jsonl cannot be read"),
    ],
)
def test_what_is_no_dataset_is_a_wrong_request(source: str, message: str) -> None:
    Path("t.csv").write_text("text,n\nfirst,1\n")
    Path("t.txt").write_text("words")
    Path("empty").mkdir()
    Path("bad.parquet").write_bytes(b"PAR1 no parquet PAR1")
    Path("bad.jsonl").write_text('{"text": "x"}\n[1]\n')
    with pytest.raises(RagRequestError, match=message):
        load_corpus([source])


def test_without_a_network_a_dataset_of_the_hub_is_a_wrong_request() -> None:
    assert fingerprint_sources(["dataset:owner/name#text=a"]) != fingerprint_sources(["dataset:owner/name#text=b"])
    with pytest.raises(RagRequestError, match="there is no file or folder owner/name, and on the Hub: "):
        load_corpus(["dataset:owner/name#text=a"])


def test_the_fingerprint_is_of_the_rows_and_of_the_columns() -> None:
    jsonl(Path("t.jsonl"))
    first = fingerprint_sources(["dataset:t.jsonl#text=question"])
    assert fingerprint_sources(["dataset:t.jsonl#text=answer"]) != first
    with Path("t.jsonl").open("a") as stream:
        stream.write('\n{"key": "d", "question": "Who?"}\n')
    assert fingerprint_sources(["dataset:t.jsonl#text=question"]) != first
