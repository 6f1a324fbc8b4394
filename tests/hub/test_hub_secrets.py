"""Secrets in what would be published are told by their place, whatever kind of file they stand in."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfkit.hub.facts import gather_facts
from hfkit.hub.files import PlannedFile, PlannedRepository
from hfkit.hub.plan import plan
from hfkit.hub.secrets import secrets_in
from hfkit.recipe import load_recipe
from tests.hub.conftest import PUBLISHED_STAGES

if TYPE_CHECKING:
    from hfkit.stage import StageName
    from tests.hub.conftest import Published

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


def test_a_recipes_secrets_are_told_by_their_keys(run_to_publish: Published, tmp_path: Path) -> None:
    given = "model.template_arguments={api_key: Zk39xQpL7mWv2Rt8Yb41, db_password: swordfish, style: plain}"
    folders: dict[StageName, Path] = {name: Path("runs") / "tiny" / name for name in PUBLISHED_STAGES}
    facts = gather_facts(load_recipe(run_to_publish.recipe, [given]), folders)

    found = secrets_in(plan(facts, tmp_path / "made"), None)

    text = (tmp_path / "made" / "model" / "recipe.yaml").read_text(encoding="utf-8")
    lines = {line.strip().partition(":")[0]: number for number, line in enumerate(text.splitlines(), start=1)}
    in_recipe = [place.partition("recipe.yaml:")[2] for place in found if "recipe.yaml:" in place]
    assert in_recipe == [
        f"{lines['api_key']}: a password or key in an assignment",
        f"{lines['db_password']}: a secret, as its key db_password says",
    ]
    # In the recipe that the card shows, and in the lines that load the model.
    in_card = [place for place in found if "README.md:" in place]
    assert len(in_card) == 2 and all(place.endswith("a password or key in an assignment") for place in in_card)
    assert not any("swordfish" in place or "Zk39" in place for place in found)
