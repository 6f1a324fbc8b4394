"""Metrics against published and hand-computed figures and an independent implementation; judged queries; tuning."""

from __future__ import annotations

import gzip
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.chunking import ChunkSettings
from rag.corpus import Corpus, Document, Section
from rag.errors import RagRequestError
from rag.index import Index
from rag.measure import (
    WEIGHTS,
    RememberedQueries,
    rank_documents,
    tune_dense_weight,
    unknown_documents,
)
from rag.metrics import mean_scores, metric_names, score_rankings
from rag.qrels import JudgedQueries, judged_files, read_judged_queries, splits
from rag.search import SearchSettings
from tests.rag.hash_embedder import HashEmbedder

QUERIES = '{"_id": "q1", "text": "how do ships hold"}\n{"_id": "q2", "text": "what do bees do"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t1\nq2\tc\t1\n"


# Metrics.


def by_hand(ranking: Sequence[str], grades: Mapping[str, int], cutoff: int) -> dict[str, float]:
    """The four metrics straight from their definitions, sharing nothing with the library."""
    best = sorted(grades.values(), reverse=True)
    ideal = sum(best[rank] / math.log(rank + 2, 2) for rank in range(min(cutoff, len(best))))
    gained = precisions = hits = reciprocal = 0.0
    for rank in range(min(cutoff, len(ranking))):
        grade = grades.get(ranking[rank], 0)
        if grade == 0:
            continue
        gained += grade / math.log(rank + 2, 2)
        hits += 1
        precisions += hits / (rank + 1)
        reciprocal = reciprocal or 1 / (rank + 1)
    return {
        f"ndcg@{cutoff}": gained / ideal,
        f"recall@{cutoff}": hits / len(grades),
        f"mrr@{cutoff}": reciprocal,
        f"map@{cutoff}": precisions / len(grades),
    }


def test_a_textbook_s_average_precision_and_reciprocal_rank() -> None:
    """Manning, Raghavan and Schütze (2008), chapter 8: relevant at ranks 1, 3, 6, 9, 10 of all five."""
    ranking = ["r1", "x1", "r2", "x2", "x3", "r3", "x4", "x5", "r4", "r5"]
    found = score_rankings({"q": ranking}, {"q": {f"r{n}": 1 for n in range(1, 6)}}, [10])["q"]
    assert found["map@10"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 6 + 4 / 9 + 5 / 10) / 5)
    assert (found["mrr@10"], found["recall@10"]) == (1.0, 1.0)


def test_the_ndcg_of_the_published_example() -> None:
    """The example of Wikipedia's page on discounted cumulative gain: grades 3, 2, 3, 0, 1, 2 give DCG 6.861; with two
    more relevant documents of grades 3 and 2 the ideal is 8.740 and nDCG at 6 is 0.785."""
    grades = {"d1": 3, "d2": 2, "d3": 3, "d5": 1, "d6": 2, "d7": 3, "d8": 2}
    found = score_rankings({"q": ["d1", "d2", "d3", "d4", "d5", "d6"]}, {"q": grades}, [6])["q"]
    assert found["ndcg@6"] == pytest.approx(6.861126688593502 / 8.740262365546284)
    assert round(found["ndcg@6"], 3) == 0.785


def test_a_case_computed_by_hand() -> None:
    scored = score_rankings({"q": ["x", "a", "y", "b"]}, {"q": {"a": 2, "b": 1, "c": 1}}, [1, 3, 4])["q"]
    ideal = 2 + 1 / math.log2(3) + 1 / 2
    assert scored["ndcg@3"] == pytest.approx(2 / math.log2(3) / ideal)
    assert scored["ndcg@4"] == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert [scored[f"recall@{k}"] for k in (1, 3, 4)] == pytest.approx([0, 1 / 3, 2 / 3])
    assert [scored[f"mrr@{k}"] for k in (1, 3, 4)] == [0, 0.5, 0.5]
    assert [scored[f"map@{k}"] for k in (1, 3, 4)] == pytest.approx([0, 1 / 6, (1 / 2 + 2 / 4) / 3])
    assert list(scored) == metric_names([1, 3, 4])
    assert metric_names([10]) == ["ndcg@10", "recall@10", "mrr@10", "map@10"]


def test_two_thousand_random_rankings_agree_with_the_definitions() -> None:
    randomly = random.Random(5)
    cutoffs = [1, 3, 10, 100]
    rankings: dict[str, list[str]] = {}
    relevant: dict[str, dict[str, int]] = {}
    for number in range(2000):
        pool = [f"d{n}" for n in range(randomly.randint(1, 150))]
        id = f"q{number}"
        rankings[id] = randomly.sample(pool, randomly.randint(0, len(pool)))
        judged = randomly.sample([*pool, "unfound 1", "unfound 2"], randomly.randint(1, min(len(pool) + 2, 12)))
        relevant[id] = {document: randomly.choice([1, 1, 1, 2, 3]) for document in judged}
    found = score_rankings(rankings, relevant, cutoffs)
    assert list(found) == list(relevant)
    for id, scores in found.items():
        expected = {metric: value for k in cutoffs for metric, value in by_hand(rankings[id], relevant[id], k).items()}
        assert scores == pytest.approx(expected, abs=1e-9), id


def test_a_query_that_found_nothing_scores_nothing() -> None:
    relevant = {"found": {"a": 1}, "empty": {"a": 1}, "absent": {"a": 1}}
    scores = score_rankings({"found": ["a"], "empty": []}, relevant, [10])
    assert list(scores) == ["found", "empty", "absent"]
    assert set(scores["empty"].values()) == set(scores["absent"].values()) == {0.0}
    assert mean_scores(scores) == pytest.approx(dict.fromkeys(metric_names([10]), 1 / 3))


@given(st.permutations([f"d{n}" for n in range(8)]), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_raising_a_relevant_document_never_lowers_a_metric(ranking: list[str], cutoff: int) -> None:
    relevant = {"q": {"d0": 2, "d1": 1, "d2": 1}}
    place = ranking.index("d0")
    raised = [*ranking]
    if place:
        raised[place - 1], raised[place] = raised[place], raised[place - 1]
    before, after = (score_rankings({"q": one}, relevant, [cutoff])["q"] for one in (ranking, raised))
    if place == 0 or ranking[place - 1] not in relevant["q"]:
        assert all(after[metric] >= before[metric] - 1e-12 for metric in before)
    assert all(0 <= value <= 1 for value in before.values())


def test_the_order_counts_and_not_the_names_of_the_documents() -> None:
    """trec_eval breaks ties by id; a ranking has none."""
    for first, second in (("a", "z"), ("z", "a")):
        assert score_rankings({"q": [first, second]}, {"q": {first: 1}}, [10])["q"]["mrr@10"] == 1


# Judged queries.


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text(QUERIES, encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text(QRELS, encoding="utf-8")
    return folder


def test_a_folder_in_beir_s_layout(beir: Path) -> None:
    judged = read_judged_queries(beir, "test")
    assert judged == JudgedQueries(
        split="test",
        queries={"q1": "how do ships hold", "q2": "what do bees do"},
        relevant={"q1": {"a": 2, "b": 1}, "q2": {"c": 1}},
    )
    assert splits(beir) == ["test"]
    assert judged_files(beir, "test") == (beir / "queries.jsonl", beir / "qrels" / "test.tsv")


def test_compressed_queries_and_judgements_beside_them(beir: Path) -> None:
    whole = read_judged_queries(beir, "test")
    (beir / "queries.jsonl").rename(beir / "plain")
    (beir / "queries.jsonl.gz").write_bytes(gzip.compress((beir / "plain").read_bytes()))
    (beir / "qrels" / "test.tsv").rename(beir / "qrels-test.tsv")
    assert read_judged_queries(beir, "test") == whole


@pytest.mark.parametrize(
    "text", [QRELS.partition("\n")[2], QRELS.replace("\n", "\r\n"), "\ufeff" + QRELS, QRELS.replace("\n", "\n\n")]
)
def test_a_heading_is_optional_and_line_ends_do_not_matter(beir: Path, text: str) -> None:
    whole = read_judged_queries(beir, "test")
    (beir / "qrels" / "test.tsv").write_bytes(text.encode("utf-8"))
    assert read_judged_queries(beir, "test") == whole


def test_what_cannot_be_asked_is_named(beir: Path) -> None:
    (beir / "qrels" / "test.tsv").write_text("q1\ta\t1\nq2\tc\t0\nq2\td\t-1\nq8\ta\t1\nq9\ta\t1\n", encoding="utf-8")
    judged = read_judged_queries(beir, "test")
    assert (list(judged.queries), judged.relevant) == (["q1"], {"q1": {"a": 1}})
    assert (judged.unknown, judged.unanswered) == (("q8", "q9"), ("q2",))


BROKEN_QRELS = [
    ("", "qrels/test.tsv: it holds no judgement, so there is nothing to measure"),
    ("query-id\tcorpus-id\tscore\n", "qrels/test.tsv: it holds no judgement, so there is nothing to measure"),
    ("q7\ta\t1\n", "test.tsv: none of its 1 queries is in .*queries.jsonl (the first is 'q7')"),
    ("q1\ta\t0\n", "test.tsv: no query has a document of grade 1 or more"),
    (QRELS + "q2 c 1\n", "test.tsv:5: expected 3 columns with tabs between them (query-id, corpus-id, score), got 1"),
    (QRELS + "q2\t0\tc\t1\n", "test.tsv:5: expected 3 columns .*, got 4"),
    (QRELS + "q2\tc\tmuch\n", "test.tsv:5: the score must be a whole number, got 'much'"),
    (QRELS + "q2\tc\t0.5\n", "test.tsv:5: the score must be a whole number, got '0.5'"),
    (QRELS + "\tc\t1\n", "test.tsv:5: the query's id is empty"),
    (QRELS + "q2\t \t1\n", "test.tsv:5: the document's id is empty"),
    (QRELS + "q1\ta\t1\n", "test.tsv:5: query 'q1' and document 'a' have been judged 2 above and 1 here"),
]
BROKEN_QUERIES = [
    ("{", "queries.jsonl:3: is no JSON; expected one object a line"),
    ("[" * 100_000, "queries.jsonl:3: is no JSON; expected one object a line"),
    ("7", 'queries.jsonl:3: expected an object such as {"_id": "1", "text": "…"}'),
    ('{"text": "x"}', "queries.jsonl:3: _id must be text that is not empty"),
    ('{"_id": true, "text": "x"}', "queries.jsonl:3: _id must be text that is not empty"),
    ('{"_id": "q3"}', "queries.jsonl:3: the text of query 'q3' is missing or empty"),
    ('{"_id": "q3", "text": " "}', "queries.jsonl:3: the text of query 'q3' is missing or empty"),
    ('{"_id": "q1", "text": "x"}', "queries.jsonl:3: a second query has the _id 'q1'"),
]


def pattern(message: str) -> str:
    import re

    return re.escape(message).replace(r"\.\*", ".*")


@pytest.mark.parametrize(("text", "message"), BROKEN_QRELS)
def test_malformed_judgements_are_named_by_line(beir: Path, text: str, message: str) -> None:
    (beir / "qrels" / "test.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(RagRequestError, match=pattern(message)):
        read_judged_queries(beir, "test")


@pytest.mark.parametrize(("line", "message"), BROKEN_QUERIES)
def test_malformed_queries_are_named_by_line(beir: Path, line: str, message: str) -> None:
    (beir / "queries.jsonl").write_text(QUERIES + line + "\n", encoding="utf-8")
    with pytest.raises(RagRequestError, match=pattern(message)):
        read_judged_queries(beir, "test")


def test_bytes_that_are_no_text_and_a_damaged_archive(beir: Path) -> None:
    (beir / "qrels" / "test.tsv").write_bytes(QRELS.encode() + b"q2\t\xff\t1\n")
    with pytest.raises(RagRequestError, match=r"test\.tsv:5: is not UTF-8 \(byte 0xff\)"):
        read_judged_queries(beir, "test")
    (beir / "queries.jsonl").unlink()
    (beir / "queries.jsonl.gz").write_bytes(gzip.compress(QUERIES.encode())[:-9])
    with pytest.raises(RagRequestError, match=r"queries\.jsonl\.gz cannot be read"):
        read_judged_queries(beir, "test")


def test_what_is_not_there_is_said_with_what_is(beir: Path, tmp_path: Path) -> None:
    (beir / "qrels" / "train.tsv").write_text(QRELS, encoding="utf-8")
    (beir / "qrels-dev.tsv").write_text(QRELS, encoding="utf-8")
    (tmp_path / "secret.tsv").write_text(QRELS, encoding="utf-8")
    for folder, split, message in (
        (tmp_path / "nowhere", "test", "there is no folder .*nowhere"),
        (tmp_path, "test", "holds no queries.jsonl, so it is no folder in BEIR's layout"),
        (beir, "tset", "has no split 'tset'; it has dev, test, train; did you mean test?"),
        (beir, "../../secret", "has no split '../../secret'; it has dev, test, train"),
    ):
        with pytest.raises(RagRequestError, match=pattern(message)):
            read_judged_queries(folder, split)
    for path in (beir / "qrels" / "test.tsv", beir / "qrels" / "train.tsv", beir / "qrels-dev.tsv"):
        path.unlink()
    with pytest.raises(RagRequestError, match=pattern("holds no judgements; they are expected in .*qrels/test.tsv")):
        read_judged_queries(beir, "test")


# Ranking and tuning.

Build = Callable[[Mapping[str, str]], Index]


@pytest.fixture
def build(folder: Path) -> Build:
    def index(texts: Mapping[str, str]) -> Index:
        documents = tuple(Document(id, id, text, (Section((), 0, len(text)),)) for id, text in texts.items())
        made = Index.create_or_open(folder, RememberedQueries(HashEmbedder()), ChunkSettings(tokens=16, overlap=0))
        made.sync(Corpus(documents))
        return made

    return index


def judged_of(queries: Mapping[str, tuple[str, Mapping[str, int]]]) -> JudgedQueries:
    return JudgedQueries(
        split="test",
        queries={id: text for id, (text, _) in queries.items()},
        relevant={id: grades for id, (_, grades) in queries.items()},
    )


def test_a_document_ranks_by_its_best_chunk_and_once(build: Build) -> None:
    filler = " ".join(f"filler{n}" for n in range(40))
    texts = {"one": f"{filler}. apple pear plum. {filler}. apple pear.", "two": "apple fig.", "three": "stone."}
    with build(texts) as index:
        assert index.chunk_count > 6
        judged = judged_of({"q": ("apple pear plum", {"one": 1})})
        ranked = rank_documents(index, judged, SearchSettings(mode="dense"), 3)
        assert ranked["q"][:2] == ["one", "two"] and sorted(ranked["q"]) == ["one", "three", "two"]
        assert rank_documents(index, judged, SearchSettings(mode="dense"), 1) == {"q": ["one"]}
        assert rank_documents(index, judged, SearchSettings(mode="lexical"), 3) == {"q": ["one", "two"]}


def test_a_document_that_asks_is_no_answer_to_itself(build: Build) -> None:
    texts = {"a": "bees dance for flowers", "b": "bees dance", "c": "ships sail"}
    with build(texts) as index:
        dense = SearchSettings(mode="dense")
        asked_by_a = judged_of({"a": ("Bees dance  for flowers", {"b": 1})})
        assert rank_documents(index, asked_by_a, dense, 2)["a"][0] == "b"
        assert len(rank_documents(index, asked_by_a, dense, 2)["a"]) == 2
        judged_itself = judged_of({"a": ("bees dance for flowers", {"a": 1})})
        assert rank_documents(index, judged_itself, dense, 2)["a"][0] == "a"
        same_id_by_chance = judged_of({"a": ("which bees dance for what flowers", {"b": 1})})
        assert rank_documents(index, same_id_by_chance, dense, 2)["a"][0] == "a"


def test_many_queries_are_ranked_in_their_order_and_encoded_once(build: Build) -> None:
    texts = {f"d{n}": f"word{n} common" for n in range(90)}
    seen: list[tuple[int, int]] = []
    with build(texts) as index:
        judged = judged_of({f"q{n}": (f"word{n}", {f"d{n}": 1}) for n in range(90)})
        for mode in ("dense", "lexical"):
            settings = SearchSettings(mode="dense" if mode == "dense" else "lexical")
            ranked = rank_documents(index, judged, settings, 5, lambda done, total: seen.append((done, total)))
            assert list(ranked) == list(judged.queries)
            assert all(found[0] == f"d{id[1:]}" for id, found in ranked.items())
    assert seen[-1] == (90, 90) and len(seen) == 4

    counted = HashEmbedder()
    asked: list[str] = []
    encode = counted.encode_queries

    def counting(texts: Sequence[str]) -> object:
        asked.extend(texts)
        return encode(texts)

    counted.encode_queries = counting  # type: ignore[assignment,method-assign]
    remembered = RememberedQueries(counted)
    first, again = remembered.encode_queries(["a", "b", "a"]), remembered.encode_queries(["b", "c"])
    assert asked == ["a", "b", "c"]
    assert (first[1] == again[0]).all() and (first[0] == first[2]).all()
    assert remembered.encode_queries([]).shape == (0, 48)


def test_relevant_documents_that_the_index_lacks() -> None:
    judged = judged_of({"q": ("x", {"a": 1, "b": 1}), "r": ("y", {"b": 2, "c": 1})})
    assert unknown_documents(judged, ["a", "c", "z"]) == ["b"]
    assert unknown_documents(judged, ["a", "b", "c"]) == []
    with pytest.raises(RagRequestError, match=r"judges 3 documents relevant \(the first is 'a'\).*such as 'y'"):
        unknown_documents(judged, ["z", "y"])
    with pytest.raises(RagRequestError, match="the index holds none of them; index the corpus"):
        unknown_documents(judged, [])


def test_tuning_finds_the_arm_that_serves_these_queries(build: Build) -> None:
    # The hash embedder hears every word alike, so most words in common win; BM25 hears the rarest word loudest.
    texts = {f"other{n}": f"alpha beta gamma word{n}" for n in range(10)}
    texts |= {"common": "alpha beta gamma", "rare": "omega kappa sigma theta lambda"}
    asked = "alpha beta gamma omega"
    with build(texts) as index:
        for answer, best_arm in (("common", 1.0), ("rare", 0.0)):
            judged = judged_of({"q": (asked, {answer: 1})})
            tuned = tune_dense_weight(index, judged, SearchSettings(), 1)
            assert tuple(tuned.curve) == WEIGHTS and tuned.metric == "ndcg@1"
            assert (tuned.curve[best_arm], tuned.curve[1 - best_arm]) == (1.0, 0.0)
            for weight, value in tuned.curve.items():
                convex = SearchSettings(mode="hybrid", fusion="convex", dense_weight=weight)
                ranked = rank_documents(index, judged, convex, 1)
                assert value == pytest.approx(mean_scores(score_rankings(ranked, judged.relevant, [1]))["ndcg@1"])
            best = [weight for weight, value in tuned.curve.items() if value == 1]
            assert tuned.weight in best
            assert abs(tuned.weight - 0.5) == min(abs(weight - 0.5) for weight in best)
