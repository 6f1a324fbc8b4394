"""What a name stands for: a Hub id for the commit that lies in the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfkit.models import identity
from hfkit.models.identity import model_identity

FIRST, SECOND = "1" * 40, "2" * 40


def cached(cache: Path, commit: str, branch: str = "main") -> None:
    """As if `owner/model` had been fetched when `branch` stood at `commit`."""
    repository = cache / "models--owner--model"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}", encoding="utf-8")
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / branch).write_text(commit, encoding="utf-8")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library reads the place of its cache, and that it is offline, when it is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    identity._commit.cache_clear()
    return tmp_path


def test_a_hub_id_stands_for_the_commit_in_the_cache(cache: Path) -> None:
    assert model_identity("owner/model", None) == "owner/model@None"
    identity._commit.cache_clear()
    cached(cache, FIRST)
    cached(cache, SECOND, "next")
    assert model_identity("owner/model", None) == f"owner/model@{FIRST}"
    assert model_identity("owner/model", "next") == f"owner/model@{SECOND}"
    assert model_identity("owner/model", SECOND) == f"owner/model@{SECOND}"


def test_a_model_that_moved_on_is_another_one(cache: Path) -> None:
    cached(cache, FIRST)
    before = model_identity("owner/model", None)
    cached(cache, SECOND)
    assert model_identity("owner/model", None) == before, "not while a stage runs that read the first"
    identity._commit.cache_clear()
    assert model_identity("owner/model", None) != before
