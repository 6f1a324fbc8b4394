"""The manifest: what a run was made with."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfkit import __version__, manifest
from hfkit.manifest import Manifest, describe_code, describe_hardware, describe_run, package_versions

if TYPE_CHECKING:
    from tests.conftest import Cli


def read_manifest(recipe: Path) -> Manifest:
    return Manifest.model_validate_json((recipe.parent / "runs" / "tiny" / "manifest.json").read_text(encoding="utf-8"))


def test_versions_are_those_installed_and_none_is_made_up() -> None:
    versions = package_versions()
    assert versions["torch"] == version("torch") and versions["transformers"] == version("transformers")
    assert "faiss-cpu" in versions or "faiss-gpu" in versions
    assert set(versions) <= set(manifest.PACKAGES)


def test_hardware_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    hardware = describe_hardware()
    assert hardware.processor and hardware.cores >= 1 and hardware.threads == "3"
    assert hardware.memory_bytes > 2**28


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "hfkit" / "manifest.py"
    package.parent.mkdir()
    package.write_text("one", encoding="utf-8")
    monkeypatch.setattr(manifest, "__file__", str(package))
    assert describe_code() == manifest.Code(commit=None, changed=False)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--no-verify", "-m", "one")
    assert describe_code() == manifest.Code(commit=git("rev-parse", "HEAD"), changed=False)
    (tmp_path / "untracked").write_text("x", encoding="utf-8")
    assert not describe_code().changed
    package.write_text("two", encoding="utf-8")
    assert describe_code().changed


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_code() == manifest.Code(commit=None, changed=False)


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    described = describe_run(11, {})
    assert described.seed == 11 and described.hfkit == __version__ and described.python == platform.python_version()
    assert Manifest.model_validate_json(described.model_dump_json()) == described


def test_the_manifest_of_a_run_holds_every_stage_as_its_artifact_says(finished: Path) -> None:
    found = read_manifest(finished)
    assert list(found.stages) == ["index", "data", "train", "evaluate"]
    assert found.seed == 7
    for name, artifact in found.stages.items():
        marker = finished.parent / "runs" / "tiny" / name / "artifact.json"
        assert json.loads(marker.read_text(encoding="utf-8")) == json.loads(artifact.model_dump_json())


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
