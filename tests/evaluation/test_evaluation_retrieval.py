"""The task `retrieval` through the command line: a folder in BEIR's layout over the eight tiny documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfkit.evaluation.retrieval import RankedQuery
from hfkit.evaluation.retrieval_result import RetrievalResult
from hfkit.evaluation.significance import holm
from hfkit.evaluation.statistics import compare, interval, lower_bound
from rag.metrics import metric_names, score_rankings

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter

TEST = {
    "t1": ("An anchor holds a ship", {"docs/anchors.md": 2}),
    "t2": ("one queen and many thousand workers", {"docs/bees.md": 1}),
    "t3": ("a pendulum counts swings", {"docs/clocks.md": 1}),
    "t4": ("wind piles dry sand", {"docs/dunes.md": 1, "docs/glass.md": 1}),
    "t5": ("ferns make spores", {"docs/ferns.md": 1}),
    "t6": ("glass melted with soda and lime", {"docs/glass.md": 1}),
}
TRAIN = {
    "n1": ("a longer chain pulls the shank", {"docs/anchors.md": 1}),
    "n2": ("slow cooling takes out tension", {"docs/glass.md": 1}),
    "n3": ("new strings stretch for a week", {"docs/harps.md": 1}),
}
Queries = Mapping[str, tuple[str, Mapping[str, int]]]
EMPTY: dict[str, Any] = {"model": None, "data": None, "train": None}


def write_split(folder: Path, split: str, queries: Queries) -> Path:
    lines = [f"{id}\t{doc}\t{grade}" for id, (_, grades) in queries.items() for doc, grade in grades.items()]
    (folder / "qrels").mkdir(exist_ok=True)
    path = folder / "qrels" / f"{split}.tsv"
    path.write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def beir(workplace: Path) -> Path:
    folder = workplace / "beir"
    folder.mkdir()
    rows = [{"_id": id, "text": text} for id, (text, _) in {**TEST, **TRAIN}.items()]
    (folder / "queries.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    write_split(folder, "test", TEST)
    write_split(folder, "train", TRAIN)
    return folder


@pytest.fixture
def recipe(tiny_recipe: RecipeWriter, beir: Path) -> Path:
    """The tiny recipe with rag and evaluate alone."""
    retrieval = {"folder": "beir", "k": [3, 8]}
    return tiny_recipe(
        **EMPTY, evaluate={"tasks": ["retrieval"], "max_new_tokens": 80, "batch_size": 16, "retrieval": retrieval}
    )


def result_of(document: Mapping[str, Any]) -> RetrievalResult:
    return RetrievalResult.model_validate(document["evaluate"]["retrieval"])


def kept_rows(workplace: Path) -> list[RankedQuery]:
    lines = (workplace / "runs" / "tiny" / "evaluate" / "retrieval.jsonl").read_text(encoding="utf-8").splitlines()
    return [RankedQuery.model_validate_json(line) for line in lines]


def test_every_way_of_searching_is_measured_and_compared(cli: Cli, recipe: Path, workplace: Path) -> None:
    done = cli("evaluate", recipe, "--json", "evaluate.retrieval.tune=train")
    assert done.code == 0, done.err
    assert set(done.document["stages"]) == {"index", "evaluate"}
    result = result_of(done.document)
    assert (result.queries, result.documents, result.split) == (6, 8, "test")
    assert list(result.settings) == ["dense", "lexical", "rrf", "convex", "tuned"]
    assert result.metrics == tuple(metric_names([3, 8]))
    assert result.recipe == "convex"
    assert result.settings["lexical"].search == {"mode": "lexical"}
    assert (result.unknown_documents.count, result.unknown_queries.count, result.unanswered_queries.count) == (0, 0, 0)

    rows = kept_rows(workplace)
    assert [(row.id, row.query, row.relevant) for row in rows] == [(id, *entry) for id, entry in TEST.items()]
    ids = [row.id for row in rows]
    for name, setting in result.settings.items():
        scores: dict[str, dict[str, float]] = {row.id: {} for row in rows}
        for k in (3, 8):
            rankings = {row.id: row.rankings[name][k] for row in rows}
            assert all(len(set(found)) == len(found) <= k for found in rankings.values())
            for id, found in score_rankings(rankings, {row.id: row.relevant for row in rows}, [k]).items():
                scores[id] |= found
        assert scores == {row.id: row.scores[name] for row in rows}
        for metric, score in setting.scores.items():
            values = [scores[id][metric] for id in ids]
            assert score.mean == pytest.approx(sum(values) / len(values))
            assert score.interval == pytest.approx(interval(values, ids, seed=7))
            if name == "dense":
                assert setting.leads == {}
                continue
            entry = compare([row.scores["dense"][metric] for row in rows], values, ids, seed=7)
            lead = setting.leads[metric]
            assert (lead.difference, lead.p_value) == pytest.approx((entry.difference, entry.p_value))
            assert lead.interval == pytest.approx(entry.interval)
    leads = [(name, metric) for name, setting in result.settings.items() for metric in setting.leads]
    assert len(leads) == 4 * len(result.metrics)
    adjusted = holm([result.settings[name].leads[metric].p_value for name, metric in leads])
    assert [result.settings[name].leads[metric].p_adjusted for name, metric in leads] == adjusted
    # These queries quote their documents: BM25 ranks each document that has the words first.
    assert result.settings["lexical"].scores["mrr@3"].mean == 1.0

    assert result.tuned is not None
    assert (result.tuned.split, result.tuned.queries, result.tuned.metric) == ("train", 3, "ndcg@3")
    assert result.settings["tuned"].search["dense_weight"] == result.tuned.weight
    assert dict(result.tuned.curve)[result.tuned.weight] == max(value for _, value in result.tuned.curve)


def test_the_weight_is_tuned_on_the_train_queries_and_on_nothing_else(
    cli: Cli, recipe: Path, beir: Path, workplace: Path
) -> None:
    first = result_of(cli("evaluate", recipe, "--json", "evaluate.retrieval.tune=train").document)
    assert first.tuned is not None
    wrong = {id: (text, {"docs/engines.md": 1}) for id, (text, _) in TEST.items()}
    write_split(beir, "test", wrong)
    second = result_of(cli("evaluate", recipe, "--json", "evaluate.retrieval.tune=train").document)
    assert second.tuned == first.tuned
    assert second.settings["tuned"].scores != first.settings["tuned"].scores
    write_split(beir, "train", {id: (text, {"docs/engines.md": 1}) for id, (text, _) in TRAIN.items()})
    third = result_of(cli("evaluate", recipe, "--json", "evaluate.retrieval.tune=train").document)
    assert third.tuned is not None and third.tuned.curve != first.tuned.curve


def test_the_table_can_be_read(cli: Cli, recipe: Path, beir: Path) -> None:
    with (beir / "qrels" / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("t1\tdocs/gone.md\t1\nq9\tdocs/bees.md\t1\nn1\tdocs/bees.md\t0\n")
    done = cli("evaluate", recipe, "evaluate.retrieval.tune=train", "rag.search.mode=dense")
    assert done.code == 0, done.err
    assert "search on 6 judged queries (beir, split test), 8 documents" in done.out
    for text in (
        "dense (the recipe's)",
        "lexical",
        "rrf",
        "convex",
        "tuned",
        "ndcg@3",
        "recall@8",
        "lead, ndcg@3",
        "adj.",
    ):
        assert text in done.out
    assert "1 relevant documents are not in the index and count as not found: docs/gone.md" in done.out
    assert "1 judged queries are not in queries.jsonl and were not asked: q9" in done.out
    assert "1 queries have no relevant document and were not asked: n1" in done.out
    assert "to search with it, set rag.search.dense_weight=" in done.out
    assert all(len(line) <= 132 for line in done.out.splitlines())
    assert "base against tuned" not in done.out


def test_gates_on_search_are_held_or_not(cli: Cli, recipe: Path, workplace: Path) -> None:
    gates = [
        "retrieval.lexical.mrr@3 >= 0.9",
        "retrieval.ndcg@8 >= 0.99 with confidence 0.97",
        "retrieval.lexical.ndcg@3 >= retrieval.dense.ndcg@3 - 1 with confidence 0.9",
        "retrieval.dense.recall@3 >= retrieval.lexical.recall@3 + 0.5",
    ]
    done = cli("evaluate", recipe, "--json", f"evaluate.gates={json.dumps(gates)}", "rag.search.mode=dense")
    assert done.code == 1
    held = done.document["evaluate"]["gates"]
    assert [gate["gate"] for gate in held] == gates
    assert [gate["holds"] for gate in held] == [True, False, True, False]
    assert [gate["needed"] for gate in held] == [0.9, 0.99, -1.0, 0.5]
    rows = kept_rows(workplace)
    ids = [row.id for row in rows]
    dense = [row.scores["dense"]["ndcg@8"] for row in rows]
    assert held[1]["at_least"] == pytest.approx(lower_bound(dense, ids, confidence=0.97, seed=7))
    leads = [row.scores["lexical"]["ndcg@3"] - row.scores["dense"]["ndcg@3"] for row in rows]
    assert held[2]["at_least"] == pytest.approx(lower_bound(leads, ids, confidence=0.9, seed=7))
    assert "gate not met: retrieval.ndcg@8 >= 0.99 with confidence 0.97 (at least" in done.err
    unsure = cli("evaluate", recipe, f"evaluate.gates={json.dumps(['retrieval.mrr@3 >= 0 with confidence 0.99'])}")
    assert unsure.code == 1
    assert "(a confidence of 0.99 takes at least 7 queries, and there are 6, needed +0.000)" in unsure.err
    met = cli("evaluate", recipe, f"evaluate.gates={json.dumps(gates[:1])}")
    assert met.code == 0 and "gate met: retrieval.lexical.mrr@3 >= 0.9" in met.out


def test_what_is_measured_again_and_what_is_kept(cli: Cli, recipe: Path, beir: Path) -> None:
    def made(*overrides: str) -> dict[str, bool]:
        done = cli("run", recipe, "--json", *overrides)
        assert done.code == 0, done.err
        return {name: stage["made_now"] for name, stage in done.document["stages"].items()}

    assert made() == {"index": True, "evaluate": True}
    assert made() == {"index": False, "evaluate": False}
    assert made("rag.search.mode=dense") == {"index": False, "evaluate": True}
    write_split(beir, "train", TEST)
    assert made("rag.search.mode=dense") == {"index": False, "evaluate": False}, "nothing is tuned on train"
    write_split(beir, "test", {**TEST, **TRAIN})
    assert made("rag.search.mode=dense") == {"index": False, "evaluate": True}


def test_a_corpus_in_beir_s_layout_is_measured_by_its_own_ids(
    cli: Cli, tiny_recipe: RecipeWriter, workplace: Path
) -> None:
    folder = workplace / "small"
    folder.mkdir()
    rows = [
        {"_id": "7", "title": "Anchors", "text": "An anchor holds a ship to the ground of the harbour."},
        {"_id": "8", "title": "Bees", "text": "A colony of bees has one queen and many thousand workers."},
        {"_id": "9", "title": "Clocks", "text": "A pendulum clock counts swings of equal duration."},
    ]
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "bees and their queen"}\n', encoding="utf-8")
    write_split(folder, "test", {"1": ("", {"8": 1})})
    path = tiny_recipe(
        **EMPTY,
        rag={"documents": ["beir:small"]},
        evaluate={"tasks": ["retrieval"], "retrieval": {"folder": "small"}},
    )
    done = cli("evaluate", path, "--json")
    assert done.code == 0, done.err
    result = result_of(done.document)
    assert (result.queries, result.documents) == (1, 3)
    # One query says nothing about others.
    assert result.settings["lexical"].scores["ndcg@10"].model_dump() == {"mean": 1.0, "interval": None}
    (row,) = kept_rows(workplace)
    assert row.rankings["lexical"][10][0] == "8" and set(row.rankings["dense"][100]) == {"7", "8", "9"}


def test_both_tasks_in_one_recipe(cli: Cli, tiny_recipe: RecipeWriter, beir: Path, workplace: Path) -> None:
    gates = ["tuned.abstention_accuracy >= 0 with confidence 0.7", "retrieval.lexical.mrr@3 >= 0.9"]
    evaluate = {
        "tasks": ["grounded_answers", "retrieval"],
        "retrieval": {"folder": "beir", "k": [3]},
        "gates": gates,
    }
    done = cli("run", tiny_recipe(evaluate=evaluate), "--json")
    assert done.code == 0, done.err
    document = done.document["evaluate"]
    assert {"token_f1", "citation_accuracy", "abstention_accuracy"} <= document["tasks"]["grounded_answers"]["scores"][
        "tuned"
    ].keys()
    assert result_of(done.document).queries == 6
    assert [(gate["gate"], gate["holds"]) for gate in document["gates"]] == [(gate, True) for gate in gates]
    made = {path.name for path in (workplace / "runs" / "tiny" / "evaluate").iterdir()}
    assert {"predictions", "report.html", "retrieval.jsonl"} <= made
    shown = cli("run", tiny_recipe(evaluate=evaluate))
    assert "token F1" in shown.out and "search on 6 judged queries" in shown.out


@pytest.fixture
def tiny_reranker(workplace: Path, tiny_embedder: Path) -> Path:
    """A random CrossEncoder of one layer over the tiny embedder's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny_embedder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        num_labels=1,
    )
    folder = workplace / "reranker"
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_reranked_setting_is_the_recipe_s_own(cli: Cli, recipe: Path, tiny_reranker: Path, workplace: Path) -> None:
    gates = ["retrieval.reranked.mrr@8 >= 0", "retrieval.mrr@8 >= 0"]
    asked = [f"rag.search.rerank={tiny_reranker}", f"evaluate.gates={json.dumps(gates)}"]
    done = cli("evaluate", recipe, "--json", *asked)
    assert done.code == 0, done.err
    result = result_of(done.document)
    assert (result.recipe, list(result.settings)[-1]) == ("reranked", "reranked")
    assert result.settings["reranked"].search["rerank"] == str(tiny_reranker)
    held = done.document["evaluate"]["gates"]
    rows = kept_rows(workplace)
    ids = [row.id for row in rows]
    values = {name: [row.scores[name]["mrr@8"] for row in rows] for name in result.settings}
    bounds = {name: lower_bound(found, ids, confidence=0.95, seed=7) for name, found in values.items()}
    assert held[0]["at_least"] == held[1]["at_least"] == pytest.approx(bounds.pop("reranked"))
    assert held[1]["at_least"] not in bounds.values(), "the recipe's own setting is the reranked one, and no other"
    assert any(row.rankings["reranked"] != row.rankings["convex"] for row in rows), "a random model shuffles"
    without = cli("evaluate", recipe, asked[1])
    assert without.code == 2
    assert "there is no setting reranked unless rag.search.rerank names a model" in without.err
    missing = cli("evaluate", recipe, "rag.search.rerank=./nowhere")
    assert missing.code == 2 and "rag.search.rerank: ./nowhere: no such folder" in missing.err


def test_a_further_way_of_searching_gets_a_row_of_its_own(cli: Cli, recipe: Path) -> None:
    done = cli("evaluate", recipe, "--json", "rag.search.diversity=0.9", "rag.search.fusion=rrf")
    result = result_of(done.document)
    assert (result.recipe, list(result.settings)) == ("recipe", ["dense", "lexical", "rrf", "convex", "recipe"])
    # What does not change the ranking of documents makes no further way.
    for same in ("rag.search.top_k=9", "rag.search.neighbours=2", "rag.search.per_document=3"):
        assert result_of(cli("evaluate", recipe, "--json", same, "rag.search.fusion=rrf").document).recipe == "rrf"
    weighted = result_of(cli("evaluate", recipe, "--json", "rag.search.dense_weight=0.3").document)
    assert weighted.recipe == "convex" and weighted.settings["convex"].search["dense_weight"] == 0.3


REFUSED: list[tuple[list[str], str]] = [
    (["evaluate.retrieval.folder=nowhere"], "evaluate.retrieval: there is no folder nowhere"),
    (["evaluate.retrieval.folder=docs"], "evaluate.retrieval: docs holds no queries.jsonl"),
    (["evaluate.retrieval.split=tset"], "evaluate.retrieval: beir has no split 'tset'; it has test, train; did you"),
    (["evaluate.retrieval.tune=dev"], "evaluate.retrieval: beir has no split 'dev'; it has test, train"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_a_wrong_request_is_refused_before_anything_is_indexed(
    cli: Cli, recipe: Path, workplace: Path, overrides: list[str], message: str
) -> None:
    for verb in ("evaluate", "check"):
        done = cli(verb, recipe, *overrides)
        assert done.code == 2
        said = done.out + done.err
        assert message in said and "Traceback" not in said
    assert not (workplace / "runs" / "tiny" / "index").exists()


def test_malformed_judgements_and_shared_queries_are_refused(cli: Cli, recipe: Path, beir: Path) -> None:
    qrels = beir / "qrels" / "test.tsv"
    whole = qrels.read_text(encoding="utf-8")
    for text, message in (
        (whole + "t1 docs/bees.md 1\n", "qrels/test.tsv:9: expected 3 columns with tabs between them"),
        ("query-id\tcorpus-id\tscore\n", "test.tsv: it holds no judgement, so there is nothing to measure"),
        ("z\tdocs/bees.md\t1\n", "none of its 1 queries is in beir/queries.jsonl (the first is 'z')"),
    ):
        qrels.write_text(text, encoding="utf-8")
        done = cli("evaluate", recipe)
        assert done.code == 2 and message in done.err, done.err
    qrels.write_text(whole, encoding="utf-8")
    write_split(beir, "train", {**TRAIN, "t1": TEST["t1"]})
    done = cli("evaluate", recipe, "evaluate.retrieval.tune=train")
    assert done.code == 2
    assert "1 queries of the split train are in test too (the first is 't1')" in done.err


def test_judgements_of_another_corpus_are_refused(cli: Cli, recipe: Path, beir: Path) -> None:
    write_split(beir, "test", {id: (text, {"31715818": 1}) for id, (text, _) in TEST.items()})
    done = cli("evaluate", recipe)
    assert done.code == 2 and "Traceback" not in done.err
    assert "judges 1 documents relevant (the first is '31715818'), and the index holds none of them" in done.err
