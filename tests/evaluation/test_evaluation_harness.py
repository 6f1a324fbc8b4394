"""lm-evaluation-harness on our models, from local task files, and likelihoods that agree with it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from hfkit.errors import RequestError
from hfkit.evaluation import harness as module
from hfkit.evaluation.harness import Harness, harness_version, scores_of
from hfkit.evaluation.result import EvaluateResult
from hfkit.evaluation.rows import ChoiceRow, Likelihoods, TextRow
from hfkit.recipe import ModelSection, RecipeError, load_recipe
from hfkit.recipe.harness import HarnessSection
from hfkit.stages import STAGES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfkit.data.rendering import Renderer
    from tests.conftest import Cli

TASK = """\
task: endings
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: correct
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""

QUESTIONS: list[dict[str, Any]] = [
    {"question": "An anchor holds a ship to the", "choices": ["ground", "swing of a clock"], "correct": 0},
    {"question": "A colony of bees has one", "choices": ["wind", "queen and many workers", "harp"], "correct": 1},
    {"question": "Ferns make", "choices": ["spores", "a flower", "coal"], "correct": 0},
    {"question": "Glass is sand that was melted together with", "choices": ["soda", "coal"], "correct": 0},
    {"question": "The dance tells the others", "choices": ["nothing", "where the flowers stand"], "correct": 1},
]


@pytest.fixture
def tasks(workplace: Path) -> Path:
    folder = workplace / "tasks"
    folder.mkdir()
    data = folder / "endings.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    (folder / "endings.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> tuple[PreTrainedModel, Renderer]:
    from hfkit.models.loading import load_model, load_renderer

    settings = ModelSection(base=str(tiny_model), precision="fp32")
    return load_model(settings)[0], load_renderer(settings)


def section(folder: Path, *names: str, **given: object) -> HarnessSection:
    return HarnessSection.model_validate({"tasks": names or ("endings",), "include_path": str(folder)} | given)


def choice_rows() -> list[ChoiceRow]:
    return [
        ChoiceRow(
            id=str(number),
            group=str(number),
            context=row["question"],
            choices=tuple(f" {choice}" for choice in row["choices"]),
            correct=row["correct"],
        )
        for number, row in enumerate(QUESTIONS)
    ]


def test_its_accuracy_is_what_our_likelihoods_give(tasks: Path, loaded: tuple[PreTrainedModel, Renderer]) -> None:
    from hfkit.evaluation.likelihood import likelihoods_each

    model, renderer = loaded
    scores = Harness(section(tasks), allow_code=True).scores(model, renderer.tokenizer, seed=7)
    rows = choice_rows()
    right = right_by_length = 0
    for number, answer in likelihoods_each(model, renderer, rows, batch_size=4):
        assert isinstance(answer, Likelihoods)
        of = [one.log_likelihood for one in answer.of]
        by_length = [one / len(text.strip()) for one, text in zip(of, rows[number].choices, strict=True)]
        right += of.index(max(of)) == rows[number].correct
        right_by_length += by_length.index(max(by_length)) == rows[number].correct
    assert scores["endings"]["acc"][0] == pytest.approx(right / len(rows))
    assert scores["endings"]["acc_norm"][0] == pytest.approx(right_by_length / len(rows))
    assert scores["endings"]["acc"][1] is not None


def test_likelihoods_agree_with_the_harness_on_the_same_rows(loaded: tuple[PreTrainedModel, Renderer]) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from hfkit.evaluation.likelihood import likelihoods_each

    model, renderer = loaded
    rows = [
        *choice_rows(),
        # Spaces at the border count to the continuation; an empty context begins with the start token.
        ChoiceRow(id="border", group="", context="A colony of bees has one  ", choices=("queen", " queen"), correct=0),
        ChoiceRow(id="empty", group="", context="", choices=("Bees dance", "a"), correct=0),
        ChoiceRow(id="one token", group="", context="Grains roll down the", choices=(" steep", " s", " t"), correct=0),
    ]
    wrapped = HFLM(pretrained=model, tokenizer=renderer.tokenizer, batch_size=3)
    asked = [(row.context, choice) for row in rows for choice in row.choices]
    theirs = wrapped.loglikelihood(
        [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(asked)], disable_tqdm=True
    )
    ours = dict(likelihoods_each(model, renderer, rows, batch_size=3))
    flat = [one for number in range(len(rows)) for one in ours[number].of]  # type: ignore[union-attr]
    assert len(flat) == len(theirs)
    for mine, (total, is_greedy) in zip(flat, theirs, strict=True):
        assert mine.log_likelihood == pytest.approx(total, abs=1e-4)
        assert mine.is_greedy == is_greedy


def test_the_likelihood_of_a_text_agrees_in_windows_as_well(loaded: tuple[PreTrainedModel, Renderer]) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from hfkit.evaluation.likelihood import likelihoods_each

    model, renderer = loaded
    texts = ["A steam engine turns heat into motion. " * count for count in (1, 3, 260)]
    wrapped = HFLM(pretrained=model, tokenizer=renderer.tokenizer, batch_size=2)
    # The longest is more than the model takes at once.
    assert len(renderer.tokenizer.encode(texts[-1])) > wrapped.max_length
    theirs = wrapped.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)],
        disable_tqdm=True,
    )
    rows = [TextRow(id=str(number), group="", text=text) for number, text in enumerate(texts)]
    ours = dict(likelihoods_each(model, renderer, rows, batch_size=2))
    for number, total in enumerate(theirs):
        answer = ours[number]
        assert isinstance(answer, Likelihoods)
        assert answer.of[0].log_likelihood == pytest.approx(total, rel=1e-6, abs=1e-4)


def test_limit_and_examples_are_the_recipes(tasks: Path, loaded: tuple[PreTrainedModel, Renderer]) -> None:
    model, renderer = loaded
    text = (tasks / "endings.yaml").read_text(encoding="utf-8")
    (tasks / "endings.yaml").write_text(text + "fewshot_split: test\n", encoding="utf-8")
    asked = Harness(section(tasks, num_fewshot=1, limit=2), allow_code=True)
    first, again = (asked.scores(model, renderer.tokenizer, seed=7) for _ in range(2))
    assert first == again
    assert first["endings"]["acc"][0] in (0, 0.5, 1)


def test_a_task_that_nobody_knows_is_named_with_the_nearest(tasks: Path) -> None:
    with pytest.raises(
        RequestError, match=r"tasks\[1\]: lm-evaluation-harness .* has no task endigs; did you mean endings"
    ):
        Harness(section(tasks, "endings", "endigs"), allow_code=True)


def test_data_that_is_not_here_is_not_fetched_offline(tasks: Path, loaded: tuple[PreTrainedModel, Renderer]) -> None:
    model, renderer = loaded
    (tasks / "far.yaml").write_text(
        (tasks / "endings.yaml")
        .read_text(encoding="utf-8")
        .replace("endings", "far", 1)
        .replace("json", "nobody/far", 1),
        encoding="utf-8",
    )
    with pytest.raises(RequestError, match=r"tasks\[0\]: the data of far is not here and could not be fetched"):
        Harness(section(tasks, "far"), allow_code=True).scores(model, renderer.tokenizer, seed=7)


def test_a_task_file_that_is_wrong_is_named(tasks: Path, loaded: tuple[PreTrainedModel, Renderer]) -> None:
    model, renderer = loaded
    text = (tasks / "endings.yaml").read_text(encoding="utf-8")
    (tasks / "endings.yaml").write_text(text.replace("multiple_choice", "multiple_joyce"), encoding="utf-8")
    with pytest.raises(RequestError, match=r"tasks\[0\]: the task endings cannot be loaded"):
        Harness(section(tasks), allow_code=True).scores(model, renderer.tokenizer, seed=7)


@pytest.mark.parametrize("line", ["", "doc_to_text: !function utils.ask", "include: ../../else.yaml"])
def test_task_files_are_read_only_where_the_recipe_allows_code(tasks: Path, line: str) -> None:
    """Templates and metrics are code as well, so no folder is looked through for what is harmless."""
    (tasks / "more.yaml").write_text(f"task: more\n{line}\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"include_path: .* can run code .* allow_code: true .*tasks"):
        Harness(section(tasks), allow_code=False)
    assert Harness(section(tasks), allow_code=True).section.include_path == tasks


def test_a_folder_that_is_not_there_is_named(workplace: Path) -> None:
    with pytest.raises(RequestError, match=r"include_path: .*nowhere is no folder"):
        Harness(section(workplace / "nowhere"), allow_code=False)


def test_without_the_harness_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    with pytest.raises(RequestError, match=r"pip install 'hfkit\[harness\]'"):
        harness_version()


def test_nothing_else_needs_the_harness(workplace: Path) -> None:
    script = "import hfkit.evaluation.evaluate, hfkit.summary, sys; print('lm_eval' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=workplace, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_its_document_becomes_scores() -> None:
    results = {
        "arc": {"alias": "arc", "acc,none": 0.25, "acc_stderr,none": 0.02, "sample_len": 12},
        "gsm8k": {
            "exact_match,strict-match": 0.5,
            "exact_match_stderr,strict-match": "N/A",
            "exact_match,flexible-extract": 0.75,
        },
        "empty": {"alias": "empty", "acc,none": float("nan")},
    }
    assert scores_of(results) == {
        "arc": {"acc": (0.25, 0.02)},
        "gsm8k": {"exact_match (strict-match)": (0.5, None), "exact_match (flexible-extract)": (0.75, None)},
    }


def test_the_recipe_says_what_is_wrong_with_it(workplace: Path, tasks: Path) -> None:
    recipe: dict[str, Any] = {"name": "x", "model": {"base": "m"}, "evaluate": {"harness": {"tasks": ["a", "a"]}}}
    path = workplace / "x.yaml"
    for change, message in (
        ({"tasks": ["a", "a"]}, "names a task twice"),
        ({"tasks": []}, "expected a non-empty list"),
        ({"tasks": ["a"], "fewshot": 1}, "unknown key"),
    ):
        path.write_text(yaml.safe_dump(recipe | {"evaluate": {"harness": change}}), encoding="utf-8")
        with pytest.raises(RecipeError, match=message):
            load_recipe(path, ())
    path.write_text("name: x\nevaluate: {harness: {tasks: [a]}}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="needs the section model"):
        load_recipe(path, ())
    path.write_text("name: x\nmodel: {base: m}\nevaluate: {}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="name a task, or set harness"):
        load_recipe(path, ())


def test_the_stage_depends_on_the_task_files(workplace: Path, tasks: Path, tiny_model: Path) -> None:
    path = workplace / "x.yaml"
    recipe = {
        "name": "x",
        "model": {"base": str(tiny_model)},
        "evaluate": {"harness": {"tasks": ["endings"], "include_path": str(tasks)}},
    }
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    before = STAGES["evaluate"].reads(load_recipe(path, ()))
    (tasks / "endings.jsonl").write_text("{}\n", encoding="utf-8")
    assert STAGES["evaluate"].reads(load_recipe(path, ())) != before


def test_a_run_of_the_harness_alone_gives_its_report(workplace: Path, tasks: Path, tiny_model: Path, cli: Cli) -> None:
    path = workplace / "x.yaml"
    recipe = {
        "name": "x",
        "allow_code": True,
        "model": {"base": str(tiny_model), "precision": "fp32"},
        "evaluate": {"harness": {"tasks": ["endings"], "include_path": str(tasks), "batch_size": 2}},
    }
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = cli("run", path, "--json")
    assert done.code == 0, done.err
    result = EvaluateResult.model_validate(done.document["evaluate"])
    assert result.harness is not None and set(result.harness.scores) == {"base"}
    assert set(result.harness.scores["base"]["endings"]) == {"acc", "acc_norm"}
    page = (workplace / "runs" / "x" / "evaluate" / "report.html").read_text(encoding="utf-8")
    assert "lm-evaluation-harness" in page and "acc_norm" in page
    assert "|██" not in done.err
    shown = cli("run", path)
    assert "nothing changed, kept" in shown.out and "acc_norm" in shown.out and "report.html" in shown.out
