"""What the tests of the index share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rag.hash_embedder import HashEmbedder


@pytest.fixture
def embedder() -> HashEmbedder:
    return HashEmbedder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where an index goes."""
    return tmp_path / "index"
