"""Secrets in what would be published are told by their place, whatever kind of file they stand in."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfkit.hub.files import PlannedFile, PlannedRepository
from hfkit.hub.secrets import secrets_in

SECRET = "ghp_" + "Zk9" * 12


def text(path: Path) -> None:
    path.write_text(f"first\nsecond {SECRET}\n", encoding="utf-8")


def parquet(path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b"], "number": [1, 2], "example": ["fine", f"key: {SECRET}"]}), path)


def database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE texts (id INTEGER, text TEXT)")
        connection.executemany("INSERT INTO texts VALUES (?, ?)", [(1, "fine"), (2, f"key: {SECRET}")])


@pytest.mark.parametrize(
    ("name", "write", "place"),
    [("report.md", text, "2"), ("rows.parquet", parquet, "row 2"), ("index.sqlite", database, "texts row 2")],
)
def test_a_secret_is_told_by_its_place_and_not_repeated(tmp_path: Path, name: str, write: object, place: str) -> None:
    path = tmp_path / name
    write(path)  # type: ignore[operator]
    planned = PlannedRepository("model", "ada/reader", (PlannedFile(name, path),))
    assert secrets_in([planned, planned], None) == [f"{path}:{place}: a GitHub token"]


def test_the_token_that_publishes_is_found_whatever_it_looks_like(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("the word is plain\n", encoding="utf-8")
    planned = PlannedRepository("model", "ada/reader", (PlannedFile("notes.txt", path),))
    assert secrets_in([planned], None) == []
    assert secrets_in([planned], "plain") == [f"{path}:1: the token that publishes"]
