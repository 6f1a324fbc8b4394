"""The index stage on an index that is damaged, or made otherwise, and on documents that cannot be read for a moment."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfkit.errors import WorkError
from hfkit.indexing import IndexResult, finished_manifest, open_any_index, run_index
from hfkit.progress import Progress
from hfkit.recipe import load_recipe
from hfkit.stage import StageContext
from rag.corpus import Corpus, Skipped
from rag.index import Index
from rag.verification import verify_index
from rag.writer_lock import writing
from tests.rag.hash_embedder import HashEmbedder, Vectors, make_corpus

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


class NamedEmbedder(HashEmbedder):
    """As the stage loads one; `stop_after` so many passages it is interrupted."""

    precision_reason = "none"

    def __init__(self, name: str, stop_after: int | None = None) -> None:
        super().__init__(name)
        self.stop_after = stop_after

    def encode_passages(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> Vectors:
        if self.stop_after is not None and len(self.read) + len(texts) > self.stop_after:
            raise KeyboardInterrupt
        return super().encode_passages(texts, progress)


@pytest.fixture
def index_with(
    tiny_recipe: RecipeWriter, monkeypatch: pytest.MonkeyPatch
) -> Callable[[NamedEmbedder, Corpus | None], IndexResult]:
    """Runs the stage in this process, with this embedder, and with this corpus in the place of the recipe's."""
    monkeypatch.setattr("rag.sync._SLAB", 2)

    def index(embedder: NamedEmbedder, corpus: Corpus | None = None) -> IndexResult:
        recipe = load_recipe(tiny_recipe(rag={"embedder": embedder.name}))
        monkeypatch.setattr("hfkit.indexing.load_embedder", lambda *_: embedder)
        if corpus is not None:
            monkeypatch.setattr("hfkit.indexing.load_corpus", lambda *_: corpus)
        folder = Path("runs/tiny/index")
        folder.mkdir(parents=True, exist_ok=True)
        return run_index(StageContext(recipe, folder, {}, Progress(quiet=True)))

    return index


def test_the_index_serves_while_one_for_another_embedder_is_made(
    index_with: Callable[..., IndexResult],
) -> None:
    folder = Path("runs/tiny/index")
    first = index_with(NamedEmbedder("one"))
    with Index.open(folder, NamedEmbedder("one")) as reader:
        before = reader.search("steam engine piston")
        stopped, again = NamedEmbedder("two", stop_after=6), NamedEmbedder("two")
        with pytest.raises(KeyboardInterrupt):
            index_with(stopped)
        assert reader.search("steam engine piston") == before
    with Index.open(folder, NamedEmbedder("one")) as reader:
        assert reader.search("steam engine piston") == before and reader.generation == first.generation
    result = index_with(again)
    assert result.added == 8 and result.embedded == len(again.read) == first.embedded - len(stopped.read)
    with Index.open(folder, NamedEmbedder("two")) as reader:
        assert reader.search("steam engine piston") and reader.chunk_count == first.chunks
    assert not [path for path in folder.iterdir() if path.name == ".renewed"]


def test_taking_the_recipe_back_keeps_the_index_and_ends_the_renewal(index_with: Callable[..., IndexResult]) -> None:
    index_with(NamedEmbedder("one"))
    with pytest.raises(KeyboardInterrupt):
        index_with(NamedEmbedder("two", stop_after=6))
    result = index_with(NamedEmbedder("one"))
    assert (result.unchanged, result.embedded) == (8, 0)
    assert not Path("runs/tiny/index/.renewed").exists()


def test_a_first_index_that_was_stopped_is_no_answer(
    index_with: Callable[..., IndexResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty index would say that nothing is found; and for another embedder nothing is kept of it."""
    monkeypatch.setattr("hfkit.indexing.renewing", None)
    folder = Path("runs/tiny/index")
    with pytest.raises(KeyboardInterrupt):
        index_with(NamedEmbedder("one", stop_after=0))
    with pytest.raises(WorkError, match="nothing is indexed there yet"):
        open_any_index(folder)
    assert index_with(NamedEmbedder("two")).added == 8
    assert not (folder / ".renewed").exists()


def test_what_may_be_readable_another_time_is_missing_and_what_stays_broken_is_not(
    index_with: Callable[..., IndexResult],
) -> None:
    skipped = (Skipped("https://docs.example.org/a", "the host answers 503", passing=True), Skipped("b.pdf", "damaged"))
    result = index_with(NamedEmbedder("one"), Corpus(make_corpus({"a.md": "# A\n\nwords"}).documents, skipped))
    assert result.missing == ("https://docs.example.org/a",)
    assert [document.source for document in result.skipped] == ["https://docs.example.org/a", "b.pdf"]


def test_the_index_answers_while_another_is_made_and_after_a_kill(
    finished: Path, cli: Cli, patiently: Callable[..., None]
) -> None:
    folder, question = Path("runs/tiny/index"), "What turns heat into motion?"
    asked = ("ask", finished, question)
    other = "rag.chunk.tokens=40"
    (folder / ".renewed").mkdir()
    with writing(folder / ".renewed", 0):  # where it so has to wait
        started = cli.start("index", finished, other)
        holds = re.compile(rf"^{started.pid} ")
        patiently(lambda: holds.match((folder / ".writer").read_text()) or not started.running(), "the renewal")
        assert started.running() and not (folder / "artifact.json").exists()
        done = cli(*asked)
        assert done.code == 0 and "the index stage is at work or was stopped" in done.err, done.err
        assert cli("search", folder, question, "--json").document["hits"]
        started.kill()
        started.wait()
    done = cli(*asked, other)
    assert done.code == 0 and "other chunks or another storage than the recipe asks for" in done.err, done.err
    done = cli("index", finished, other, "--json")
    assert done.code == 0, done.err
    assert "until it is whole, the one that is there is searched" in done.err
    index = done.document["stages"]["index"]
    assert index["made_now"] and index["result"]["added"] == 8, "the pipeline knew that it was not finished"
    assert not (folder / ".renewed").exists() and verify_index(folder).ok
    assert finished_manifest(folder).chunk.tokens == 40
