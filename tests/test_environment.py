"""The environment: what a result was made with."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from hfkit import __version__, environment
from hfkit.environment import (
    Environment,
    describe_code,
    describe_environment,
    describe_hardware,
    package_versions,
)


def test_versions_are_those_installed_and_none_is_made_up() -> None:
    versions = package_versions()
    assert versions["torch"] == version("torch") and versions["transformers"] == version("transformers")
    assert "faiss-cpu" in versions or "faiss-gpu" in versions
    assert set(versions) <= set(environment.PACKAGES)


def test_hardware_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    hardware = describe_hardware()
    assert hardware.processor and hardware.cores >= 1 and hardware.threads == "3"
    assert hardware.memory_bytes > 2**28


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "hfkit" / "environment.py"
    package.parent.mkdir()
    package.write_text("one", encoding="utf-8")
    monkeypatch.setattr(environment, "__file__", str(package))
    one = describe_code()
    assert (one.commit, one.changed) == (None, False)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--no-verify", "-m", "one")
    assert describe_code() == environment.Code(commit=git("rev-parse", "HEAD"), changed=False, content=one.content)
    (tmp_path / "untracked").write_text("x", encoding="utf-8")
    assert not describe_code().changed
    package.write_text("two", encoding="utf-8")
    assert describe_code().changed and describe_code().content != one.content
    # However lines end.
    package.write_bytes(b"one\r\n")
    assert describe_code().content == one.content


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (describe_code().commit, describe_code().changed) == (None, False)


def test_an_environment_is_read_back_as_it_was_written() -> None:
    described = describe_environment()
    assert described.hfkit == __version__ and described.python == platform.python_version()
    assert Environment.model_validate_json(described.model_dump_json()) == described
