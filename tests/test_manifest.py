"""The manifest: every whole artifact of a run, and what each was made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hfkit.environment import package_versions
from hfkit.manifest import Manifest

if TYPE_CHECKING:
    from tests.conftest import Cli


def read_manifest(recipe: Path) -> Manifest:
    return Manifest.model_validate_json((recipe.parent / "runs" / "tiny" / "manifest.json").read_text(encoding="utf-8"))


def test_the_manifest_of_a_run_holds_every_stage_as_its_artifact_says(finished: Path) -> None:
    found = read_manifest(finished)
    assert list(found.stages) == ["index", "data", "train", "evaluate"]
    assert {artifact.seed for artifact in found.stages.values()} == {7}
    for name, artifact in found.stages.items():
        marker = finished.parent / "runs" / "tiny" / name / "artifact.json"
        assert json.loads(marker.read_text(encoding="utf-8")) == json.loads(artifact.model_dump_json())
        assert artifact.environment.versions == package_versions()


def test_a_run_that_does_nothing_leaves_the_manifest_as_it_is(finished: Path, cli: Cli) -> None:
    path = finished.parent / "runs" / "tiny" / "manifest.json"
    before = path.read_bytes()
    assert cli("run", finished).code == 0
    assert path.read_bytes() == before


def test_a_manifest_that_a_kill_left_unwritten_is_written_by_the_next_run(finished: Path, cli: Cli) -> None:
    """The last stage's artifact is in place before the manifest is: a kill between the two must not lose it."""
    before = read_manifest(finished)
    (finished.parent / "runs" / "tiny" / "manifest.json").unlink()
    assert cli("run", finished).code == 0
    assert read_manifest(finished).stages == before.stages


def test_running_one_stage_again_keeps_what_is_known_of_the_others(finished: Path, cli: Cli) -> None:
    (finished.parent / "docs" / "ferns.md").write_text("# Ferns\n\nFerns like damp and shaded places.\n", "utf-8")
    assert cli("index", finished).code == 0
    found = read_manifest(finished)
    assert set(found.stages) == {"index", "data", "train", "evaluate"}
    assert found.stages["index"].result["changed"] == 1
