"""The keys by which a recipe measures search: what loads, what is refused, and the grammar of its gates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hfkit.recipe import RetrievalGate, dump_recipe, load_recipe
from hfkit.stages import STAGES, wanted_stages

RAG = "rag: {documents: [docs/]}\n"
GROUNDED = "model: {base: m}\ndata: {sources: [{path: a.jsonl}]}\ntrain: {}\n"


def measured(line: str = "split: test", gates: str = "") -> str:
    """A sound recipe whose `evaluate.retrieval` has `line` on line 7."""
    return f"name: x\n{RAG}evaluate:\n  tasks: [retrieval]\n  retrieval:\n    folder: beir\n    {line}\n  {gates}\n"


def load(folder: Path, content: str) -> object:
    (folder / "x.yaml").write_text(content, encoding="utf-8")
    return load_recipe(Path("x.yaml"))


def test_retrieval_needs_rag_alone(folder: Path) -> None:
    recipe = load(folder, measured("tune: train", 'gates: ["retrieval.ndcg@10 >= 0.7"]'))
    section = recipe.evaluate.retrieval
    assert (section.folder, section.split, section.tune, section.k) == (Path("beir"), "test", "train", (10, 100))
    assert wanted_stages(recipe) == ("index", "evaluate")
    assert STAGES["evaluate"].needs(recipe) == ("index",)
    (folder / "again.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(Path("again.yaml")) == recipe


def test_both_tasks_need_what_each_needs(folder: Path) -> None:
    tasks = "evaluate: {tasks: [grounded_answers, retrieval], retrieval: {folder: beir}}\n"
    recipe = load(folder, f"name: x\n{RAG}{GROUNDED}{tasks}")
    assert STAGES["evaluate"].needs(recipe) == ("data", "train", "index")
    assert wanted_stages(recipe) == ("data", "train", "index", "evaluate")
    alone = load(folder, f"name: x\n{GROUNDED}evaluate: {{tasks: [grounded_answers]}}\n")
    assert STAGES["evaluate"].needs(alone) == ("data", "train")


def test_the_stage_depends_on_the_weights_of_the_reranker(folder: Path) -> None:
    for path, content in {"docs/a.md": "words", "beir/queries.jsonl": "", "beir/qrels/test.tsv": ""}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    weights = folder / "reranker" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_text("old", encoding="utf-8")
    plain = load(folder, measured())
    assert "reranker" not in STAGES["evaluate"].reads(plain), "what was evaluated without one stays as it is"
    recipe = load(folder, measured().replace("[docs/]", "[docs/], search: {rerank: reranker}"))
    before = STAGES["evaluate"].reads(recipe)
    assert STAGES["evaluate"].reads(recipe) == before
    weights.write_text("trained again", encoding="utf-8")
    assert STAGES["evaluate"].reads(recipe) != before


BROKEN: list[tuple[str, str, str]] = [
    (
        "no rag",
        "name: x\nevaluate: {tasks: [retrieval], retrieval: {folder: beir}}\n",
        "x.yaml:2: evaluate: needs the section rag, which is not in this recipe",
    ),
    (
        "no model for the other task",
        f"name: x\n{RAG}evaluate: {{tasks: [retrieval, grounded_answers], retrieval: {{folder: beir}}}}\n",
        "x.yaml:3: evaluate: needs the sections model and data, which are not in this recipe",
    ),
    (
        "no section",
        f"name: x\n{RAG}evaluate: {{tasks: [retrieval]}}\n",
        "x.yaml:3: evaluate.retrieval: required key is missing: the task retrieval needs retrieval.folder",
    ),
    (
        "no task",
        f"name: x\n{RAG}{GROUNDED}evaluate:\n  tasks: [grounded_answers]\n  retrieval: {{folder: beir}}\n",
        "x.yaml:8: evaluate.retrieval: is set, but tasks does not name retrieval",
    ),
    ("no folder", measured().replace("folder: beir", "k: [10]"), "evaluate.retrieval.folder: required key is missing"),
    (
        "a task twice",
        measured().replace("[retrieval]", "[retrieval, retrieval]"),
        "x.yaml:4: evaluate.tasks: names a task twice, retrieval; give one of them another name",
    ),
    (
        "tuned on what is measured",
        measured("tune: test"),
        "x.yaml:7: evaluate.retrieval.tune: is the split that is measured (test); what was tuned on it would look too "
        "good on it",
    ),
    ("a rank twice", measured("k: [10, 10]"), "x.yaml:7: evaluate.retrieval.k: names a rank twice"),
    ("no rank", measured("k: []"), "x.yaml:7: evaluate.retrieval.k: expected a non-empty list of integers"),
    ("rank 0", measured("k: [0]"), "x.yaml:7: evaluate.retrieval.k.0: expected an integer >= 1 and <= 1000, got 0"),
    ("a rank's word", measured("k: 10"), "x.yaml:7: evaluate.retrieval.k: expected a non-empty list of integers"),
    ("near key", measured("spilt: test"), "x.yaml:7: evaluate.retrieval.spilt: unknown key; did you mean split?"),
    (
        "a gate at another rank",
        measured(gates='gates: ["retrieval.ndcg@5 >= 0.7"]'),
        "x.yaml:8: evaluate.gates.0: retrieval.k does not name 5; it is 10, 100",
    ),
    (
        "a gate on what is not tuned",
        measured(gates='gates: ["retrieval.tuned.ndcg@10 >= 0.7"]'),
        "x.yaml:8: evaluate.gates.0: there is no setting tuned unless retrieval.tune names a split",
    ),
    (
        "a gate of the other task",
        measured(gates='gates: ["tuned.token_f1 >= 0.7"]'),
        "x.yaml:8: evaluate.gates.0: needs a task that asks models",
    ),
    (
        "a gate without its task",
        f"name: x\n{GROUNDED}evaluate:\n  tasks: [grounded_answers]\n  gates: ['retrieval.ndcg@10 >= 0.7']\n",
        "x.yaml:7: evaluate.gates.0: needs the task retrieval",
    ),
    (
        "no gate",
        measured(gates='gates: ["retrieval.ndcg >= 0.7"]'),
        'x.yaml:8: evaluate.gates.0: not a gate; write one such as "retrieval.ndcg@10 >= 0.70 with confidence 0.95" or '
        '"retrieval.convex.ndcg@10 >= retrieval.dense.ndcg@10 + 0.02"',
    ),
]


@pytest.mark.parametrize(("content", "line"), [(c, m) for _, c, m in BROKEN], ids=[name for name, _, _ in BROKEN])
def test_a_broken_recipe_gets_this_line(broken: Callable[..., list[str]], content: str, line: str) -> None:
    (found,) = broken(content)
    assert line in found


@pytest.mark.parametrize(
    ("text", "setting", "compared", "other", "margin", "confidence"),
    [
        ("retrieval.ndcg@10 >= 0.70", None, False, None, 0.7, 0.95),
        ("retrieval.rrf.ndcg@10>=.7 with confidence 0.8", "rrf", False, None, 0.7, 0.8),
        ("retrieval.ndcg@10 >= retrieval.dense.ndcg@10", None, True, "dense", 0.0, 0.95),
        ("retrieval.tuned.ndcg@10 >= retrieval.dense.ndcg@10 + 0.02", "tuned", True, "dense", 0.02, 0.95),
        ("retrieval.dense.ndcg@10 >= retrieval.ndcg@10 - 1e-2 with confidence 0.5", "dense", True, None, -0.01, 0.5),
    ],
)
def test_gates_that_parse(
    text: str, setting: str | None, compared: bool, other: str | None, margin: float, confidence: float
) -> None:
    gate = RetrievalGate.parse(f" {text}  ")
    assert (gate.setting, gate.metric, gate.cutoff, gate.compared) == (setting, "ndcg", 10, compared)
    assert (gate.other, gate.margin, gate.confidence) == (other, margin, confidence)
    assert gate.text == str(gate) == text and RetrievalGate.parse(gate.text) == gate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("retrieval.f1@10 >= 0.5", "unknown metric f1; expected one of ndcg, recall, mrr, map"),
        ("retrieval.nDCG@10 >= 0.5", "unknown metric nDCG; expected one of ndcg, recall, mrr, map"),
        (
            "retrieval.hybrid.ndcg@10 >= 0.5",
            "unknown setting hybrid; expected one of dense, lexical, rrf, convex, tuned, reranked; did you mean convex "
            "or rrf?",
        ),
        ("retrieval.dens.ndcg@10 >= 0.5", "did you mean dense?"),
        ("retrieval.ndcg@10 >= retrieval.dense.ndcg@5", "compares ndcg@10 with ndcg@5; both sides must name the same"),
        ("retrieval.ndcg@10 >= retrieval.dense.mrr@10", "compares ndcg@10 with mrr@10; both sides must name the same"),
        ("retrieval.rrf.ndcg@10 >= retrieval.rrf.ndcg@10", "compares a setting with itself; name another on the right"),
        ("retrieval.ndcg@10 >= retrieval.ndcg@10 + 0.1", "compares a setting with itself; name another on the right"),
        ("retrieval.ndcg@10 >= 70", "ndcg@10 is a share: the bound must be from 0 to 1, got 70"),
        ("retrieval.ndcg@10 >= retrieval.rrf.ndcg@10 + 2", "the margin must be from -1 to 1, got 2"),
        ("retrieval.ndcg@10 >= 0.5 with confidence 95", "got 95; did you mean 0.95?"),
        ("retrieval.ndcg@10 > 0.5", "not a gate; write one such as"),
        ("retrieval.ndcg@10 >= 0.5 or so", "not a gate; write one such as"),
        ("retrieval.ndcg@10 >= tuned.token_f1", "not a gate; write one such as"),
        ("retrieval.ndcg@ten >= 0.5", "not a gate; write one such as"),
    ],
)
def test_gates_that_can_never_be_meant(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        RetrievalGate.parse(text)
    assert message in str(caught.value)
