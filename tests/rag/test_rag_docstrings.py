"""The standard library's docstrings, read without importing anything."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from rag.docstrings import parse_module
from rag.documents import Skipped, fingerprint_sources, load_corpus
from rag.errors import RagRequestError

SOURCE = b'''"""The module.

    Indented.
"""
import os

def plain(a, /, b: int = 1, *rest, c, d=(1, 2), **more) -> None:
    """Does plain things."""

def _private():
    """Hidden."""

def bare(): ...

def long(argument_number_one=None, argument_number_two=None, argument_number_three=None, argument_number_four=None):
    """Long."""

class Thing(Base):
    """A thing."""

    def __init__(self, size, *, color="red"):
        """Hidden: a dunder."""

    def method(self, x):
        """Does x."""

    @staticmethod
    def static(x):
        """Static."""

    @property
    def width(self):
        """How wide."""

    class Inner:
        """Inside."""

    alias = method

if True:
    async def waits(*, now):
        """Does x."""

    def conditional():
        """Conditional \\ud800\\0."""
'''


def test_sections_of_a_module() -> None:
    document = parse_module("pkg.mod", SOURCE)
    assert document is not None
    assert document.id == "python-docstrings:pkg.mod"
    assert document.title == "pkg.mod"
    found = [(section.heading_path, document.text[section.start : section.end]) for section in document.sections]
    assert found == [
        (("pkg.mod",), "The module.\n\nIndented."),
        (("pkg.mod", "pkg.mod.plain(a, /, b=1, *rest, c, d=(1, 2), **more)"), "Does plain things."),
        (
            (
                "pkg.mod",
                "pkg.mod.long(argument_number_one=None, argument_number_two=None, argument_number_three=None, …)",
            ),
            "Long.",
        ),
        (("pkg.mod", "class pkg.mod.Thing(size, *, color='red')"), "A thing."),
        (("pkg.mod", "pkg.mod.Thing.method(x)"), "Does x."),
        (("pkg.mod", "pkg.mod.Thing.static(x)"), "Static."),
        (("pkg.mod", "pkg.mod.Thing.width"), "How wide."),
        (("pkg.mod", "class pkg.mod.Thing.Inner"), "Inside."),
        (("pkg.mod", "pkg.mod.conditional()"), "Conditional ?\ufffd."),
    ]
    assert all(heading[-1] in document.text for heading, _ in found)


def test_a_module_without_docstrings_gives_no_document() -> None:
    assert parse_module("m", b"def f(): pass\n") is None


def test_the_standard_library() -> None:
    before = set(sys.modules)
    corpus = load_corpus(["python-docstrings:"])
    assert not {name for name in set(sys.modules) - before if name.startswith(("antigravity", "turtle", "this"))}
    ids = [document.id for document in corpus.documents]
    assert len(ids) > 150
    assert ids == sorted(set(ids))
    assert {"python-docstrings:json", "python-docstrings:pathlib", "python-docstrings:email.message"} <= set(ids)
    for id in ids:
        parts = id.partition(":")[2].split(".")
        assert not any(part.startswith("_") for part in parts)
        assert not {"test", "tests", "idlelib", "lib2to3", "encodings", "ensurepip"} & set(parts)
    for document in corpus.documents:
        bodies = [document.text[section.start : section.end] for section in document.sections]
        assert len(bodies) == len(set(bodies))
        assert all(body == body.strip() != "" for body in bodies)
        assert all(len(heading) <= 106 for section in document.sections for heading in section.heading_path)
    json = next(document for document in corpus.documents if document.id == "python-docstrings:json")
    headings = [section.heading_path[-1] for section in json.sections]
    assert any(heading.startswith("json.dumps(obj, *, skipkeys=False, ") for heading in headings)


def test_named_modules() -> None:
    corpus = load_corpus(["python-docstrings: textwrap, json,textwrap"])
    assert [document.title for document in corpus.documents] == ["textwrap", "json"]
    with pytest.raises(RagRequestError, match=r"no public Python module 'jsn' .*did you mean json"):
        load_corpus(["python-docstrings:jsn"])
    with pytest.raises(RagRequestError):
        fingerprint_sources(["python-docstrings:_collections_abc"])


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_what_does_not_parse_is_skipped(library: Path) -> None:
    (library / "good.py").write_text('"""Good."""')
    (library / "twin.py").write_text('"""Good."""')
    (library / "bad.py").write_text("def (")
    (library / "nul.py").write_bytes(b'"""a\0"""')
    (library / "_private.py").write_text('"""P."""')
    (library / "no-module.py").write_text('"""N."""')
    (library / "pkg" / "tests").mkdir(parents=True)
    (library / "pkg" / "__init__.py").write_text('"""Package."""')
    (library / "pkg" / "__main__.py").write_text('"""Main."""')
    (library / "pkg" / "inner.py").write_text('"""Inner."""')
    (library / "pkg" / "tests" / "__init__.py").write_text('"""T."""')
    (library / "folder").mkdir()
    corpus = load_corpus(["python-docstrings:"])
    assert [document.title for document in corpus.documents] == ["good", "pkg", "pkg.inner"]
    assert [skipped.source for skipped in corpus.skipped] == ["python-docstrings:bad", "python-docstrings:nul"]
    assert corpus.skipped[0].reason.startswith("bad.py does not parse as Python")


def test_a_named_module_without_docstrings_is_said(library: Path) -> None:
    (library / "bare.py").write_text("x = 1")
    assert load_corpus(["python-docstrings:"]).skipped == ()
    assert load_corpus(["python-docstrings:bare"]).skipped == (
        Skipped("python-docstrings:bare", "has no docstrings of its own"),
    )


def test_the_fingerprint_follows_the_sources(library: Path) -> None:
    (library / "good.py").write_text('"""Good."""')
    first = fingerprint_sources(["python-docstrings:"])
    assert first == fingerprint_sources(["python-docstrings:"])
    (library / "good.py").write_text('"""Better."""')
    assert first != fingerprint_sources(["python-docstrings:"])
