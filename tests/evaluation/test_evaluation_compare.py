"""`hfkit compare`: finished runs side by side, on runs made by hand."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from hfkit.artifact import Artifact, record_files, write_artifact
from hfkit.cli import main
from hfkit.data.conversation import Turn
from hfkit.environment import describe_environment
from hfkit.errors import RequestError
from hfkit.evaluation.predictions import Prediction, write_predictions
from hfkit.evaluation.report.compared import comparison_page, comparison_sentences
from hfkit.evaluation.result import EvaluateResult, MetricInfo, Score, TaskResult
from hfkit.evaluation.rows import Generation, GenerationRow
from hfkit.evaluation.run_comparison import compare_runs
from hfkit.training.metrics_log import METRICS, MetricsLine, append_line
from hfkit.training.result import TrainResult
from hfkit.verbs import compare as verb

F1 = MetricInfo(name="token_f1", title="token F1", higher_is_better=True, is_binary=False)
BLEU = MetricInfo(name="bleu", title="BLEU", higher_is_better=True, is_binary=False)

TRAINED = TrainResult(
    steps=40,
    planned_steps=40,
    stopped_by="steps",
    loss=0.8,
    best_metric=None,
    best_step=None,
    best_value=None,
    kept_steps=(),
    validation_rows=4,
    tokens=1000,
    micro_batches=1,
    packed=False,
    packing_reason="",
    precision="fp32",
    precision_reason="",
    trained_parameters=1,
    parameters=2,
    continued_from_step=0,
    deterministic="",
    threads=1,
    processes=1,
)

MakeRun = Callable[..., Path]


def predictions(scores: Sequence[float], *, said: str = "a reply", asked: str = "question") -> list[Prediction]:
    return [
        Prediction(
            row=GenerationRow(
                id=f"row-{number}",
                group=f"document-{number // 2}",
                messages=(Turn(role="user", content=f"{asked} {number}"),),
                references=("x",),
            ),
            answers={
                "base": Generation(text="the same", stopped=True),
                "tuned": Generation(text=f"{said} {score}", stopped=True),
            },
            scores={"base": {"token_f1": 0.25, "bleu": 3.0}, "tuned": {"token_f1": score, "bleu": 3.0}},
        )
        for number, score in enumerate(scores)
    ]


def finish(folder: Path, stage: str, fingerprint: str, result: dict[str, object]) -> None:
    (folder / stage).mkdir(parents=True, exist_ok=True)
    write_artifact(
        folder / stage,
        Artifact.model_validate(
            {
                "stage": stage,
                "fingerprint": fingerprint,
                "files": record_files(folder / stage),
                "finished": "2026-01-01T00:00:00+00:00",
                "seed": 7,
                "seconds": 12.5,
                "peak_memory_bytes": 2**30,
                "environment": describe_environment(),
                "result": result,
            }
        ),
    )


@pytest.fixture
def make_run(workplace: Path) -> MakeRun:
    def make(name: str, rows: Sequence[Prediction], *, data: str = "d1", epochs: int = 1) -> Path:
        folder = workplace / "runs" / name
        (folder / "train").mkdir(parents=True)
        for split, loss in (("train", 0.9), ("validation", 1.3), ("validation", 1.1)):
            append_line(
                folder / "train" / METRICS,
                MetricsLine.model_validate(
                    {"split": split, "step": 2, "epoch": 1, "loss": loss, "tokens": 1, "seconds": 1, "memory_bytes": 1}
                ),
            )
        recipe = {"name": name, "seed": 7, "train": {"epochs": epochs, "batch_size": 8}}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        finish(folder, "data", data, {})
        finish(folder, "train", f"train of {name}", TRAINED.model_dump(mode="json"))
        write_predictions(folder / "evaluate", "questions", rows)
        mean = sum(one.scores["tuned"]["token_f1"] for one in rows) / len(rows)

        def score(value: float) -> Score:
            return Score(value=value, interval=(value - 0.1, value + 0.1), rows=len(rows), groups=len(rows) // 2)

        scores = {
            "base": {"token_f1": score(0.25), "bleu": score(17.0)},
            "tuned": {"token_f1": score(mean), "bleu": score(18.0)},
        }
        task = TaskResult(
            kind="generation",
            title="Questions",
            rows=len(rows),
            groups=len(rows) // 2,
            metrics=(F1, BLEU),
            scores=scores,
            differences=(),
        )
        result = EvaluateResult(models={"base": "", "tuned": ""}, tasks={"questions": task})
        finish(folder, "evaluate", f"evaluate of {name}", result.model_dump(mode="json"))
        return folder

    return make


LOW = [0.2 + 0.01 * (n % 7) for n in range(40)]
HIGH = [0.7 + 0.01 * (n % 5) for n in range(40)]


def test_the_same_rows_are_compared_in_pairs(make_run: MakeRun) -> None:
    low, high = make_run("low", predictions(LOW)), make_run("high", predictions(HIGH), epochs=3)
    comparison = compare_runs([low, high])
    (one,) = comparison.paired
    assert (one.task, one.model, one.metric, one.run, one.reference) == ("questions", "tuned", F1, "high", "low")
    assert one.difference == pytest.approx(sum(HIGH) / 40 - sum(LOW) / 40)
    assert one.interval[0] < one.difference < one.interval[1] and one.interval[0] > 0
    assert one.p_adjusted < 0.01 and (one.rows, one.left_out) == (40, 0)
    assert "high is better than low on token F1" in comparison_sentences(comparison)[0]


def test_a_metric_that_is_no_mean_of_rows_is_not_compared_by_them(make_run: MakeRun) -> None:
    comparison = compare_runs([make_run("low", predictions(LOW)), make_run("high", predictions(HIGH))])
    assert {one.metric.name for one in comparison.paired} == {"token_f1"}
    assert {"token_f1", "bleu"} == set(comparison.runs[0].scores["questions"]["tuned"])


def test_runs_that_are_alike_show_no_difference(make_run: MakeRun) -> None:
    comparison = compare_runs(
        [make_run("one", predictions(LOW)), make_run("two", predictions(LOW[::-1], said="another"))]
    )
    (one,) = comparison.paired
    assert one.p_value > 0.05 and one.in_words.startswith("no evidence of a difference")


def test_rows_that_were_asked_otherwise_are_left_out_and_counted(make_run: MakeRun) -> None:
    shorter = make_run("shorter", predictions(LOW[:30]))
    longer = make_run("longer", predictions(HIGH))
    comparison = compare_runs([shorter, longer])
    assert (comparison.paired[0].rows, comparison.paired[0].left_out) == (30, 10)
    assert any("30 rows that both answered; 10 are not" in remark for remark in comparison.remarks)
    other = make_run("other", predictions(HIGH, asked="something else"))
    apart = compare_runs([longer, other])
    assert apart.paired == ()
    assert any("no rows in common" in remark for remark in apart.remarks)


def test_recipes_are_compared_key_by_key_and_data_by_fingerprint(make_run: MakeRun) -> None:
    one = make_run("one", predictions(LOW))
    two = make_run("two", predictions(HIGH), epochs=3, data="d2")
    comparison = compare_runs([one, two])
    assert [(of.key, of.values) for of in comparison.recipe] == [("train.epochs", (1, 3))]
    assert comparison.same_data is False
    assert "The runs' data is not the same." in comparison_sentences(comparison)
    assert compare_runs([one, make_run("three", predictions(HIGH))]).same_data is True


def test_cost_and_losses_are_those_of_the_run(make_run: MakeRun) -> None:
    run = compare_runs([make_run("one", predictions(LOW)), make_run("two", predictions(HIGH))]).runs[0]
    assert run.losses is not None and (run.losses.training, run.losses.validation, run.losses.steps) == (0.8, 1.1, 40)
    assert {stage: cost.seconds for stage, cost in run.cost.items()} == {"data": 12.5, "train": 12.5, "evaluate": 12.5}


def test_a_recipe_stands_for_its_run(make_run: MakeRun, workplace: Path) -> None:
    make_run("low", predictions(LOW))
    high = make_run("high", predictions(HIGH))
    (workplace / "low.yaml").write_text("name: low\n", encoding="utf-8")
    assert [run.label for run in compare_runs([Path("low.yaml"), high]).runs] == ["low", "high"]


def test_three_runs_are_compared_two_by_two_and_corrected_together(make_run: MakeRun) -> None:
    runs = [make_run(name, predictions(scores)) for name, scores in (("a", LOW), ("b", HIGH), ("c", LOW[::-1]))]
    paired = compare_runs(runs).paired
    assert [(one.reference, one.run) for one in paired] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(one.p_adjusted >= one.p_value for one in paired)
    assert any(one.p_adjusted > one.p_value for one in paired)


@pytest.mark.parametrize("named", [["low"], ["low", "low"], ["low", "missing"], ["low", "empty"]])
def test_a_wrong_request_says_what_is_wrong(make_run: MakeRun, workplace: Path, named: list[str]) -> None:
    make_run("low", predictions(LOW))
    (workplace / "runs" / "empty").mkdir()
    with pytest.raises(RequestError, match=r"each named once|no such run|no stage of this run"):
        compare_runs([workplace / "runs" / name for name in named])


def test_a_damaged_run_is_named(make_run: MakeRun) -> None:
    low, high = make_run("low", predictions(LOW)), make_run("high", predictions(HIGH))
    (high / "evaluate" / "artifact.json").write_text("{", encoding="utf-8")
    with pytest.raises(RequestError, match="high"):
        compare_runs([low, high])
    assert main(["compare", str(low), str(high)]) == 2


def test_the_verb_prints_a_table_a_document_and_a_page(
    make_run: MakeRun, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(make_run("low", predictions(LOW))), str(make_run("high", predictions(HIGH), epochs=3))]
    assert main(["compare", *names]) == 0
    printed = capsys.readouterr().out
    assert "train.epochs" in printed and "high - low" in printed and "high is better" in printed
    page = workplace / "page.html"
    assert main(["compare", *names, "--json", "--html", str(page)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["paired"][0]["run"] == "high"
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text and "Comparison of low and high" in text
    assert main(["compare", *names, "--html", str(workplace / "nowhere" / "page.html")]) == 2


def test_what_stands_in_recipes_is_escaped_on_the_page(make_run: MakeRun) -> None:
    low, high = make_run("low", predictions(LOW)), make_run("high", predictions(HIGH))
    (high / "recipe.yaml").write_text('{name: x, note: "<script>alert(1)</script>\\e[2J"}', encoding="utf-8")
    page = comparison_page(compare_runs([low, high]))
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page


def test_the_verb_is_the_one_that_the_command_line_calls() -> None:
    with pytest.raises(RequestError, match="there is no folder"):
        verb.run(Namespace(runs=[], html=Path("nowhere/x.html"), json=False))
