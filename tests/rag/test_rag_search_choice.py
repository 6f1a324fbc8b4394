"""What comes after the two arms: fusion, thresholds, caps, variety, neighbours, reranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.chunking import ChunkSettings
from rag.diversity import Candidate, choose
from rag.errors import RagError, RagRequestError
from rag.fusion import convex, reciprocal_ranks
from rag.index import Index
from rag.search import Hit, Mode, SearchSettings
from tests.rag.hash_embedder import HashEmbedder, make_corpus

SCORES = st.lists(st.floats(0, 100, allow_subnormal=False), min_size=1, max_size=20)


@given(SCORES, SCORES, st.floats(0, 1))
def test_a_convex_combination(dense: list[float], lexical: list[float], weight: float) -> None:
    size = min(len(dense), len(lexical))
    arms = np.array(dense[:size]), np.array(lexical[:size])
    fused = convex(*arms, weight)
    assert np.all((fused >= 0) & (fused <= 1 + 1e-9))
    for alone, arm in ((convex(*arms, 1.0), arms[0]), (convex(*arms, 0.0), arms[1])):
        assert np.all(np.diff(alone[np.argsort(arm, kind="stable")]) >= 0), "one arm alone keeps its order"


def test_reciprocal_ranks_by_hand() -> None:
    fused = reciprocal_ranks(np.array([0.9, 0.5, 0.5, 0.1]), np.array([0.0, 3.0, 7.0, 0.0]))
    assert fused == pytest.approx([1 / 61, 1 / 62 + 1 / 62, 1 / 62 + 1 / 61, 1 / 64])


def candidates(draw: Any) -> tuple[list[Candidate], Any]:
    size = draw(st.integers(1, 14))
    documents = draw(st.lists(st.sampled_from("abc"), min_size=size, max_size=size))
    scores = sorted(draw(st.lists(st.integers(0, 6), min_size=size, max_size=size)), reverse=True)
    seen: Counter[str] = Counter()
    found = []
    for number, (document, score) in enumerate(zip(documents, scores, strict=True)):
        found.append(Candidate(number, document, seen[document] * 2, float(score), 0.5))
        seen[document] += 1
    vectors = np.random.default_rng(size).standard_normal((size, 4)).astype(np.float32)
    return found, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(st.data(), st.integers(1, 8), st.none() | st.integers(1, 3), st.integers(0, 3), st.sampled_from([0, 0.3, 1]))
def test_the_laws_of_choosing(
    data: st.DataObject, limit: int, cap: int | None, neighbours: int, diversity: float
) -> None:
    ranked, vectors = candidates(data.draw)
    chosen = choose(ranked, limit, per_document=cap, neighbours=neighbours, diversity=diversity, vectors=vectors)
    assert len(chosen) <= limit and len(set(chosen)) == len(chosen)
    assert max(Counter(one.document for one in chosen).values()) <= (cap or limit)
    if diversity < 1:
        assert chosen[0] == ranked[0]
    for one in chosen:
        near = [two for two in chosen if two.document == one.document and two != one]
        assert all(abs(one.position - two.position) > neighbours for two in near)
    if diversity == 0:
        assert [ranked.index(one) for one in chosen] == sorted(ranked.index(one) for one in chosen)
        for place, passed_over in enumerate(ranked):
            if passed_over in chosen or len(chosen) == limit:
                continue
            before = [one for one in chosen if ranked.index(one) < place and one.document == passed_over.document]
            close = any(abs(one.position - passed_over.position) <= neighbours for one in before)
            assert close or (cap is not None and len(before) >= cap), "nothing is left out without a reason"


@given(st.data(), st.integers(1, 8), st.sampled_from([0.2, 0.5, 1.0]))
def test_variety_is_maximal_marginal_relevance(data: st.DataObject, limit: int, diversity: float) -> None:
    ranked, vectors = candidates(data.draw)
    scores = np.array([one.score for one in ranked])
    spread = scores.max() - scores.min()
    relevance = (scores - scores.min()) / spread if spread else np.ones(len(scores))
    expected: list[int] = []
    while len(expected) < min(limit, len(ranked)):
        best, place = -np.inf, -1
        for number in range(len(ranked)):
            if number in expected:
                continue
            nearest = max((round(float(vectors[number] @ vectors[other]), 6) for other in expected), default=0.0)
            worth = (1 - diversity) * relevance[number] - diversity * nearest
            if worth > best + 1e-6:
                best, place = worth, number
        expected.append(place)
    chosen = choose(ranked, limit, diversity=diversity, vectors=vectors)
    assert [one.id for one in chosen] == expected


@pytest.fixture
def long_documents(folder: Path, embedder: HashEmbedder) -> Any:
    """Three documents of 120 sentences, each its own chunk; the first of them is all about cats."""
    texts = {
        f"{name}.md": f"# {name}\n\n" + "\n\n".join(f"## Part {n}\n\n{word} {n} of {name} here." for n in range(120))
        for name, word in (("one", "cats"), ("two", "dogs and cats"), ("three", "eels or cats and dogs"))
    }
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as made:
        made.sync(make_corpus(texts))
        yield made


def where(hits: Sequence[Hit]) -> list[tuple[str, int]]:
    return [(hit.chunk.document_id, hit.chunk.position) for hit in hits]


@pytest.mark.parametrize("mode", get_args(Mode))
def test_caps_look_deeper_where_they_leave_too_few(long_documents: Index, mode: Mode) -> None:
    plain = long_documents.search("cats of one", SearchSettings(mode, 20))
    assert {id for id, _ in where(plain)} == {"one.md"}, "without a cap one document takes all"
    capped = long_documents.search("cats of one", SearchSettings(mode, 6, per_document=2))
    assert Counter(id for id, _ in where(capped)) == {"one.md": 2, "two.md": 2, "three.md": 2}
    assert [hit.rank for hit in capped] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_threshold_is_on_the_cosine(long_documents: Index, mode: Mode) -> None:
    every = long_documents.search("cats 7 of one", SearchSettings(mode, 360))
    bar = sorted(hit.similarity for hit in every)[len(every) // 2]
    kept = long_documents.search("cats 7 of one", SearchSettings(mode, 360, min_similarity=bar))
    assert set(where(kept)) == {place for place, hit in zip(where(every), every, strict=True) if hit.similarity >= bar}
    assert long_documents.search("cats 7 of one", SearchSettings(mode, 360, min_similarity=1)) == []


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("neighbours", [1, 2, 7])
def test_neighbours_are_exact_spans_and_nothing_is_shown_twice(
    long_documents: Index, mode: Mode, neighbours: int
) -> None:
    texts = {document.id: document.text for document in long_documents.documents()}
    hits = long_documents.search("cats 7 of one", SearchSettings(mode, 30, neighbours=neighbours))
    shown: list[tuple[str, int, int]] = []
    for hit in hits:
        id = hit.chunk.document_id
        assert hit.text == texts[id][hit.start : hit.end]
        assert hit.start <= hit.chunk.start and hit.chunk.end <= hit.end and hit.chunk.text in hit.text
        assert all(id != other or hit.end <= start or end <= hit.start for other, start, end in shown)
        shown.append((id, hit.start, hit.end))
    first, position = hits[0], hits[0].chunk.position
    chunks = [chunk for chunk in long_documents.chunks([first.chunk.document_id])]
    around = chunks[max(0, position - neighbours) : position + neighbours + 1]
    assert (first.start, first.end) == (around[0].start, around[-1].end)


def test_overlapping_chunks_are_shown_once(folder: Path, embedder: HashEmbedder) -> None:
    text = " ".join(f"Sentence {number} tells of cats." for number in range(60))
    with Index.create_or_open(folder, embedder, ChunkSettings(30, 12)) as made:
        made.sync(make_corpus({"a.txt": text}))
        hits = made.search("sentence of cats", SearchSettings(top_k=20, neighbours=1))
        pieces = sorted((hit.start, hit.end) for hit in hits)
        assert all(end <= start for (_, end), (start, _) in pairwise(pieces))
        assert all(hit.text == text[hit.start : hit.end] for hit in hits)


def test_variety_takes_other_texts(folder: Path, embedder: HashEmbedder) -> None:
    texts = {f"same{n}.md": "# Cats\ncats eat fish daily" for n in range(5)}
    texts |= {"other.md": "# Cats\ncats sleep long nights"}
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as made:
        made.sync(make_corpus(texts))
        plain = made.search("cats eat fish", SearchSettings("dense", 2))
        varied = made.search("cats eat fish", SearchSettings("dense", 2, diversity=0.8))
        assert [id for id, _ in where(plain)] == ["same0.md", "same1.md"]
        assert [id for id, _ in where(varied)] == ["same0.md", "other.md"]


@pytest.mark.parametrize("fusion", ["convex", "rrf"])
def test_many_queries_give_what_one_gives(long_documents: Index, fusion: Any) -> None:
    asked = SearchSettings(top_k=4, fusion=fusion, per_document=2, neighbours=1, diversity=0.2, min_similarity=0.1)
    queries = ["cats 7 of one", "", "dogs", "eels 90", "zebra"]
    assert long_documents.search_many(queries, asked) == [long_documents.search(query, asked) for query in queries]
    assert long_documents.search_many(queries, asked) == long_documents.search_many(queries, asked)


def test_the_weight_moves_hybrid_from_words_to_meaning(long_documents: Index) -> None:
    def ranking(**changes: Any) -> list[tuple[str, int]]:
        return where(long_documents.search("dogs 33 of two", SearchSettings(top_k=10, **changes)))

    assert ranking(dense_weight=1.0) == ranking(mode="dense")
    assert ranking(dense_weight=0.0)[:1] == ranking(mode="lexical")[:1]


class Backwards:
    """Ranks by how late the text's number is."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def scores(self, query: str, passages: Sequence[str]) -> list[float]:
        self.asked.append((query, len(passages)))
        return [float(passage.split()[-4]) for passage in passages]


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_reranker_ranks_the_best_candidates_anew(long_documents: Index, mode: Mode) -> None:
    first = long_documents.search("cats of one", SearchSettings(mode, 12))
    reranker = Backwards()
    hits = long_documents.search("cats of one", SearchSettings(mode, 5, reranker=reranker, rerank_candidates=12))
    assert reranker.asked == [("cats of one", 12)]
    expected = sorted((float(hit.chunk.text.split()[-4]) for hit in first), reverse=True)[:5]
    assert [hit.score for hit in hits] == expected
    assert set(where(hits)) <= set(where(first))


@pytest.mark.parametrize("mode", get_args(Mode))
def test_caps_look_deeper_before_a_reranker_reads(long_documents: Index, mode: Mode) -> None:
    reranker = Backwards()
    asked = SearchSettings(mode, 6, per_document=2, reranker=reranker, rerank_candidates=12)
    hits = long_documents.search("cats of one", asked)
    assert reranker.asked == [("cats of one", 12)], "it reads no more for it"
    assert Counter(id for id, _ in where(hits)) == {"one.md": 2, "two.md": 2, "three.md": 2}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    best = set(where(long_documents.search("cats of one", SearchSettings(mode, 6, per_document=2))))
    assert {place for place in best if place[0] != "one.md"} <= set(where(hits))


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_threshold_looks_deeper_before_a_reranker_reads(long_documents: Index, mode: Mode) -> None:
    every = long_documents.search("cats 7 of one", SearchSettings(mode, 360))
    bar = sorted(hit.similarity for hit in every)[-20]
    # In the words' order the close ones stand anywhere.
    near = {place for place, hit in zip(where(every), every, strict=True) if hit.similarity >= bar}
    asked = SearchSettings(mode, 20, min_similarity=bar, reranker=Backwards(), rerank_candidates=30)
    assert set(where(long_documents.search("cats 7 of one", asked))) <= near
    assert len(long_documents.search("cats 7 of one", asked)) == 20


def test_where_caps_leave_enough_a_reranker_reads_the_best(long_documents: Index) -> None:
    capped = SearchSettings("hybrid", 2, per_document=2, reranker=Backwards(), rerank_candidates=12)
    free = long_documents.search("cats of one", replace(capped, per_document=None))
    assert where(long_documents.search("cats of one", capped)) == where(free)


def test_others_search_and_write_while_a_reranker_reads(folder: Path, embedder: HashEmbedder) -> None:
    """What it ranks is of the generation that the search saw, with its neighbours, whatever is written meanwhile."""
    texts = {f"{n}.txt": f"One of {n} is here.\n\nTwo of {n} is there.\n\nThree of {n} is not." for n in "abcd"}

    class Busy:
        def scores(self, query: str, passages: Sequence[str]) -> list[float]:
            def others() -> str:
                made.sync(make_corpus({"new.txt": "Entirely new."}))
                return made.search("new", SearchSettings(top_k=1))[0].chunk.text

            with ThreadPoolExecutor(1) as pool:
                answers.append(pool.submit(others).result(timeout=60))
            return [float(len(passages) - number) for number in range(len(passages))]

    answers: list[str] = []
    with Index.create_or_open(folder, embedder, ChunkSettings(16, 0)) as made:
        made.sync(make_corpus(texts))
        wanted = SearchSettings(top_k=3, rerank_candidates=6, neighbours=1, diversity=0.2)
        plain = made.search("two there", replace(wanted, diversity=0.0))
        hits = made.search("two there", replace(wanted, reranker=Busy()))
        assert answers == ["Entirely new."]
        assert hits[0].chunk == plain[0].chunk
        assert all(hit.text == texts[hit.source][hit.start : hit.end] for hit in hits)
        assert [hit.chunk.document_id for hit in made.search("new", SearchSettings())] == ["new.txt"]


@pytest.mark.parametrize("bad", [[float("nan")], [1.0] * 99, []])
def test_a_reranker_that_gives_no_numbers(long_documents: Index, bad: list[float]) -> None:
    class Broken:
        def scores(self, query: str, passages: Sequence[str]) -> list[float]:
            return bad

    with pytest.raises(RagError, match="the reranker gave"):
        long_documents.search("cats", SearchSettings(top_k=1, reranker=Broken(), rerank_candidates=1 if bad else 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "rff"}, "search.fusion is 'rff'; it must be convex or rrf; did you mean rrf?"),
        ({"dense_weight": 1.5}, "search.dense_weight is 1.5; it must be from 0 to 1"),
        ({"dense_weight": float("nan")}, "search.dense_weight is nan"),
        ({"diversity": -1}, "search.diversity is -1"),
        ({"min_similarity": 2}, "search.min_similarity is 2; it must be from -1 to 1"),
        ({"per_document": 0}, "search.per_document is 0; it must be at least 1"),
        ({"neighbours": -1}, "search.neighbours is -1; it must be at least 0"),
        ({"rerank_candidates": 0}, "search.rerank_candidates is 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_hold_either(changes: Any, message: str) -> None:
    with pytest.raises(RagRequestError) as error:
        SearchSettings(**changes)
    assert message in str(error.value)
