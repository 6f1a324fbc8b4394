"""The whole evaluate stage on a tiny model: what is kept, what is scored, the models that are asked, the gates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfkit.errors import RequestError
from hfkit.evaluation.generation import generate
from hfkit.evaluation.predictions import Prediction, read_predictions
from hfkit.evaluation.result import EvaluateResult
from hfkit.evaluation.rows import Answer, Generation, GenerationRow, Likelihoods
from hfkit.evaluation.statistics import compare, lower_bound
from hfkit.evaluation.tasks.grounded_answers import grounded_answers
from rag.answer import ABSTENTION

if TYPE_CHECKING:
    from hfkit.data.examples import Example
    from hfkit.stage import StageName
    from tests.conftest import RecipeWriter

ANSWERABLE = GenerationRow(id="a#0", group="a", messages=(), references=("The cat sat there. [2]",), facts={"gold": 2})
UNANSWERABLE = GenerationRow(id="a#1", group="a", messages=(), references=(ABSTENTION,), facts={"gold": None})

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
    metrics = {metric.name: metric for metric in grounded_answers([]).metrics}
    found = {
        name: metric.rows([ANSWERABLE, UNANSWERABLE], [Generation(text=said, stopped=True)] * 2)
        for name, metric in metrics.items()
    }
    names = ("token_f1", "citation_accuracy", "abstention_accuracy")
    scored = [numbers[0] for name in names if (numbers := found[name][0]) is not None]
    assert scored == pytest.approx(list(answerable))
    assert [found[name][1] for name in names] == [None, None, (unanswerable, 1.0)]


Outcome = tuple[EvaluateResult, Path]
Evaluate = Callable[..., Outcome]


@pytest.fixture
def evaluate_stage(workplace: Path) -> Evaluate:
    """Run a recipe up to its evaluate stage, in this process: its result and its run's folder."""

    def run(path: Path, *overrides: str) -> Outcome:
        from hfkit.pipeline import run_stages
        from hfkit.progress import Progress
        from hfkit.recipe import load_recipe
        from hfkit.run import Run

        recipe = load_recipe(path, overrides)
        wanted: tuple[StageName, ...] = ("evaluate",)
        outcomes = run_stages(recipe, wanted, Progress(quiet=True))
        return EvaluateResult.model_validate(outcomes["evaluate"].artifact.result), Run(recipe).folder

    return run


def read(folder: Path, task: str = "grounded_answers") -> tuple[list[Example], list[Prediction]]:
    from hfkit.data.prepared import read_examples

    rows = list(read_examples(folder / "data", "test"))
    return rows, list(read_predictions(folder / "evaluate", task))


@pytest.mark.parametrize("adapter", [{"rank": 4, "alpha": 8}, None], ids=["adapter", "all weights"])
def test_every_test_row_has_its_prediction(
    tiny_recipe: RecipeWriter, evaluate_stage: Evaluate, adapter: dict[str, int] | None
) -> None:
    from hfkit.data.conversation import Conversation
    from hfkit.models.loading import load_model, load_renderer
    from hfkit.models.tuned import load_tuned
    from hfkit.recipe import load_recipe

    path = tiny_recipe(
        model={"adapter": adapter},
        train={"learning_rate": 2e-2, "epochs": 6},
        data={"splits": {"test": 0.5}},
        evaluate={"batch_size": 5},
    )
    result, folder = evaluate_stage(path)
    rows, predictions = read(folder)
    task = result.tasks["grounded_answers"]
    assert list(result.models) == ["base", "tuned"] and task.rows == len(rows)
    assert [prediction.row.id for prediction in predictions] == [row.id for row in rows]
    for row, prediction in zip(rows, predictions, strict=True):
        assert isinstance(row, Conversation) and isinstance(prediction.row, GenerationRow)
        assert row.grounding is not None and prediction.row.group == row.document
        assert prediction.row.facts == {"question": row.grounding.question, "gold": row.grounding.gold}
        assert prediction.row.references == (row.messages[-1].content,)
        assert prediction.row.messages == row.messages[:-1]

    # What is kept is what the two models say when they are asked again.
    recipe = load_recipe(path, ())
    assert recipe.model is not None
    renderer = load_renderer(recipe.model)
    prompts = [prediction.row.messages for prediction in predictions if isinstance(prediction.row, GenerationRow)]
    for side, (model, _) in (("base", load_model(recipe.model)), ("tuned", load_tuned(recipe.model, folder / "train"))):
        said = generate(model, renderer, prompts, max_new_tokens=8, batch_size=2, update=lambda done, total: None)
        assert [prediction.answers[side] for prediction in predictions] == said
        assert task.cut_off[side] == sum(isinstance(answer, Generation) and not answer.stopped for answer in said)
    assert any(prediction.answers["base"] != prediction.answers["tuned"] for prediction in predictions)

    unanswerable = sum(p.row.facts["gold"] is None for p in predictions if isinstance(p.row, GenerationRow))
    names = ["token_f1", "citation_accuracy", "abstention_accuracy", "citation_precision", "citation_recall"]
    assert [metric.name for metric in task.metrics] == names
    for difference in task.differences:
        name = difference.metric
        scored = [p for p in predictions if name in p.scores["tuned"]]
        assert len(scored) == (len(rows) if name == "abstention_accuracy" else len(rows) - unanswerable)
        base, tuned = ([p.scores[side][name] for p in scored] for side in ("base", "tuned"))
        expected = compare(base, tuned, [p.row.group for p in scored], seed=7)
        assert task.scores["base"][name].value == pytest.approx(expected.base)
        assert task.scores["tuned"][name].value == pytest.approx(expected.tuned)
        assert difference.difference == pytest.approx(expected.difference)
        assert difference.interval == pytest.approx(expected.interval)
        assert difference.p_value == pytest.approx(expected.p_value)


def test_gates_are_held_or_not(tiny_recipe: RecipeWriter, evaluate_stage: Evaluate) -> None:
    gates = [
        "tuned.abstention_accuracy >= 0",
        "tuned.abstention_accuracy >= 1.0",
        "tuned.token_f1 >= base.token_f1 + 0.9",
        "tuned.token_f1 >= base.token_f1 - 1 with confidence 0.9",
        "tuned.grounded_answers.citation_accuracy >= base.grounded_answers.citation_accuracy",
        "base.token_f1 <= 1",
        "tuned.token_f1 not worse than base by 1",
    ]
    result, folder = evaluate_stage(tiny_recipe(data={"splits": {"test": 0.7}}, evaluate={"gates": gates}))
    _, predictions = read(folder)
    assert [gate.gate for gate in result.gates] == gates
    assert [gate.needed for gate in result.gates] == [0.0, 1.0, 0.9, -1.0, 0.0, 1.0, -1.0]
    holds = [gate.holds for gate in result.gates]
    assert [*holds[:4], *holds[5:]] == [True, False, False, True, True, True]
    scored = [p for p in predictions if "token_f1" in p.scores["tuned"]]
    leads = [p.scores["tuned"]["token_f1"] - p.scores["base"]["token_f1"] for p in scored]
    documents = [p.row.group for p in scored]
    assert result.gates[3].at_least == pytest.approx(lower_bound(leads, documents, confidence=0.9, seed=7))
    assert result.gates[2].at_least == pytest.approx(lower_bound(leads, documents, confidence=0.95, seed=7))


def test_a_metric_that_scores_no_row_has_no_value_and_cannot_be_a_gate(
    tiny_recipe: RecipeWriter, evaluate_stage: Evaluate
) -> None:
    data = {"sources": [{"synthesize": {"questions": 3, "passages": 2, "unanswerable": 1.0}}]}
    path = tiny_recipe(data=data)
    task = evaluate_stage(path)[0].tasks["grounded_answers"]
    assert task.scores["tuned"]["token_f1"].value is None and task.scores["tuned"]["token_f1"].rows == 0
    assert {difference.metric for difference in task.differences} == {"abstention_accuracy"}
    assert f"No passage answers {task.rows} of the {task.rows} questions." in task.remarks
    with pytest.raises(RequestError, match=r"evaluate\.gates: tuned\.token_f1 >= 0\.1: no test row is scored by"):
        evaluate_stage(path, "evaluate.gates=[tuned.token_f1 >= 0.1]")


def test_rows_that_do_not_know_their_passage_are_refused_and_are_conversations(
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
    path = tiny_recipe(data={"sources": [{"path": "rows.jsonl"}]})
    with pytest.raises(RequestError, match=r"evaluate\.tasks: grounded_answers needs rows .*; rows\.jsonl:\d is none"):
        evaluate_stage(path)
    result, folder = evaluate_stage(path, "evaluate.tasks=[conversations]")
    examples, predictions = read(folder, "conversations")
    assert len(predictions) == len(examples) == result.tasks["conversations"].rows
    assert {"token_f1", "rougeL", "chrf"} <= result.tasks["conversations"].scores["tuned"].keys()


def recorded_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The bases that are loaded from now on."""
    import hfkit.models.loading as loading

    loads: list[str] = []
    real = loading.load_model

    def load(settings: Any, **more: Any) -> Any:
        loads.append(settings.base)
        return real(settings, **more)

    monkeypatch.setattr("hfkit.models.loading.load_model", load)
    return loads


def alike(one: Answer, other: Answer) -> bool:
    """Whether both are the same, rounding aside."""
    if isinstance(one, Generation) and isinstance(other, Generation):
        return one.text == other.text or one.near_tie
    assert isinstance(one, Likelihoods) and isinstance(other, Likelihoods)
    pairs = zip(one.of, other.of, strict=True)
    return all(a.log_likelihood == pytest.approx(b.log_likelihood, abs=1e-3) for a, b in pairs)


def test_all_the_models_of_a_run_on_every_kind_of_task(
    finished: Path, evaluate_stage: Evaluate, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is loaded once for all its adapters; the merged model agrees with the adapter; a foreign folder that is
    the base agrees with the base; a checkpoint that is damaged is left out and said."""
    run = Path("runs/tiny")
    kept = sorted((run / "train" / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    assert len(kept) >= 2
    texts = [{"text": f"The {word} is in the garden.", "label": word} for word in ("cat", "dog", "cat", "bird")]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    pairs = [{"prompt": f"Hi {n}", "chosen": "Hello!", "rejected": "Go away."} for n in range(3)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    choices = [{"q": f"Where is {n}?", "options": ["here", "over there", "no"], "right": n % 3} for n in range(4)]
    Path("choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices), encoding="utf-8")
    shutil.copytree(run / "train" / "adapter", "elsewhere")
    tasks = [
        "grounded_answers",
        {"kind": "text", "name": "texts", "path": "texts.jsonl", "text": "text"},
        {"kind": "classification", "name": "labels", "path": "texts.jsonl"},
        {"kind": "preference", "name": "pairs", "path": "pairs.jsonl"},
        {
            "kind": "choice",
            "name": "where",
            "path": "choices.jsonl",
            "prompt": "{{ q }} ",
            "choices": "options",
            "correct": "right",
        },
    ]
    models = [
        "base",
        "tuned",
        "checkpoints",
        "merged",
        {"name": "copied", "load": "elsewhere"},
        {"name": "same", "load": str(tiny_model)},
    ]
    loads = recorded_loads(monkeypatch)
    overrides = [f"evaluate.tasks={json.dumps(tasks)}", f"evaluate.models={json.dumps(models)}"]
    result, folder = evaluate_stage(finished, *overrides)
    labels = [f"checkpoint-{path.name.split('-')[1]}" for path in kept]
    assert list(result.models) == ["base", "tuned", *labels, "merged", "copied", "same"]
    assert result.steps == {label: int(label.split("-")[1]) for label in labels}
    for name, task in result.tasks.items():
        assert task.scores.keys() == result.models.keys(), name
        for prediction in read(folder, name)[1]:
            given = prediction.answers
            assert alike(given["base"], given["same"])
            assert alike(given["tuned"], given["copied"]) and alike(given["tuned"], given[labels[-1]])
            assert alike(given["tuned"], given["merged"])
    perplexity = {model: scores["perplexity"].value for model, scores in result.tasks["texts"].scores.items()}
    assert perplexity["merged"] == pytest.approx(perplexity["tuned"], rel=1e-3)
    assert perplexity["tuned"] != perplexity["base"] != perplexity[labels[0]]
    classes = result.tasks["labels"].classes
    assert classes is not None and classes.labels == ("bird", "cat", "dog")
    assert all(sum(map(sum, counts)) == 4 for counts in classes.confusion.values())
    assert loads.count(str(tiny_model)) <= 4, "base with its adapters, merging and its drift, and `same`"

    # Another gate loads nothing.
    loads.clear()
    gate = "tuned.texts.perplexity <= 100000 with confidence 0.5"
    again, _ = evaluate_stage(finished, *overrides, f"evaluate.gates=[{gate}]")
    assert loads == [] and again.tasks == result.tasks and again.gates[0].holds


def test_a_damaged_checkpoint_is_left_out_of_all_and_refused_by_name(
    finished: Path, evaluate_stage: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hfkit.evaluation.models as models

    steps = models.kept_steps(Path("runs/tiny/train"))
    real = models.attach_adapter

    def attach(model: Any, folder: Path, name: str) -> Any:
        if folder.name == f"step-{steps[0]}":
            raise RequestError(f"{folder}: its adapter is not whole")
        return real(model, folder, name)

    monkeypatch.setattr(models, "attach_adapter", attach)
    result, _ = evaluate_stage(finished, "evaluate.models=[base, checkpoints]")
    assert list(result.steps.values()) == steps[1:]
    (remark,) = [one for one in result.tasks["grounded_answers"].remarks if "was left out" in one]
    assert f"checkpoint-{steps[0]} was left out" in remark and "is not whole" in remark
    with pytest.raises(RequestError, match="is not whole"):
        evaluate_stage(finished, f"evaluate.models=[base, checkpoint-{steps[0]}]")
    with pytest.raises(RequestError, match=r"there is no checkpoint-999; kept are checkpoint-"):
        evaluate_stage(finished, "evaluate.models=[base, checkpoint-999]")


def test_a_base_alone_needs_no_training(tiny_recipe: RecipeWriter, evaluate_stage: Evaluate) -> None:
    Path("texts.jsonl").write_text('{"text": "A text."}\n{"text": "Another."}\n', encoding="utf-8")
    task = {"kind": "text", "name": "texts", "path": "texts.jsonl", "text": "text"}
    path = tiny_recipe(data=None, train=None, rag=None, evaluate={"tasks": [task]})
    result, folder = evaluate_stage(path)
    assert list(result.models) == ["base"] and not (folder / "data").exists()
    assert result.tasks["texts"].scores["base"]["perplexity"].rows == 2
    assert result.tasks["texts"].differences == ()
