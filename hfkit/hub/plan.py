"""What `hfkit publish` pushes: for each repository the list of its files, those that are made for it written first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hfkit.artifact import write_whole
from hfkit.hub.dataset_card import dataset_card
from hfkit.hub.facts import RunFacts, portable_recipe
from hfkit.hub.files import PlannedFile, PlannedRepository, files_below, require_safe
from hfkit.hub.index_database import settled_database
from hfkit.hub.model_card import model_card
from hfkit.hub.portable import portable_text
from hfkit.hub.space import space_files
from hfkit.hub.weights import CARD, published_weights
from hfkit.manifest import Manifest
from hfkit.recipe import dump_recipe
from hfkit.run import MANIFEST, RECIPE
from rag.index_files import DATABASE

INDEX = "index"
EVALUATION = "evaluation"
_REPORTS = ("report.md", "report.html", "report.json")


def plan(facts: RunFacts, folder: Path) -> tuple[PlannedRepository, ...]:
    """The repositories in the order in which they are pushed: what a card points to comes before the card.

    Files that are made for publishing are written below `folder`, one folder a repository; all others are taken from
    where the stages left them. The same run gives the same files.

    Raises:
        WorkError: a file is of no kind that is published, or the weights cannot be merged.
    """
    planned = [_model(facts, folder / "model")]
    if facts.hub.dataset is not None:
        planned.insert(0, _dataset(facts, facts.hub.dataset, folder / "dataset"))
    if facts.hub.space is not None:
        planned.append(PlannedRepository("space", facts.hub.space, _sorted(space_files(facts, folder / "space"))))
    for repository in planned:
        require_safe(repository)
    return tuple(planned)


def _model(facts: RunFacts, folder: Path) -> PlannedRepository:
    folder.mkdir(parents=True, exist_ok=True)
    weights = published_weights(facts, folder)
    files = list(weights.files)
    texts = {
        CARD: model_card(facts, weights.drift),
        RECIPE: dump_recipe(portable_recipe(facts)),
        MANIFEST: Manifest(recipe=facts.recipe.name, stages=dict(facts.artifacts)).model_dump_json(indent=2) + "\n",
    }
    if "evaluate" in facts.folders:
        reports = files_below(facts.folders["evaluate"], f"{EVALUATION}/")
        files += [_portable(file, facts, folder) for file in reports if file.source.name in _REPORTS]
    files += _written(texts, facts, folder)
    if facts.hub.index:
        database = settled_database(facts.folders["index"], folder / INDEX)
        files.append(PlannedFile(f"{INDEX}/{DATABASE}", database))
    return PlannedRepository("model", facts.hub.repo, _sorted(files))


def _dataset(facts: RunFacts, id: str, folder: Path) -> PlannedRepository:
    folder.mkdir(parents=True, exist_ok=True)
    files = [file for file in files_below(facts.folders["data"]) if file.path.endswith(".parquet")]
    files += _written({CARD: dataset_card(facts)}, facts, folder)
    return PlannedRepository("dataset", id, _sorted(files))


def _written(texts: Mapping[str, str], facts: RunFacts, folder: Path) -> list[PlannedFile]:
    portable = portable_text(facts)
    files = []
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / path, portable(text))
        files.append(PlannedFile(path, folder / path))
    return files


def _portable(file: PlannedFile, facts: RunFacts, folder: Path) -> PlannedFile:
    """The file itself, or one in `folder` without the paths of this machine."""
    text = file.source.read_text(encoding="utf-8")
    if portable_text(facts)(text) == text:
        return file
    (written,) = _written({file.path: text}, facts, folder)
    return written


def _sorted(files: list[PlannedFile]) -> tuple[PlannedFile, ...]:
    return tuple(sorted(files, key=lambda file: file.path))
