"""The assistant of a run whose index is made anew while it is open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hfkit.assistant import Assistant
from rag.chunking import ChunkSettings
from rag.errors import RagError
from rag.index import Index, remove_index
from rag.layout import IndexSettings
from rag.renewal import renewing
from rag.search import SearchSettings
from tests.rag.hash_embedder import HashEmbedder, make_corpus

SETTINGS = ChunkSettings(24, 4)


def anew(folder: Path, text: str) -> None:
    with renewing(folder, HashEmbedder("other"), SETTINGS, IndexSettings()) as index:
        index.sync(make_corpus({"new.md": text}))


def in_other_files(folder: Path, text: str) -> None:
    remove_index(folder)
    with Index.create_or_open(folder, HashEmbedder("other"), SETTINGS) as index:
        index.sync(make_corpus({"new.md": text}))


@pytest.mark.parametrize("make", [anew, in_other_files])
def test_an_index_that_is_made_anew_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    with Index.create_or_open(tmp_path, HashEmbedder(), SETTINGS) as index:
        index.sync(make_corpus({"old.md": "# Old\n\nsome words"}))
    monkeypatch.setattr("hfkit.indexing.load_embedder", lambda name, revision: HashEmbedder(name, revision))
    reader: Any = None
    before = Index.open(tmp_path, HashEmbedder())
    with Assistant(before, reader, "nobody", SearchSettings()) as assistant:
        assert [hit.chunk.document_id for hit in assistant.retrieve("words")] == ["old.md"]
        make(tmp_path, "# New\n\nother words")
        for _ in range(2):
            assert [hit.chunk.document_id for hit in assistant.retrieve("words")] == ["new.md"]
        with pytest.raises(RagError, match="has been closed"):
            before.document_ids()
        remove_index(tmp_path)
        with pytest.raises(RagError, match="there is no index"):
            assistant.retrieve("words")
