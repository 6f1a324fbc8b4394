"""What `hfkit search` asks of an index."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import hfkit.indexing
import hfkit.searching
from hfkit.verbs import search
from rag.search import Hit, SearchSettings


class Same:
    """A reranker to which all passages are the same."""

    def scores(self, query: str, passages: Sequence[str]) -> list[float]:
        return [0.0 for _ in passages]


@dataclass
class Asked:
    """An index that remembers how it was asked."""

    settings: list[SearchSettings] = field(default_factory=list)

    def search(self, query: str, settings: SearchSettings) -> list[Hit]:
        self.settings.append(settings)
        return []


@pytest.mark.parametrize(("k", "read"), [(5, 50), (100, 100)])
def test_a_reranker_reads_as_many_as_are_asked_for(monkeypatch: pytest.MonkeyPatch, k: int, read: int) -> None:
    index = Asked()
    monkeypatch.setattr(hfkit.searching, "load_reranker", lambda reference: Same())
    monkeypatch.setattr(hfkit.indexing, "open_any_index", lambda folder: nullcontext(index))
    plain = {"mode": "hybrid", "filter": None, "per_document": None, "neighbours": 0, "json": False}
    arguments = argparse.Namespace(index=Path("index"), query="q", k=k, rerank="model", **plain)
    assert search.run(arguments) == 0
    assert [(asked.top_k, asked.rerank_candidates) for asked in index.settings] == [(k, read)]
