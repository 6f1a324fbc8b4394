"""Lexical search: equal to scoring every text by hand, from files that catch up and are never believed blindly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rag.lexical
from rag.analysis import terms, word_spans
from rag.bm25 import Bm25, Segment
from rag.chunking import ChunkSettings
from rag.index import Index
from rag.mapped import ArrayFile, DamagedFileError, write_arrays
from rag.postings import Postings, count_terms, joined
from rag.search import SearchSettings
from tests.rag.hash_embedder import HashEmbedder, make_corpus

WORDS = st.sampled_from(["a", "a", "a", "bee", "bees", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis"])
TEXTS = st.lists(st.lists(WORDS, max_size=12).map(" ".join), min_size=1, max_size=40)


def brute_force(texts: Mapping[int, str], query: str) -> dict[int, float]:
    """BM25 as it stands in the books, over all texts; those without a common word are left out."""
    counts = {id: Counter(terms(text)) for id, text in texts.items()}
    mean = sum(count.total() for count in counts.values()) / max(len(counts), 1) or 1.0
    scores: dict[int, float] = {}
    for term in dict.fromkeys(terms(query)):
        holding = [id for id, count in counts.items() if count[term]]
        idf = math.log(1 + (len(counts) - len(holding) + 0.5) / (len(holding) + 0.5))
        for id in holding:
            times, length = counts[id][term], counts[id].total()
            scores[id] = scores.get(id, 0) + idf * times * 1.9 / (times + 0.9 * (0.6 + 0.4 * length / mean))
    return scores


def assert_best(found: Sequence[tuple[int, float]], expected: Mapping[int, float], limit: int) -> None:
    """The best, best first, of equals the lower id; scores are float32 on the way."""
    assert len(found) == min(limit, len(expected))
    assert list(found) == sorted(found, key=lambda entry: (-entry[1], entry[0]))
    for id, score in found:
        assert score == pytest.approx(expected[id], rel=1e-5)
    left_out = [score for id, score in expected.items() if id not in dict(found)]
    if found and left_out:
        assert max(left_out) <= found[-1][1] * (1 + 1e-5)


def ids_of(texts: Mapping[int, str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(sorted(texts), dtype=np.int64)


def counted(texts: Mapping[int, str]) -> Postings:
    return count_terms(ids_of(texts), [texts[id] for id in sorted(texts)])


@settings(deadline=None)
@given(TEXTS, st.lists(WORDS, min_size=1, max_size=6).map(" ".join), st.integers(1, 12), st.data())
def test_it_equals_scoring_every_text(texts: list[str], query: str, limit: int, data: st.DataObject) -> None:
    named = dict(enumerate(texts, start=7))
    bm25 = Bm25([Segment.of(counted(named))])
    question, expected = bm25.ask(terms(query)), brute_force(named, query)
    assert_best(bm25.best(question, limit), expected, limit)
    scores = bm25.scores(question, ids_of(named))
    assert np.allclose(scores, [expected.get(id, 0) for id in sorted(named)], rtol=1e-5)
    among = set(data.draw(st.lists(st.sampled_from(sorted(named)))))
    subset = {id: score for id, score in expected.items() if id in among}
    assert_best(bm25.best(question, limit, np.array(sorted(among), dtype=np.int64)), subset, limit)


@settings(deadline=None)
@given(TEXTS, TEXTS, st.lists(WORDS, min_size=1, max_size=6).map(" ".join), st.integers(1, 12), st.data())
def test_parts_and_gone_texts_count_like_one_whole(
    old: list[str], new: list[str], query: str, limit: int, data: st.DataObject
) -> None:
    older = dict(enumerate(old))
    newer = dict(enumerate(new, start=len(old)))
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=len(old), max_size=len(old))))
    left = {id: text for id, text in older.items() if alive[id]} | newer
    expected = brute_force(left, query)
    bm25 = Bm25([Segment.of(counted(older), alive), Segment.of(counted(newer))])
    question = bm25.ask(terms(query))
    assert bm25.size == len(left)
    assert_best(bm25.best(question, limit), expected, limit)
    every = ids_of(older | newer)
    assert np.allclose(bm25.scores(question, every), [expected.get(id, 0) for id in every.tolist()], rtol=1e-5)
    whole = joined([(counted(newer), np.ones(len(new), dtype=np.bool_)), (counted(older), alive)])
    for name, array in counted(left).arrays().items():
        assert np.array_equal(array, whole.arrays()[name]), name


def test_leaving_common_words_for_later_changes_nothing() -> None:
    """Words as frequent as in a language: some in every text, some in a few, lengths of all sizes."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, 60, 3000)
    texts = {
        id: " ".join(f"w{rank}" for rank in (random.zipf(1.3, length) % 400).tolist())
        for id, length in enumerate(lengths.tolist())
    }
    postings = counted(texts)
    for bm25 in (
        Bm25([Segment.of(postings)]),
        Bm25(
            [
                Segment.of(postings, random.random(3000) < 0.7),
                Segment.of(counted({5000 + n: "w1 w9" for n in range(9)})),
            ]
        ),
    ):
        for _ in range(150):
            question = bm25.ask([f"w{rank}" for rank in (random.zipf(1.2, 6) % 400).tolist()])
            scores = bm25.scores(question, postings.ids)
            order = np.lexsort((postings.ids, -scores))[:10]
            expected = [(int(id), float(score)) for id, score in zip(order, scores[order], strict=True) if score > 0]
            found = [(id, score) for id, score in bm25.best(question, 20) if id < 5000][: len(expected)]
            assert found == expected
            for limit in (1, 2, 3):
                assert bm25.best(question, limit) == bm25.best(question, 3000)[:limit]


def test_common_words_are_not_read_where_they_cannot_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {id: f"the of and {'rare word' if id < 30 else 'filler'}" for id in range(5000)}
    bm25 = Bm25([Segment.of(counted(texts))])
    read: list[int] = []
    plain = rag.bm25.weights
    monkeypatch.setattr(rag.bm25, "weights", lambda times, damping: (read.append(len(times)), plain(times, damping))[1])
    assert len(bm25.best(bm25.ask(terms("the rare word of and")), 10)) == 10
    assert sum(read) < 1000
    assert_best(bm25.best(bm25.ask(terms("the rare word of and")), 10), brute_force(texts, "the rare word of and"), 10)


def test_equal_texts_have_equal_scores_wherever_they_lie() -> None:
    texts = [f"bees {'cat ' * (number % 5)} eel hen" for number in range(50)]
    bm25 = Bm25([Segment.of(counted(dict(enumerate(texts)))), Segment.of(counted(dict(enumerate(texts, 50))))])
    found = dict(bm25.best(bm25.ask(terms("cat eel bees hen")), 100))
    assert all(found[id] == found[id + 50] for id in range(50))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Studies' naïve ﬁles", ["the", "studi", "naiv", "file"]),
        ("search_many IL-10 β-catenin H2O", ["search", "mani", "il", "10", "β", "catenin", "h2o"]),
        ("東京都は 雨", ["東京", "京都", "都は", "雨"]),
        ("नमस्ते दुनिया 한국어", ["नमस्ते", "दुनिया", "한국어"]),
        ("?! ... \ud800", []),
        ("x" * 100, ["x" * 64]),
    ],
    ids=["English", "codes", "without spaces", "other scripts", "no word", "no word either"],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@given(st.text(max_size=40))
def test_any_text_has_terms_and_words_where_they_stand(text: str) -> None:
    assert all(terms(text)), "no empty term"
    found = [term for start, end in word_spans(text) for term in terms(text[start:end])]
    if text.isascii():
        assert found == terms(text)


def corpus_of(count: int, changed: Sequence[int] = ()) -> dict[str, str]:
    return {
        f"{number:05}.txt": f"number {number} of the {'changed ' if number in changed else ''}eels word{number % 7}"
        for number in range(count)
    }


@pytest.fixture
def no_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small indexes too keep a file and changes to it."""
    monkeypatch.setattr(rag.lexical, "_SMALL", 0)


LEXICAL = SearchSettings("lexical", 20)


@pytest.mark.usefixtures("no_small")
def test_a_sync_counts_only_what_is_new(folder: Path, embedder: HashEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    plain = rag.lexical.count_terms

    def watched(ids: np.ndarray[tuple[int], np.dtype[np.int64]], texts: Sequence[str]) -> Postings:
        counted.append(len(ids))
        return plain(ids, texts)

    monkeypatch.setattr(rag.lexical, "count_terms", watched)
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as index:
        index.sync(make_corpus(corpus_of(200)))
        counted.clear()
        base = {path.name: path.read_bytes() for path in folder.glob("lexical-*")}
        for changed in ([3], [3, 4], [5], []):
            index.sync(make_corpus(corpus_of(200, changed)))
            assert max(counted) <= 3
            expected = {f"{number:05}.txt" for number in changed}
            hits = index.search("changed", LEXICAL)
            assert {hit.chunk.document_id for hit in hits} == expected
        assert all((folder / name).read_bytes() == data for name, data in base.items()), "the old file stays in use"
        index.sync(make_corpus(corpus_of(200, range(100))))
        assert len(list(folder.glob("lexical-*"))) == 1, "after many changes it is one file again"
        index.verify()


@pytest.mark.usefixtures("no_small")
def test_what_was_caught_up_is_what_is_built_anew(folder: Path, embedder: HashEmbedder, tmp_path: Path) -> None:
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as index:
        for changed in ([], [1], [1, 2], [7, 8, 9]):
            index.sync(make_corpus(corpus_of(90, changed)))
        found = index.search_many(["changed eels", "word3 number", "12 of the"], LEXICAL)
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as index:  # from the files
        assert index.search_many(["changed eels", "word3 number", "12 of the"], LEXICAL) == found
    with Index.create_or_open(tmp_path / "anew", embedder, ChunkSettings(24, 0)) as index:
        index.sync(make_corpus(corpus_of(90, [7, 8, 9])))
        for mine, theirs in zip(index.search_many(["changed eels", "word3 number"], LEXICAL), found, strict=False):
            assert [(hit.chunk, hit.score) for hit in mine] == [(hit.chunk, hit.score) for hit in theirs]


def test_a_flipped_bit_changes_no_result(folder: Path, embedder: HashEmbedder) -> None:
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as index:
        index.sync(make_corpus(corpus_of(60)))
        expected = index.search("eels word3", LEXICAL)
    (path,) = folder.glob("lexical-*")
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 60).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with Index.open(folder, embedder) as index:
            assert index.search("eels word3", LEXICAL) == expected
        path.write_bytes(whole)


@pytest.mark.parametrize("content", [None, b"", b"ragarrs1", bytes(500), b"x" * 5000])
def test_a_lost_or_foreign_file_is_made_again(folder: Path, embedder: HashEmbedder, content: bytes | None) -> None:
    with Index.create_or_open(folder, embedder, ChunkSettings(24, 0)) as index:
        index.sync(make_corpus(corpus_of(20)))
        expected = index.search("eels word3", LEXICAL)
    (path,) = folder.glob("lexical-*")
    whole = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    with Index.open(folder, embedder) as index:
        assert index.search("eels word3", LEXICAL) == expected
    assert path.read_bytes() == whole


def test_arrays_come_back_and_damage_is_seen_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    big = np.arange(200_000, dtype=np.int32)
    write_arrays(path, "ab", 7, {"base": 3}, {"big": big, "none": np.zeros(0, dtype=np.uint8)})
    file = ArrayFile(path)
    assert (file.token, file.generation, file.described["base"]) == ("ab", 7, 3)
    assert np.array_equal(file.array("big"), big) and len(file.array("none")) == 0 and "other" not in file
    data = bytearray(path.read_bytes())
    start = data.index(big[150_000:].tobytes()[:64])
    data[start] ^= 1
    path.write_bytes(data)
    damaged = ArrayFile(path)
    (again,), guard = damaged.guarded("big")
    guard.check(0, 60_000)
    assert np.array_equal(again[:60_000], big[:60_000])
    with pytest.raises(DamagedFileError):
        guard.check(149_999, 150_001)
    with pytest.raises(DamagedFileError):
        damaged.array("big")
    path.write_bytes(data[:-1])
    with pytest.raises(DamagedFileError, match="bytes and should have"):
        ArrayFile(path)
