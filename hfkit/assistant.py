"""The assistant that a run made: its index and its reader, ready to answer. The app and `hfkit ask` both use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hfkit.artifact import MARKER
from hfkit.errors import RequestError, WorkError
from hfkit.indexing import finished_manifest, made_otherwise, open_any_index
from hfkit.models.reader import TransformersReader
from hfkit.output import say
from hfkit.recipe import Recipe, load_recipe
from hfkit.run import RECIPE, Run
from hfkit.searching import search_settings
from rag.errors import ReplacedIndexError
from rag.index import Index
from rag.index_files import DATABASE
from rag.search import Hit, SearchSettings


@dataclass(slots=True)
class Assistant:
    """`reader_name` says in words which weights speak. For one question at a time."""

    index: Index
    reader: TransformersReader
    reader_name: str
    settings: SearchSettings

    def retrieve(self, question: str) -> list[Hit]:
        """The passages for `question`, best first, as many as the recipe hands to the reader. An index that was made
        anew since it was opened, for another embedder or in another file, is opened again."""
        try:
            return self.index.search(question, self.settings)
        except ReplacedIndexError:
            before, self.index = self.index, open_any_index(self.index.folder)
            before.close()
            return self.index.search(question, self.settings)

    def __enter__(self) -> Assistant:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.index.close()


def _require_index(folder: Path, recipe: Recipe) -> None:
    """An index answers while the index stage is at work on it, and after it was stopped: that is said, and no reason to
    refuse."""
    assert recipe.rag is not None
    if not (folder / DATABASE).exists():
        raise WorkError(f"{folder}: the index stage has not finished; run `hfkit run` with this recipe")
    if made_otherwise(finished_manifest(folder), recipe.rag):
        say(
            f"hfkit: {folder} was made with another embedder, other chunks or another storage than the recipe asks "
            "for; it answers as it is until `hfkit index` with this recipe has made it anew"
        )
    elif not (folder / MARKER).exists():
        say(f"hfkit: {folder}: the index stage is at work or was stopped; the index answers as it is")


def _require_same_model(recipe: Recipe, trained: Path) -> None:
    """An adapter on another base, or behind another template, answers nonsense without a word."""
    then = load_recipe(trained / RECIPE).model
    if then != recipe.model:
        raise WorkError(
            f"{trained}: was trained with another `model` section than the recipe has now; run `hfkit run` with this "
            "recipe, or go back to what stands in its recipe.yaml"
        )


def load_assistant(recipe: Recipe) -> Assistant:
    """The index of the recipe's run, as the last sync left it that came to its end, with the tuned reader, or with the
    base model where the recipe trains none.

    Raises:
        RequestError: the recipe has no rag or no model section.
        WorkError: a stage that is needed has not finished, or what it left is damaged.
    """
    if recipe.rag is None or recipe.model is None:
        raise RequestError(f"{recipe.name}: answering needs the sections rag and model in the recipe")
    run = Run(recipe)
    _require_index(run.finished("index"), recipe)
    trained = None
    if recipe.train is not None:
        run.artifact("train")
        trained = run.finished("train")
        _require_same_model(recipe, trained)
    max_new_tokens = 200 if recipe.app is None else recipe.app.max_new_tokens
    return Assistant(
        index=open_any_index(run.finished("index")),
        reader=TransformersReader.load(recipe.model, trained, max_new_tokens),
        reader_name=f"{recipe.model.base}, {'as it comes' if trained is None else f'tuned by {recipe.name}'}",
        settings=search_settings(recipe.rag.search),
    )
