"""`hfkit index`: index, verify and repair, by recipe and by folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter


def test_an_index_is_made_verified_damaged_and_repaired(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe()
    done = cli("index", recipe)
    assert done.code == 0, done.err
    assert "vectors: flat, 4 bytes a number, exact" in done.err
    (folder,) = Path("runs").glob("*/index")
    for what in (recipe, folder):
        done = cli("index", what, "--verify")
        assert done.code == 0, done.err
        assert f"{folder}: whole; 8 documents, " in done.out
    file = folder / "index.sqlite"
    content = bytearray(file.read_bytes())
    content[content.rindex(b"anchor holds")] ^= 1
    file.write_bytes(bytes(content))
    done = cli("index", folder, "--verify")
    assert done.code == 1
    assert "document: chunk 0 of docs/anchors.md is not the text of its span" in done.out
    assert f"damaged; mend it with `hfkit index {folder} --repair`" in done.out
    verified = cli("index", recipe, "--verify", "--json")
    assert (verified.code, verified.document["ok"], verified.document["repair"]) == (1, False, None)
    assert {"docs/anchors.md"} == {finding["document"] for finding in verified.document["findings"]} - {None}
    repaired = cli("index", recipe, "--repair", "--json")
    assert repaired.code == 1, "a document is missing now"
    assert repaired.document["ok"] is True
    assert repaired.document["repair"]["dropped"] == ["docs/anchors.md"]
    assert cli("index", folder, "--verify").code == 0
    again = cli("index", recipe, "--json")
    assert again.code == 0, again.err
    result = again.document["stages"]["index"]["result"]
    assert (result["added"], result["unchanged"]) == (1, 7)


def test_what_is_derived_is_repaired_without_a_word_of_documents(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe()
    assert cli("index", recipe).code == 0
    (file,) = Path("runs").glob("*/index/vectors-1.faiss")
    file.unlink()
    done = cli("index", file.parent, "--verify")
    assert done.code == 1
    assert "vectors file: vectors-1.faiss is missing" in done.out
    done = cli("index", file.parent, "--repair")
    assert (done.code, "rebuilt: vectors file" in done.out, "again" in done.out) == (0, True, False)
    assert file.exists()
    assert "nothing to repair" in cli("index", file.parent, "--repair").out


def test_what_cannot_be_verified_is_refused(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    Path("empty").mkdir()
    Path("plain.yaml").write_text("name: plain\n", encoding="utf-8")
    for arguments, message in (
        (("empty", "--verify"), "there is no index in empty"),
        ((tiny_recipe(), "--repair"), "there is no index in"),
        (("empty",), "empty is a folder; name a recipe to index its documents, or add --verify or --repair"),
        (("empty", "seed=1", "--verify"), "takes no key=value"),
        (("plain.yaml", "--verify"), "the recipe has no section rag"),
    ):
        done = cli("index", *arguments)
        assert (done.code, message in done.err) == (2, True), done.err


def test_a_recipe_states_how_vectors_are_kept(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe()
    assert cli("index", recipe, "rag.index.type=hnsw").code == 0
    done = cli("index", recipe, "rag.index.type=hnsw", "rag.index.storage=int8")
    assert done.code == 0, done.err
    assert "storage of vectors: 'float32' then, 'int8' now" in done.err, "it is made anew"
    assert "vectors: hnsw, " in done.err
    done = cli("check", recipe, "rag.index.type=hnsw", "rag.index.storage=binary")
    assert done.code == 2
    assert "rag.index.storage" in done.err + done.out
