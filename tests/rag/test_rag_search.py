"""Search: three modes, filters that leave no gap, and queries that are anything at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.chunking import ChunkSettings
from rag.documents import Corpus
from rag.embedder import Vectors
from rag.errors import RagRequestError
from rag.index import Index
from rag.search import Hit, Mode, SearchSettings, query_terms
from tests.rag.hash_embedder import HashEmbedder, make_corpus

ANIMALS = ("cats", "dogs", "horses", "eels", "owls", "bees")
TEXTS = {f"{name}.txt": f"All about {name}. They eat well." for name in ANIMALS} | {
    f"same{number}.md": "# Twins\nTwins of the very same words." for number in range(3)
}


@pytest.fixture
def index(folder: Path, embedder: HashEmbedder) -> Iterator[Index]:
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as made:
        made.sync(make_corpus(TEXTS))
        yield made


def ids(hits: list[Hit]) -> list[str]:
    return [hit.chunk.document_id for hit in hits]


@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_right_chunk_comes_first(index: Index, mode: Mode) -> None:
    for name in ANIMALS:
        hits = index.search(f"what do {name} eat?", SearchSettings(mode, 4))
        assert ids(hits)[0] == f"{name}.txt"
        assert [hit.rank for hit in hits] == [1, 2, 3, 4]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert hits[0].title == name


def test_similarity_is_the_cosine_in_every_mode(index: Index, embedder: HashEmbedder) -> None:
    query = embedder.encode_queries(["cats eat"])[0]
    for mode in get_args(Mode):
        hits = index.search("cats eat", SearchSettings(mode, 9))
        vectors = embedder.encode_passages([hit.chunk.embedded_text for hit in hits])
        assert np.allclose([hit.similarity for hit in hits], vectors @ query, atol=1e-5)
        assert all(-1 <= hit.similarity <= 1 for hit in hits)
    assert all(hit.score == hit.similarity for hit in index.search("cats eat", SearchSettings("dense", 9)))
    itself = index.search("cats\nAll about cats. They eat well.", SearchSettings("dense", 1))
    assert itself[0].similarity == pytest.approx(1)


def test_lexical_search_stems_and_gives_what_matches_alone(index: Index) -> None:
    assert ids(index.search("HORSE", SearchSettings("lexical"))) == ["horses.txt"]
    assert ids(index.search("eating", SearchSettings("lexical", 50))) == sorted(f"{name}.txt" for name in ANIMALS)
    assert index.search("zebra", SearchSettings("lexical")) == []
    assert all(hit.score > 0 for hit in index.search("cats", SearchSettings("lexical")))


def test_hybrid_is_the_mean_of_both_arms_stretched(index: Index) -> None:
    hybrid = {hit.chunk.document_id: hit for hit in index.search("cats eat", SearchSettings("hybrid", 50))}
    dense = {hit.chunk.document_id: hit.score for hit in index.search("cats eat", SearchSettings("dense", 50))}
    lexical = {hit.chunk.document_id: hit.score for hit in index.search("cats eat", SearchSettings("lexical", 50))}
    assert set(hybrid) == set(dense) == set(TEXTS)
    low, high = min(dense.values()), max(dense.values())
    for id, hit in hybrid.items():
        expected = 0.5 * (dense[id] - low) / (high - low) + 0.5 * lexical.get(id, 0) / max(lexical.values())
        assert hit.score == pytest.approx(expected, abs=1e-4)
    assert index.search("zebra", SearchSettings("hybrid", 3)), "without a common word the dense arm still ranks"


def test_either_arm_scores_what_the_other_found(folder: Path, embedder: HashEmbedder) -> None:
    texts = {f"{number:03}.txt": f"Filler {'number ' * (number % 9)}{number} with words." for number in range(300)}
    query = "filler number words"
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as made:
        made.sync(make_corpus(texts))
        cosine = {hit.chunk.document_id: hit.score for hit in made.search(query, SearchSettings("dense", 300))}
        bm25 = {hit.chunk.document_id: hit.score for hit in made.search(query, SearchSettings("lexical", 300))}
        union = (
            sorted(cosine, key=lambda id: (-cosine[id], id))[:100] + sorted(bm25, key=lambda id: (-bm25[id], id))[:100]
        )
        assert len(set(union)) > 120, "the arms differ"
        stretched = [
            {id: (arm[id] - low) / (high - low) for id in union}
            for arm in (cosine, bm25)
            for low, high in [(min(arm[id] for id in union), max(arm[id] for id in union))]
        ]
        for hit in made.search(query, SearchSettings("hybrid", 10)):
            id = hit.chunk.document_id
            assert hit.score == pytest.approx((stretched[0][id] + stretched[1][id]) / 2, abs=1e-3)
            assert hit.similarity == pytest.approx(cosine[id], abs=1e-5)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_filter_works_before_the_ranking(folder: Path, embedder: HashEmbedder, mode: Mode) -> None:
    texts = {f"{number:03}.txt": "cats cats cats" for number in range(200)}
    texts |= {f"rare{number}.txt": f"once of {number} cats among many other words" for number in range(5)}
    wanted = [id for id in texts if id.startswith("rare")]
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as made:
        made.sync(make_corpus(texts))
        assert not set(ids(made.search("cats", SearchSettings(mode, 5)))) & set(wanted)
        assert sorted(ids(made.search("cats", SearchSettings(mode, 5), wanted))) == wanted
        assert made.search("cats", SearchSettings(mode, 5), []) == []


def test_a_filter_for_no_document_is_a_wrong_request(index: Index) -> None:
    with pytest.raises(RagRequestError, match=r"the index holds no document 'cat\.txt'; did you mean .*cats\.txt"):
        index.search("cats", documents=["cat.txt"])


@pytest.mark.parametrize("mode", get_args(Mode))
def test_ties_go_by_document_and_everything_repeats(index: Index, mode: Mode) -> None:
    first = index.search("twins of words", SearchSettings(mode, 9))
    assert ids(first)[:3] == ["same0.md", "same1.md", "same2.md"]
    assert len({hit.score for hit in first[:3]}) == 1
    assert index.search("twins of words", SearchSettings(mode, 9)) == first


@pytest.mark.parametrize("mode", get_args(Mode))
def test_more_than_there_is_gives_all_there_is(index: Index, mode: Mode) -> None:
    assert len(index.search("all about cats dogs twins eat", SearchSettings(mode, 1000))) == len(TEXTS)


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("query", ["", "  \n\t"])
def test_an_empty_query_finds_nothing(index: Index, mode: Mode, query: str) -> None:
    assert index.search(query, SearchSettings(mode)) == []


ODD = [
    "???",
    '"',
    "cats AND",
    "NOT cats",
    "cats OR",
    "NEAR(cats dogs)",
    "text: cats",
    "heading : x",
    "cats*",
    "^cats",
    "-cats",
    "(((",
    "' OR 1=1 --",
    "a\0b",
    "\ud800 cats",
    "_",
    "__ snake_case __",
    "日本語 кошки ünïcödé e\u0301",
    "👩‍👩‍👧",
    "cats " * 20_000,
    " ".join(f"w{number}" for number in range(20_000)),
]


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("query", ODD, ids=range(len(ODD)))
def test_no_query_breaks_anything(index: Index, mode: Mode, query: str) -> None:
    hits = index.search(query, SearchSettings(mode, 3))
    if "cats" in query and mode != "dense":
        assert "cats.txt" in ids(hits)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec=None), max_size=60), st.sampled_from(get_args(Mode)))
def test_any_text_may_be_asked(index: Index, query: str, mode: Mode) -> None:
    hits = index.search(query, SearchSettings(mode, 4))
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def test_an_accent_finds_its_letter(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as made:
        made.sync(make_corpus({"a.txt": "Un café crème."}))
        for query in ("cafe", "café", "cafe\u0301", "CAFÉ"):
            assert ids(made.search(query, SearchSettings("lexical"))) == ["a.txt"]


def test_a_query_is_its_first_distinct_terms() -> None:
    assert query_terms('json.dumps("x") AND json') == ["json", "dump", "x", "and"]
    assert query_terms("?!") == []
    assert len(query_terms(" ".join(f"w{number}" for number in range(999)))) == 200


def test_many_queries_are_encoded_in_one_go(index: Index) -> None:
    calls: list[int] = []

    class Watching(HashEmbedder):
        def encode_queries(self, texts: Sequence[str]) -> Vectors:
            calls.append(len(texts))
            return super().encode_queries(texts)

    with Index.open(index.folder, Watching()) as watched:
        queries = ["cats", "", "what do owls eat?", "twins"] * 10
        assert watched.search_many(queries) == [index.search(query) for query in queries]
        assert watched.search_many([]) == []
    assert calls == [40, 0]


@pytest.mark.parametrize(("mode", "top_k", "message"), [("hybird", 5, "mode is 'hybird'"), ("dense", 0, "top_k is 0")])
def test_settings_that_cannot_hold(mode: Mode, top_k: int, message: str) -> None:
    with pytest.raises(RagRequestError, match=message):
        SearchSettings(mode, top_k)


def test_an_empty_index_finds_nothing(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as made:
        assert made.search("cats") == []
        made.sync(Corpus(()))
        assert made.search_many(["cats", "dogs"]) == [[], []]


def test_threads_share_an_index(index: Index) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = {name: index.search(name) for name in ANIMALS}
    with ThreadPoolExecutor(8) as pool:
        for name, hits in zip(ANIMALS * 10, pool.map(index.search, ANIMALS * 10), strict=True):
            assert hits == expected[name]


def test_importing_rag_loads_nothing_heavy() -> None:
    heavy = "torch transformers sentence_transformers faiss langchain_text_splitters hfkit apps gradio"
    code = f"import sys, rag; print([name for name in {heavy.split()} if name in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
