"""Several sources in one recipe: no row is taken for another source's, and none is asked for what only splits need."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from hfkit.data.conversation import Conversation
from hfkit.data.formats.turns import assistant, user
from hfkit.data.landing import Strata, land_examples
from hfkit.data.sources import place_names
from hfkit.recipe import HubSource, SplitsSection

if TYPE_CHECKING:
    from tests.data.conftest import PreparedData

Prepare = Callable[..., "PreparedData"]

# Enough that test rows are left where all that have a training row's number are lost.
ROWS = 12


@pytest.fixture
def prepare(workplace: Path, prepare_data: Prepare) -> Prepare:
    """Prepare labelled texts of these sources, for which no model is needed."""

    def run(sources: Sequence[Mapping[str, Any]], **data: Any) -> PreparedData:
        recipe = {"name": "apart", "allow_code": True, "data": {"sources": list(sources), **data}}
        (workplace / "apart.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        return prepare_data(workplace / "apart.yaml")

    return run


@pytest.fixture
def function(workplace: Path) -> Iterator[str]:
    """The name of a function that gives rows of the side that it is told."""
    (workplace / "apart_rows.py").write_text(
        f"def rows(side):\n    for n in range({ROWS}):\n"
        '        yield {"text": f"{side} {n}", "label": "a" if n % 2 else "b"}\n',
        encoding="utf-8",
    )
    yield "apart_rows:rows"
    sys.modules.pop("apart_rows", None)


@pytest.fixture
def database(workplace: Path) -> str:
    """The URL of a database with two tables of rows."""
    pytest.importorskip("sqlalchemy")
    with closing(sqlite3.connect(workplace / "apart.db")) as connection:
        for side in ("train", "test"):
            connection.execute(f"CREATE TABLE {side} (id INTEGER PRIMARY KEY, text TEXT, label TEXT)")
            rows = [(n, f"{side} {n}", "a" if n % 2 else "b") for n in range(ROWS)]
            connection.executemany(f"INSERT INTO {side} VALUES (?, ?, ?)", rows)
        connection.commit()
    return "sqlite:///apart.db"


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_no_test_row_is_lost_to_another_query(prepare: Prepare, database: str) -> None:
    query = "SELECT text, label FROM {} ORDER BY id"
    data = prepare([{"sql": query.format(side), "url": database, "use": side} for side in ("train", "test")])
    assert (len(data.train), len(data.test), data.result.dropped) == (ROWS, ROWS, ())
    assert len({row.id for row in (*data.train, *data.test)}) == 2 * ROWS
    # The card says which of the two a row is from.
    assert all(data.test[0].id.partition("#")[0] in source.name for source in data.result.sources[1:])


def test_no_test_row_is_lost_to_a_call_with_other_arguments(prepare: Prepare, function: str) -> None:
    sources = [{"callable": function, "arguments": {"side": side}, "use": side} for side in ("train", "test")]
    data = prepare(sources)
    assert (len(data.train), len(data.test), data.result.dropped) == (ROWS, ROWS, ())
    alone = prepare([{"callable": function, "arguments": {"side": "train"}}])
    assert {row.id for row in data.train} == {row.id for row in (*alone.train, *alone.test)}


def test_datasets_of_the_hub_are_told_apart() -> None:
    given = [{}, {"config": "a"}, {"config": "b"}, {"revision": "v1"}, {"config": "a", "revision": "v1"}]
    names = [place_names(HubSource.model_validate({"hub": "me/chats", **one})) for one in given]
    assert names[0] == {"hub:me/chats/train"}
    assert names[4] == {"hub:me/chats:a/train@v1"}
    assert len(set(names)) == len(given)


def test_a_file_read_twice_gives_each_row_two_names_and_one_group(prepare: Prepare, workplace: Path) -> None:
    write_lines(workplace / "a.jsonl", [{"text": f"row {n}", "mood": "m", "topic": "t"} for n in range(ROWS)])
    write_lines(workplace / "b.jsonl", [{"text": "another", "label": "x"}])
    mood, topic = ({"path": "a.jsonl", "fields": {"label": name}} for name in ("mood", "topic"))
    data = prepare([{**mood, "use": "test"}, {**topic, "use": "test"}, {"path": "b.jsonl", "use": "train"}])
    names = {row.id: row for row in data.test}
    assert len(names) == len(data.test) == 2 * ROWS
    assert (names["a.jsonl:1"].label, names["a.jsonl:1 (data.sources.1)"].label) == ("m", "t")
    assert {row.document for row in data.test} == {f"a.jsonl:{n}" for n in range(1, ROWS + 1)}

    for by in ("document", "row"):
        split = prepare([{**mood}, {**topic}], splits={"by": by})
        tested, trained = ({row.document for row in side} for side in (split.test, split.train))
        assert tested and tested.isdisjoint(trained), "a row of the file stands on one side, whatever is read of it"


def test_rows_that_are_dealt_already_need_no_time(prepare: Prepare, workplace: Path) -> None:
    write_lines(workplace / "a.jsonl", [{"text": f"row {n}", "label": "x", "when": n} for n in range(ROWS)])
    write_lines(workplace / "held-out.jsonl", [{"text": f"held {n}", "label": "x"} for n in range(3)])
    write_lines(workplace / "more.jsonl", [{"text": f"more {n}", "label": "x", "when": None} for n in range(5)])
    data = prepare(
        [{"path": "a.jsonl"}, {"path": "held-out.jsonl", "use": "test"}, {"path": "more.jsonl", "use": "train"}],
        splits={"test": 2, "by": "time", "key": "when"},
    )
    assert data.result.dropped == ()
    tested = [f"a.jsonl:{ROWS - 1}", f"a.jsonl:{ROWS}", *(f"held-out.jsonl:{n}" for n in (1, 2, 3))]
    assert [row.id for row in data.test] == tested
    assert len(data.train) == ROWS - 2 + 5


def test_rows_that_are_dealt_already_need_no_stratum(prepare: Prepare, workplace: Path) -> None:
    rows = [{"text": f"row {n}", "label": "x", "topic": f"t{n % 2}"} for n in range(ROWS)]
    write_lines(workplace / "a.jsonl", rows)
    write_lines(workplace / "held-out.jsonl", [{"text": "held", "label": "x"}])
    sources = [{"path": "a.jsonl", "keep": ["topic"]}, {"path": "held-out.jsonl", "use": "test"}]
    data = prepare(sources, splits={"test": 4, "stratify": "topic"})
    assert data.result.dropped == () and len(data.test) == 5

    written = Conversation(id="d#0-0", document="d", messages=(user("What?"), assistant("That.")))
    splits = SplitsSection(stratify="topic")
    landed = land_examples([written], "synthesize", workplace / "s", use="train", splits=splits, strata=Strata())
    assert list(landed.examples()) == [written]
