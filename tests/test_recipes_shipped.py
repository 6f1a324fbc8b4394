"""Every recipe that is shipped: it loads, it passes the preflight check, and its head says how it is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfkit.preflight import check
from hfkit.recipe import load_recipe
from hfkit.stages import wanted_stages

if TYPE_CHECKING:
    from tests.conftest import Cli

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.yaml"))


def test_recipes_are_shipped() -> None:
    assert Path("recipes/quickstart.yaml") in RECIPES


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_shipped_recipe_loads_and_names_work_to_do(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    loaded = load_recipe(recipe)
    assert wanted_stages(loaded)
    # Two recipes of one name would fight over one folder.
    assert loaded.name == recipe.stem


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_shipped_recipe_passes_the_check_from_the_repository_s_root(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    # An empty cache: the recipe must be ready on a machine that has fetched nothing yet.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = load_recipe(recipe)
    if loaded.evaluate is not None and loaded.evaluate.retrieval is not None:
        folder = loaded.evaluate.retrieval.folder
        if not folder.is_dir():
            pytest.skip(f"the judged queries are not shipped, and there is no {folder}")
    errors = [f"{finding.key}: {finding.text}" for finding in check(loaded) if finding.severity == "error"]
    assert errors == []


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_command_line_takes_a_shipped_recipe(recipe: Path, cold_cli: Cli, workplace: Path) -> None:
    """Away from the repository's documents it may find them missing, but nothing of the recipe itself at fault."""
    done = cold_cli("check", ROOT / recipe, "--json")
    assert done.document["recipe"] == recipe.stem
    at_fault = {finding["key"] for finding in done.document["findings"] if finding["severity"] == "error"}
    missing = {"rag.documents", "evaluate.retrieval"}
    assert at_fault <= missing | {key for key in at_fault if key.startswith("data.sources.")}


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_head_of_a_shipped_recipe_names_its_command(recipe: Path) -> None:
    lines = (ROOT / recipe).read_text(encoding="utf-8").splitlines()
    head = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert any(
        f"hfkit run {recipe.as_posix()}" in line or f"-m hfkit train {recipe.as_posix()}" in line for line in head
    )
    assert any("GPU" in line or "CPU" in line for line in head), "the head names no hardware"
