"""The index stage on an index that is damaged, and on documents that cannot be read for a moment."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter


def change(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "index.sqlite")
    with connection:
        connection.execute(statement)
    connection.close()


def test_a_damaged_index_is_repaired_and_one_that_cannot_be_is_made_anew(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe()
    assert cli("index", recipe).code == 0
    (folder,) = Path("runs").glob("*/index")
    change(folder, "DROP TRIGGER chunks_deleted")
    Path("docs/more.md").write_text("# More\nOne page more.\n", encoding="utf-8")
    done = cli("index", recipe, "--json")
    assert done.code == 0, done.err
    result = done.document["stages"]["index"]["result"]
    assert (result["added"], result["unchanged"], result["embedded"]) == (1, 8, 1), (
        "what is whole is not embedded again"
    )
    assert "the index is repaired; 0 documents have to be embedded again" in done.err
    assert cli("index", folder, "--verify").code == 0

    change(folder, "UPDATE meta SET value = '{}' WHERE key = 'manifest'")
    Path("docs/more.md").write_text("# More\nOne page more, changed.\n", encoding="utf-8")
    done = cli("index", recipe, "--json")
    assert done.code == 0, done.err
    assert done.document["stages"]["index"]["result"]["added"] == 9
    assert "the index is made anew from the documents" in done.err
    assert cli("index", folder, "--verify").code == 0


def test_a_document_that_is_empty_for_a_moment_is_kept_and_named(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe()
    assert cli("index", recipe).code == 0
    Path("docs/anchors.md").write_text("", encoding="utf-8")
    done = cli("index", recipe, "--json")
    assert done.code == 0, done.err
    result = done.document["stages"]["index"]["result"]
    assert (result["kept"], result["removed"], result["unchanged"]) == (["docs/anchors.md"], 0, 7)
    assert "kept as it was: docs/anchors.md" in done.err
    Path("docs/anchors.md").unlink()
    done = cli("index", recipe, "--json")
    result = done.document["stages"]["index"]["result"]
    assert (result["kept"], result["removed"]) == ([], 1)
