"""Rows of tables as documents."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rag.chunking import ChunkSettings
from rag.documents import Corpus, Limits, Skipped, fingerprint_sources, load_corpus
from rag.errors import RagRequestError
from rag.index import Index
from tests.rag.hash_embedder import HashEmbedder

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
    ],
)
def test_what_is_no_dataset_is_a_wrong_request(source: str, message: str) -> None:
    Path("t.csv").write_text("text,n\nfirst,1\n")
    Path("t.txt").write_text("words")
    Path("empty").mkdir()
    with pytest.raises(RagRequestError, match=message):
        load_corpus([source])


def ids(*sources: str) -> list[str]:
    return [document.id for document in load_corpus(sources).documents]


def test_a_bad_line_is_skipped_and_those_behind_it_keep_their_numbers() -> None:
    bad = ["no json", "[1]", "[" * 100_000, '{"text": "' + "x" * 3_000 + '"}', '{"text": ""}']
    Path("t.jsonl").write_bytes("\n".join(['{"text": "a"}', *bad]).encode() + b'\n\xff\n\n{"text": "b"}')
    corpus = load_corpus(["dataset:t.jsonl#text=text"], limits=Limits(bytes=1_000))
    assert [document.id for document in corpus.documents] == ["t.jsonl#0", "t.jsonl#7"]
    reasons = [
        "not JSON: Expecting value",
        "no JSON object",
        "1,000 bytes",
        "1,000 bytes",
        "empty",
        "not JSON that can",
    ]
    assert [skipped.source for skipped in corpus.skipped] == [f"t.jsonl row {number}" for number in range(1, 7)]
    assert all(part in skipped.reason for part, skipped in zip(reasons, corpus.skipped, strict=True))


def test_nesting_without_end_skips_its_row_alone() -> None:
    Path("t.jsonl").write_text('{"text": "a"}\n' + "[" * 100_000 + '\n{"text": "b"}\n')
    corpus = load_corpus(["dataset:t.jsonl#text=text"])
    assert [document.id for document in corpus.documents] == ["t.jsonl#0", "t.jsonl#2"]
    assert corpus.skipped == (Skipped("t.jsonl row 1", "JSON nested too deep"),)


def test_a_damaged_file_is_skipped_and_the_others_are_read() -> None:
    Path("rows").mkdir()
    parquet(Path("rows/a.parquet"))
    Path("rows/b.parquet").write_bytes(Path("rows/a.parquet").read_bytes()[:-20])
    Path("rows/d.arrow").write_bytes(b"no arrow")
    Path("rows/e.jsonl").write_text('{"question": "Who?", "key": "e"}')
    corpus = load_corpus(["dataset:rows#text=question&id=key"])
    assert [document.id for document in corpus.documents] == ["rows#a", "rows#b", "rows#e"]
    broken = [skipped.reason for skipped in corpus.skipped if skipped.source == "rows"]
    assert [reason.partition(": Arrow")[0] for reason in broken] == ["rows/b.parquet: damaged", "rows/d.arrow: damaged"]


def test_many_rows_without_text_are_counted() -> None:
    Path("t.jsonl").write_text('{"text": "a"}\n' + '{"text": null}\n' * 300)
    corpus = load_corpus(["dataset:t.jsonl#text=text"])
    assert len(corpus.skipped) == 101
    assert corpus.skipped[-1] == Skipped("t.jsonl, 200 more rows", "the last of them, row 300: empty")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's address space")
def test_a_small_file_that_unpacks_to_much_is_skipped() -> None:
    import pyarrow
    import pyarrow.parquet

    values = pyarrow.array(["x" * 8_000_000])
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1_000, pyarrow.int32()), values)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), "t.parquet", compression="zstd", store_schema=False)
    assert Path("t.parquet").stat().st_size < 100_000
    corpus = load_corpus(["dataset:t.parquet#text=text"], limits=Limits(memory=1_000_000_000))
    assert corpus == Corpus((), (Skipped("t.parquet", "takes more memory to read than is allowed"),))


def test_dates_that_python_cannot_hold_cost_their_own_rows() -> None:
    import pyarrow
    import pyarrow.parquet

    day = pyarrow.array([0, 2**62], pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "day": day}), "t.parquet")
    assert ids("dataset:t.parquet#text=text") == ["t.parquet#0", "t.parquet#1"], "a column that nobody wants"
    corpus = load_corpus(["dataset:t.parquet#text=text&keep=day"])
    assert [document.id for document in corpus.documents] == ["t.parquet#0"]
    assert corpus.skipped == (Skipped("t.parquet row 1", "holds a value that cannot be read"),)


def test_an_index_keeps_the_rows_of_a_file_that_cannot_be_read(folder: Path, embedder: HashEmbedder) -> None:
    sources = ["a.md", "dataset:rows#text=question&id=key"]
    Path("a.md").write_text("# A\n\nwords")
    Path("rows").mkdir()
    parquet(Path("rows/a.parquet"))
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as index:
        assert index.sync(load_corpus(sources)).added == 3
        Path("rows/a.parquet").write_bytes(b"half written")
        report = index.sync(load_corpus(sources))
        assert (report.removed, set(report.kept)) == (0, {"rows#a", "rows#b"})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dataset of the Hub is two rows, with pictures that cannot be decoded."""
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "other": datasets.Value("string")})
    features["picture"] = datasets.Image()
    picture = {"bytes": b"no picture", "path": None}

    def load_dataset(where: str, config: str | None, split: str, revision: str | None) -> datasets.Dataset:
        rows = [{"text": f"{config} {split} {number}", "other": "o", "picture": picture} for number in range(2)]
        return datasets.Dataset.from_list(rows, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@pytest.mark.usefixtures("hub")
def test_of_the_hub_no_other_columns_are_decoded() -> None:
    assert ids("dataset:o/d#text=text") == ["o/d#0", "o/d#1"]
    with pytest.raises(RagRequestError, match="o/d#text=picture: row 0 cannot be read: "):
        load_corpus(["dataset:o/d#text=picture"])
    with pytest.raises(RagRequestError, match="no column 'words'; there are text, other, picture"):
        load_corpus(["dataset:o/d#text=words"])


@pytest.mark.usefixtures("hub")
def test_splits_configurations_and_revisions_are_of_the_id() -> None:
    options = ["", "&split=test", "&config=test", "&config=test&split=test", "&revision=v1", "&split=test&revision=v1"]
    corpus = load_corpus([f"dataset:o/d#text=text{option}" for option in options])
    assert corpus.skipped == ()
    assert [document.id for document in corpus.documents][::2] == [
        "o/d#0",
        "o/d/default/test#0",
        "o/d/test/train#0",
        "o/d/test/test#0",
        "o/d@v1#0",
        "o/d/default/test@v1#0",
    ]


def test_other_text_columns_of_the_same_rows_are_other_documents() -> None:
    jsonl(Path("t.jsonl"))
    sources = ["dataset:t.jsonl#text=question", "dataset:t.jsonl#text=answer", "dataset:t.jsonl#text=question&id=key"]
    assert ids(*sources) == ["t.jsonl#0", "t.jsonl#1", "t.jsonl#answer#0", "t.jsonl#a", "t.jsonl#b"]
    assert ids(sources[1]) == ["t.jsonl#0"], "alone it needs no more"


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
