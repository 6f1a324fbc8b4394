"""Metadata filters: the language, its errors, and that it works before the search."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rag.filters
from rag.chunking import ChunkSettings
from rag.corpus import Corpus, Document, Section
from rag.errors import RagRequestError
from rag.filters import AllowedChunks, Filter, check_filter
from rag.index import Index
from rag.search import Mode, SearchSettings
from rag.store import Ids, Store
from tests.rag.hash_embedder import HashEmbedder

METADATA: dict[str, dict[str, str | int | float | bool]] = {
    "a.md": {"author": "Ada", "year": 2019, "draft": False},
    "b.md": {"author": "Bob", "year": 2020, "draft": True},
    "c.md": {"author": "Ada", "year": 2021.5, 'it\'s "odd" -- %': 1},
    "d.md": {"year": "2020", "draft": 1},
    "e.md": {},
}
SOURCES = {"a.md": "docs/a.md", "b.md": "docs/deep/b.md", "c.md": "", "d.md": "x[1].zip!/d.md", "e.md": ""}


def document(id: str, text: str) -> Document:
    return Document(id, f"Title of {id}", text, (Section((), 0, len(text)),), SOURCES.get(id, ""), METADATA[id])


@pytest.fixture
def index(folder: Path, embedder: HashEmbedder) -> Iterator[Index]:
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as made:
        made.sync(Corpus(tuple(document(id, f"cats of {id}") for id in METADATA)))
        yield made


def found(index: Index, filter: Filter, mode: Mode = "hybrid") -> str:
    hits = index.search("cats", SearchSettings(mode, 50, filter=filter))
    return "".join(sorted(hit.chunk.document_id[0] for hit in hits))


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({}, "abcde"),
        ({"author": "Ada"}, "ac"),
        ({"author": ["Bob", "Eve"]}, "b"),
        ({"author": []}, ""),
        ({"year": {"gte": 2020}}, "bc"),
        ({"year": {"gt": 2019, "lt": 2021}}, "b"),
        ({"year": 2020}, "b"),
        ({"year": 2020.0}, "b"),
        ({"year": "2020"}, "d"),
        ({"year": {"in": [2019, "2020"]}}, "ad"),
        ({"year": {"ne": 2020}}, "acde"),
        ({"year": {"not_in": [2019, 2020, 2021.5]}}, "de"),
        ({"draft": True}, "b"),
        ({"draft": False}, "a"),
        ({"draft": 1}, "d"),
        ({"author": {"exists": True}}, "abc"),
        ({"author": {"exists": False}}, "de"),
        ({"author": {"glob": "A*"}}, "ac"),
        ({"author": {"gte": "B"}}, "b"),
        ({"document": "c.md"}, "c"),
        ({"document": ["a.md", "e.md"]}, "ae"),
        ({"document": {"ne": "a.md"}}, "bcde"),
        ({"source": {"glob": "docs/*"}}, "ab"),
        ({"source": "c.md"}, "c"),
        ({"source": "x[1].zip!/d.md"}, "d"),
        ({"title": "Title of e.md"}, "e"),
        ({"title": 5}, ""),
        ({'it\'s "odd" -- %': 1}, "c"),
        ({"author": "Ada", "year": {"lt": 2020}}, "a"),
        ({"author": "' OR 1=1 --"}, ""),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", get_args(Mode))
def test_what_a_filter_allows(index: Index, mode: Mode, filter: Filter, expected: str) -> None:
    assert found(index, filter, mode) == expected


def test_the_documents_restrict_further(index: Index) -> None:
    hits = index.search("cats", SearchSettings(filter={"author": "Ada"}), ["a.md", "b.md"])
    assert [hit.chunk.document_id for hit in hits] == ["a.md"]


def test_hits_carry_source_and_metadata(index: Index) -> None:
    hits = {hit.chunk.document_id: hit for hit in index.search("cats", SearchSettings(top_k=9))}
    assert hits["b.md"].source == "docs/deep/b.md" and hits["e.md"].source == "e.md"
    assert {id: hit.metadata for id, hit in hits.items()} == METADATA


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ({"year": {"gtee": 1}}, "search.filter.year: unknown operator 'gtee'; did you mean gte?"),
        ({"year": {"$where": 1}}, "unknown operator '\\$where'"),
        ({"year": {}}, "year is empty"),
        ({"year": None}, "year is None .NoneType."),
        ({"year": {"in": 3}}, "year.in is 3; it must be a list"),
        ({"year": {"in": [[1]]}}, "must be a text, a number"),
        ({"year": {"gt": True}}, "year.gt is True"),
        ({"year": {"glob": 3}}, "year.glob is 3"),
        ({"year": {"glob": "*" * 5000}}, "up to 1,000 characters"),
        ({"year": {"exists": 1}}, "must be true or false"),
        ({"year": float("nan")}, "out of range"),
        ({"year": 2**70}, "out of range"),
        ({3: 1}, "3 is no name"),
        ({"": 1}, "'' is no name"),
        (["author"], "must map names to conditions"),
    ],
    ids=str,
)
def test_what_is_no_filter(filter: Any, message: str) -> None:
    with pytest.raises(RagRequestError, match=message):
        SearchSettings(filter=filter)


def test_a_name_that_no_document_has(index: Index, folder: Path, embedder: HashEmbedder) -> None:
    with pytest.raises(RagRequestError, match="no document has 'autor'; did you mean author\\?"):
        found(index, {"autor": "Ada"})
    with pytest.raises(RagRequestError, match="there are document, source, title, author, draft, it's"):
        found(index, {"zzz": {"ne": 1}})
    with Index.create_or_open(folder.with_name("empty"), embedder, ChunkSettings(24, 0)) as empty:
        assert found(empty, {"autor": "Ada"}) == ""


@pytest.mark.parametrize("name", ["author", 'it\'s "odd" -- %', "document", "source"])
def test_a_long_list_is_one_condition(index: Index, name: str) -> None:
    """Of every kind of value, by a name that a path can quote and by one that it cannot."""
    many: list[str | int | float | bool] = [f"nobody {number}" for number in range(3000)]
    many += [*range(10, 3000), *(number + 0.5 for number in range(1000)), False]
    expected = {"author": "ac", "document": "a", "source": "b"}.get(name, "c")
    sought: list[str | int | float | bool] = ["Ada", "a.md", "docs/deep/b.md", 1]
    assert found(index, {name: [*many, *sought]}) == expected
    assert found(index, {name: {"in": many}}) == ""
    assert found(index, {name: {"not_in": [*many, *sought]}}) == "".join(sorted(set("abcde") - set(expected)))


@pytest.mark.parametrize("name", ["a.b", "a[0]", "$", "a\\b", 'a"b', "größe", "名", "a b", "'", "\x01"])
def test_any_name_is_found_as_it_is_written(folder: Path, embedder: HashEmbedder, name: str) -> None:
    metadata: list[dict[str, str | int | float | bool]] = [{name: "x"}, {f"{name}x": "x"}, {"a": "x", "b": "x"}]
    documents = [
        Document(f"{number}", "T", "cats", (Section((), 0, 4),), "", known) for number, known in enumerate(metadata)
    ]
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as made:
        made.sync(Corpus(tuple(documents)))
        assert found(made, {name: "x"}) == found(made, {name: {"exists": True}}) == found(made, {name: ["x"]}) == "0"
        assert found(made, {name: {"ne": "x"}}) == found(made, {name: {"exists": False}}) == "12"


def test_a_filter_that_is_asked_again_costs_no_look(
    index: Index, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    look_up = rag.filters._look_up

    def counted(store: Store, *asked: Any) -> Ids:
        looks.append(asked)
        return look_up(store, *asked)

    monkeypatch.setattr(rag.filters, "_look_up", counted)
    for _ in range(3):
        assert found(index, {"author": "Ada", "year": {"gte": 2020}}) == "c"
        assert found(index, {"year": {"gte": 2020}, "author": "Ada"}) == "c", "the order says nothing"
    assert len(looks) == 1
    assert [found(index, {"draft": value}) for value in (True, 1, 1.0, "1", [True])] == ["b", "d", "d", "", "b"]
    assert len(looks) == 6, "these are five filters"
    index.sync(Corpus(tuple(document(id, f"cats of {id} again") for id in ("a.md", "c.md"))))
    assert found(index, {"author": "Ada"}) == "ac"
    assert found(index, {"author": "Ada", "year": {"gte": 2020}}) == "c"
    assert len(looks) == 8, "another generation"


def test_what_filters_allowed_is_forgotten_at_last(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rag.filters, "_MOST_KEPT", 4)
    allowed = AllowedChunks()
    with index._store.database.snapshot():
        for year in range(2000, 2030):
            for filter in ({"year": {"gte": year}}, {"author": "Ada"}):
                allowed.find(index._store, filter, None)
                assert sum(map(len, allowed._kept.values())) <= 4
        every = allowed.find(index._store, {}, None)
        assert every is not None and len(every) == 5, "more than is kept, and right"
        assert len(allowed._kept) == 1


SCALARS = st.one_of(
    st.sampled_from(["Ada", "Bob", "2020", ""]), st.sampled_from([1, 0, 2019, 2020, 2021.5]), st.booleans(), st.text()
)
CONDITIONS = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]), SCALARS, min_size=1, max_size=2),
)


def holds(metadata: Mapping[str, object], name: str, condition: Any) -> bool:
    """The language, said again."""
    if isinstance(condition, list):
        return any(holds(metadata, name, one) for one in condition)
    if not isinstance(condition, dict):
        condition = {"eq": condition}
    return all(_holds(metadata, name, operator, operand) for operator, operand in condition.items())


def _holds(metadata: Mapping[str, object], name: str, operator: str, operand: Any) -> bool:
    if operator == "ne":
        return not _holds(metadata, name, "eq", operand)
    value: Any = metadata.get(name)
    kinds = [bool, str, (int, float)]
    kind = next((kind for kind in kinds if isinstance(operand, kind)), str)  # type: ignore[arg-type]
    if value is None or isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):  # type: ignore[arg-type]
        return False
    compared = {
        "eq": lambda: value == operand,
        "gt": lambda: value > operand,
        "gte": lambda: value >= operand,
        "lt": lambda: value < operand,
        "lte": lambda: value <= operand,
    }
    return compared[operator]()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["author", "year", "draft"]), CONDITIONS, min_size=1))
def test_any_filter_allows_what_it_says(index: Index, filter: dict[str, Any]) -> None:
    try:
        check_filter(filter)
    except RagRequestError:
        return
    expected = [
        id[0]
        for id, metadata in METADATA.items()
        if all(holds(metadata, name, condition) for name, condition in filter.items())
    ]
    assert found(index, filter) == "".join(expected)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("a.*?/docs[]-x1!b"), max_size=8))
def test_patterns_are_globs(index: Index, pattern: str) -> None:
    if "[" in pattern or "]" in pattern:
        found(index, {"source": {"glob": pattern}})  # breaks nothing
        return
    sources = {id: source or id for id, source in SOURCES.items()}
    expected = [id[0] for id, source in sources.items() if fnmatch.fnmatchcase(source, pattern)]
    assert found(index, {"source": {"glob": pattern}}) == "".join(expected)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_it_works_before_the_search(folder: Path, embedder: HashEmbedder, mode: Mode) -> None:
    texts = {f"{number:04}": "cats cats cats" for number in range(400)} | {
        f"rare{number}": f"once of {number} cats among many other words" for number in range(5)
    }
    documents = [
        Document(id, id, text, (Section((), 0, len(text)),), "", {"rare": id.startswith("rare")})
        for id, text in texts.items()
    ]
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as made:
        made.sync(Corpus(tuple(documents)))
        hits = made.search("cats", SearchSettings(mode, 5, filter={"rare": True}))
        assert sorted(hit.chunk.document_id for hit in hits) == [f"rare{number}" for number in range(5)]
