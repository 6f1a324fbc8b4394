"""Scores, gates, and the whole evaluate stage on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfkit.errors import RequestError
from hfkit.evaluation.evaluate import Prediction
from hfkit.evaluation.generation import Generation, generate
from hfkit.evaluation.grounded_answers import GroundedRow, grounded_rows, score, wordings
from hfkit.evaluation.result import EvaluateResult
from hfkit.evaluation.statistics import compare, lower_bound
from rag.answer import ABSTENTION

if TYPE_CHECKING:
    from hfkit.data.examples import Example
    from hfkit.stage import StageName
    from tests.conftest import RecipeWriter

ANSWERABLE = GroundedRow(id="a#0", document="a", question="What?", reference="The cat sat there. [2]", gold=2)
UNANSWERABLE = GroundedRow(id="a#1", document="a", question="Who?", reference=ABSTENTION, gold=None)

# What is said, and for the answerable and the unanswerable row: token F1, citation, abstention.
SCORES: list[tuple[str, tuple[float, float, float], float]] = [
    ("The cat sat there. [2]", (1.0, 1.0, 1.0), 0.0),
    ("[2] the CAT sat there!", (1.0, 1.0, 1.0), 0.0),
    ("The cat sat there.", (1.0, 0.0, 1.0), 0.0),
    ("The cat sat there. [1]", (1.0, 0.0, 1.0), 0.0),
    ("The cat sat there. [2][2]", (1.0, 1.0, 1.0), 0.0),
    ("The cat sat there. [2] [1]", (1.0, 0.0, 1.0), 0.0),
    ("The cat sat there. [1][2][3][4]", (1.0, 0.0, 1.0), 0.0),
    ("cat [2]", (0.5, 1.0, 1.0), 0.0),
    ("A dog ran. [2]", (0.0, 1.0, 1.0), 0.0),
    ("", (0.0, 0.0, 1.0), 0.0),
    (ABSTENTION, (0.0, 0.0, 0.0), 1.0),
    ("Sorry, the documents do not say that.", (0.0, 0.0, 0.0), 1.0),
]


@pytest.mark.parametrize(("said", "answerable", "unanswerable"), SCORES)
def test_the_scores_of_an_answer(said: str, answerable: tuple[float, float, float], unanswerable: float) -> None:
    answer = Generation(text=said, stopped=True)
    f1, no_f1 = wordings([ANSWERABLE, UNANSWERABLE], [answer, answer])
    found = score(ANSWERABLE, answer, f1)
    assert (found["token_f1"], found["citation_accuracy"], found["abstention_accuracy"]) == pytest.approx(answerable)
    assert score(UNANSWERABLE, answer, no_f1) == {"abstention_accuracy": unanswerable}


def test_wordings_are_compared_row_by_row_without_citations() -> None:
    said = [Generation(text=text, stopped=True) for text in ("the documents do not say [3]", "cat sat [2] there")]
    assert wordings([UNANSWERABLE, ANSWERABLE], said) == [1.0, 1.0]
    assert wordings([ANSWERABLE, UNANSWERABLE], said) == [0.0, 0.0]


Outcome = tuple[EvaluateResult, Path]
Evaluate = Callable[[Path], Outcome]


@pytest.fixture
def evaluate_stage(workplace: Path) -> Evaluate:
    """Run a recipe up to its evaluate stage, in this process: its result and its run's folder."""

    def run(path: Path) -> Outcome:
        from hfkit.pipeline import run_stages
        from hfkit.progress import Progress
        from hfkit.recipe import load_recipe
        from hfkit.run import Run

        recipe = load_recipe(path, ())
        wanted: tuple[StageName, ...] = ("evaluate",)
        outcomes = run_stages(recipe, wanted, Progress(quiet=True))
        return EvaluateResult.model_validate(outcomes["evaluate"].artifact.result), Run(recipe).folder

    return run


def read(folder: Path) -> tuple[list[Example], list[Prediction], Mapping[str, Any]]:
    from hfkit.data.prepared import read_examples

    lines = (folder / "evaluate" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    comparison = json.loads((folder / "evaluate" / "comparison.json").read_text(encoding="utf-8"))
    rows = list(read_examples(folder / "data", "test"))
    return rows, [Prediction.model_validate_json(line, extra="forbid") for line in lines], comparison


@pytest.mark.parametrize("adapter", [{"rank": 4, "alpha": 8}, None], ids=["adapter", "all weights"])
def test_every_test_row_has_its_prediction(
    tiny_recipe: RecipeWriter, evaluate_stage: Evaluate, adapter: dict[str, int] | None
) -> None:
    from hfkit.data.rendering import Renderer
    from hfkit.models.loading import load_model, load_tokenizer
    from hfkit.models.tuned import load_tuned
    from hfkit.recipe import load_recipe

    path = tiny_recipe(
        model={"adapter": adapter},
        train={"learning_rate": 2e-2, "epochs": 6},
        data={"splits": {"test": 0.5}},
        evaluate={"batch_size": 5},
    )
    result, folder = evaluate_stage(path)
    rows, predictions, comparison = read(folder)
    assert [prediction.id for prediction in predictions] == [row.id for row in rows]
    assert (result.rows, result.unanswerable) == (len(rows), sum(p.gold is None for p in predictions))
    for row, prediction in zip(rows, predictions, strict=True):
        assert row.grounding is not None
        assert (prediction.document, prediction.question) == (row.document, row.grounding.question)
        assert (prediction.reference, prediction.gold) == (row.messages[-1].content, row.grounding.gold)

    # What is kept is what the two models say when they are asked again.
    recipe = load_recipe(path, ())
    assert recipe.model is not None
    renderer = Renderer(load_tokenizer(recipe.model))
    prompts = [[turn.as_message() for turn in row.messages if turn.role != "assistant"] for row in rows]
    grounded, _ = grounded_rows(rows)
    for side, (model, _) in (("base", load_model(recipe.model)), ("tuned", load_tuned(recipe.model, folder / "train"))):
        said = generate(model, renderer, prompts, max_new_tokens=8, batch_size=2, update=lambda done, total: None)
        assert [p.base if side == "base" else p.tuned for p in predictions] == said
        scores = [score(*entry) for entry in zip(grounded, said, wordings(grounded, said), strict=True)]
        assert [p.base_scores if side == "base" else p.tuned_scores for p in predictions] == scores
        assert result.cut_off[side] == sum(not answer.stopped for answer in said)
    assert [p.base for p in predictions] != [p.tuned for p in predictions], "training changed the model"

    for metric, entry in result.comparison.items():
        scored = [p for p in predictions if metric in p.tuned_scores]
        assert len(scored) == (len(rows) if metric == "abstention_accuracy" else len(rows) - result.unanswerable)
        assert entry == compare(
            [p.base_scores[metric] for p in scored],
            [p.tuned_scores[metric] for p in scored],
            [p.document for p in scored],
            seed=7,
        )
    assert list(result.comparison) == ["token_f1", "citation_accuracy", "abstention_accuracy"]
    assert comparison == {metric: json.loads(entry.model_dump_json()) for metric, entry in result.comparison.items()}


def test_gates_are_held_or_not(tiny_recipe: RecipeWriter, evaluate_stage: Evaluate) -> None:
    gates = [
        "tuned.abstention_accuracy >= 0",
        "tuned.abstention_accuracy >= 1.0",
        "tuned.token_f1 >= base.token_f1 + 0.9",
        "tuned.token_f1 >= base.token_f1 - 1 with confidence 0.99",
        "tuned.citation_accuracy >= base.citation_accuracy",
    ]
    result, folder = evaluate_stage(tiny_recipe(data={"splits": {"test": 0.7}}, evaluate={"gates": gates}))
    _, predictions, _ = read(folder)
    assert [gate.gate for gate in result.gates] == gates
    assert [gate.needed for gate in result.gates] == [0.0, 1.0, 0.9, -1.0, 0.0]
    assert [gate.holds for gate in result.gates][:4] == [True, False, False, True]
    for gate in result.gates:
        assert gate.at_least is not None and gate.holds == (gate.at_least >= gate.needed)
    scored = [p for p in predictions if p.gold is not None]
    leads = [p.tuned_scores["token_f1"] - p.base_scores["token_f1"] for p in scored]
    documents = [p.document for p in scored]
    assert result.gates[3].at_least == pytest.approx(lower_bound(leads, documents, confidence=0.99, seed=7))
    assert result.gates[2].at_least == pytest.approx(lower_bound(leads, documents, confidence=0.95, seed=7))
    scores = [p.tuned_scores["abstention_accuracy"] for p in predictions]
    everywhere = [p.document for p in predictions]
    assert result.gates[0].at_least == pytest.approx(lower_bound(scores, everywhere, confidence=0.95, seed=7))


def test_a_metric_that_scores_no_row_is_left_out_and_cannot_be_a_gate(
    tiny_recipe: RecipeWriter, evaluate_stage: Evaluate
) -> None:
    data = {"sources": [{"synthesize": {"questions": 3, "passages": 2, "unanswerable": 1.0}}]}
    result, _ = evaluate_stage(tiny_recipe(data=data))
    assert list(result.comparison) == ["abstention_accuracy"]
    assert result.unanswerable == result.rows
    with pytest.raises(RequestError, match=r"evaluate\.gates: tuned\.token_f1 >= 0\.1: no test row is scored by"):
        evaluate_stage(tiny_recipe(data=data, evaluate={"gates": ["tuned.token_f1 >= 0.1"]}))


def test_rows_that_do_not_know_their_passage_are_refused(
    tiny_recipe: RecipeWriter, evaluate_stage: Evaluate, workplace: Path
) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Q {n}?"},
                {"role": "assistant", "content": f"{chr(97 + n) * 5} is it."},
            ]
        }
        for n in range(8)
    ]
    (workplace / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(RequestError, match=r"evaluate\.tasks: grounded_answers needs rows .*; rows\.jsonl:\d is none"):
        evaluate_stage(tiny_recipe(data={"sources": [{"path": "rows.jsonl"}]}))
