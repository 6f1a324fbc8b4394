"""The words of a query marked in what `hfkit search` prints."""

from __future__ import annotations

import pytest

from hfkit.verbs.search import marked
from rag.analysis import terms


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("Engines and an engine.", "ENGINE", "<Engines> and an <engine>."),
        ("Un café crème", "cafe", "Un <café> crème"),
        ("Un cafe\u0301 crème", "café", "Un <cafe\u0301> crème"),
        ("json.dumps(x)", "dumping", "json.<dumps>(x)"),
        ("nothing here", "engine", "nothing here"),
        ("", "engine", ""),
    ],
)
def test_words_are_marked_where_they_stand(text: str, query: str, expected: str) -> None:
    said = marked(text, set(terms(query)))
    assert said.replace("\x1b[1m", "<").replace("\x1b[0m", ">") == expected
