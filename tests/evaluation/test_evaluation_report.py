"""The report of an evaluation: what it says, that it is safe to open, and that it is one file."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hfkit.data.conversation import Turn
from hfkit.environment import describe_environment
from hfkit.errors import WorkError
from hfkit.evaluation.predictions import Prediction, predictions_file, write_predictions
from hfkit.evaluation.report import REPORT, REPORT_JSON, REPORT_MARKDOWN
from hfkit.evaluation.report.changes import MOST_ROWS, changes_of
from hfkit.evaluation.report.confusion import MOST_LABELS, confusions
from hfkit.evaluation.report.html import html_report
from hfkit.evaluation.report.markdown import markdown_report
from hfkit.evaluation.report.shown_rows import LONGEST, cut
from hfkit.evaluation.report.slices import LENGTH, OTHERS, cuts
from hfkit.evaluation.report.verdicts import best_step, headlines
from hfkit.evaluation.report.writing import write_report
from hfkit.evaluation.result import (
    Classes,
    Difference,
    EvaluateResult,
    GateResult,
    HarnessResult,
    MetricInfo,
    Score,
    Slice,
    TaskResult,
)
from hfkit.evaluation.rows import Failed, Generation, GenerationRow
from hfkit.markdown import escaped
from hfkit.recipe import Recipe
from hfkit.training.metrics_log import METRICS, MetricsLine, append_line

EVIL = "<script>alert(1)</script> & \"q\" 'x' <img src=http://example.invalid/x> | ` $\\frac$ \x1b[31mred\x07 \u202e]]>"
F1 = MetricInfo(name="token_f1", title="token F1", higher_is_better=True, is_binary=False)
PERPLEXITY = MetricInfo(name="perplexity", title="perplexity", higher_is_better=False, is_binary=False)


def score(value: float, width: float = 0.04) -> Score:
    return Score(value=value, interval=(value - width, value + width), rows=60, groups=20)


def difference(
    value: float, width: float = 0.05, p: float = 0.0005, metric: str = "token_f1", model: str = "tuned"
) -> Difference:
    return Difference(
        metric=metric,
        model=model,
        reference="base",
        difference=value,
        interval=(value - width, value + width),
        p_value=p / 2,
        p_adjusted=p,
        test="permutation",
        effect_size=0.4,
        rows_needed=None,
        in_words=f"{model} is better",
    )


def task(**given: object) -> TaskResult:
    values: dict[str, object] = {
        "kind": "generation",
        "title": "Questions",
        "rows": 60,
        "groups": 20,
        "metrics": (F1,),
        "scores": {"base": {"token_f1": score(0.13)}, "tuned": {"token_f1": score(0.67)}},
        "differences": (difference(0.54),),
    }
    return TaskResult.model_validate(values | given)


def result(*tasks: TaskResult, **given: object) -> EvaluateResult:
    named = {f"task_{number}": one for number, one in enumerate(tasks)}
    return EvaluateResult.model_validate({"models": {"base": "it", "tuned": EVIL}, "tasks": named} | given)


def with_checkpoints(values: dict[int, float], width: float = 0.02) -> EvaluateResult:
    scores = {f"checkpoint-{step}": {"token_f1": score(value, width)} for step, value in values.items()}
    steps = {f"checkpoint-{step}": step for step in values}
    return result(task(scores={"base": {"token_f1": score(0.1)}} | scores, differences=()), steps=steps)


def prediction(number: int, base: float, tuned: float, reply: str = "a reply") -> Prediction:
    return Prediction(
        row=GenerationRow(
            id=f"row-{number}",
            group=f"document-{number // 3}",
            slices={"source": EVIL},
            messages=(Turn(role="user", content=f"{EVIL} question {number}"),),
            references=("the reference",),
        ),
        answers={"base": Generation(text=reply, stopped=False), "tuned": Failed(reason=EVIL)},
        scores={"base": {"token_f1": base}, "tuned": {"token_f1": tuned}},
    )


def rich_result() -> EvaluateResult:
    """Everything that a report can hold, with hostile text wherever text comes from elsewhere."""
    classes = Classes(
        labels=("sport", EVIL),
        confusion={"base": ((3, 1), (2, 4)), "tuned": ((4, 0), (0, 6))},
        calibration={"base": ((0.4, 0.5, 5), (0.9, 0.4, 5)), "tuned": ((0.9, 1.0, 10),)},
        calibration_error={"base": 0.3, "tuned": 0.1},
    )
    slices = tuple(
        Slice(key=EVIL, value=value, rows=5, scores={"base": {"token_f1": score(0.2)}}) for value in ("a", EVIL)
    )
    of_task = task(
        title=EVIL,
        slices=slices,
        classes=classes,
        cut_off={"base": 3},
        failed={"tuned": {EVIL: 2}},
        settings={"prompt": EVIL},
        remarks=(EVIL,),
        scores={
            label: {"token_f1": score(0.1 * number)}
            for number, label in enumerate(["base", "tuned", "checkpoint-5", "checkpoint-9"])
        },
    )
    return result(
        of_task,
        steps={"checkpoint-5": 5, "checkpoint-9": 9},
        harness=HarnessResult(version="0.4.13", scores={"base": {EVIL: {"acc": (0.25, 0.02), "f1": (0.5, None)}}}),
        gates=(GateResult(gate="tuned.token_f1 >= 0.9", at_least=None, needed=0.9, holds=False),),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_predictions(folder, "task_0", [prediction(n, (n * 7 % 10) / 10, (n * 3 % 10) / 10) for n in range(40)])
    for step in (2, 4, 6):
        append_line(
            folder / METRICS,
            MetricsLine(split="train", step=step, epoch=1, loss=3 / step, tokens=1, seconds=1, memory_bytes=1),
        )
    write_report(folder, rich_result(), Recipe(name="hostile"), folder)
    return folder


class Page(HTMLParser):
    """Tags that are open, images, headings and cells of headings, as a browser would find them."""

    void = ("meta", "img", "br", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_is_well_formed_and_loads_nothing(written: Path) -> None:
    page = Page((written / REPORT).read_text(encoding="utf-8"))
    assert page.open == []
    assert not page.named("script") and not page.named("link") and not page.named("iframe")
    sources = [attributes["src"] for attributes in page.named("img")]
    assert sources and all(str(source).startswith("data:image/svg+xml;base64,") for source in sources)
    policies = [one["content"] for one in page.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert all(str(attributes.get("href")).startswith("#") for attributes in page.named("a"))
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_text_from_elsewhere_is_shown_and_not_obeyed(written: Path) -> None:
    text = (written / REPORT).read_text(encoding="utf-8")
    assert "<script" not in text and "<img src=http" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    markdown = (written / REPORT_MARKDOWN).read_text(encoding="utf-8")
    assert "<script" not in markdown and "\x1b" not in markdown and "\u202e" not in markdown


def test_the_plots_are_svg_that_says_in_words_what_it_shows(written: Path) -> None:
    images = Page((written / REPORT).read_text(encoding="utf-8")).named("img")
    assert len(images) == 4  # scores, curve, one slice, calibration
    for image in images:
        assert image["alt"] and len(image["alt"]) > 40
        svg = b64decode(str(image["src"]).partition(",")[2]).decode("utf-8")
        ElementTree.fromstring(svg)
        assert "prefers-color-scheme:dark" in svg and "currentColor" in svg and "http://example" not in svg


def test_a_prompt_of_several_lines_is_shown_as_it_is(tmp_path: Path) -> None:
    prompt = "Review: {{ text }}\nMood:"
    write_report(tmp_path, result(task(settings={"prompt": prompt})), Recipe(name="mood"), tmp_path)
    assert "prompt: |-\n  Review: {{ text }}\n  Mood:\n" in (tmp_path / REPORT).read_text(encoding="utf-8")


def test_headings_are_in_order_and_tables_name_their_columns_and_rows(written: Path) -> None:
    page = Page((written / REPORT).read_text(encoding="utf-8"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {str(attributes["href"])[1:] for attributes in page.named("a")}
    assert links <= set(ids)
    assert page.named("html")[0]["lang"] == "en"


def test_the_same_is_in_the_json_document(written: Path) -> None:
    document = json.loads((written / REPORT_JSON).read_text(encoding="utf-8"))
    assert EvaluateResult.model_validate(document["result"]) == rich_result()
    assert document["headlines"] == headlines(rich_result())
    assert document["recipe"]["name"] == "hostile"
    assert document["changed_rows"]["task_0"][0]["rows_improved"] > 0


def test_the_report_is_the_same_every_time(written: Path, tmp_path: Path) -> None:
    changes = {"task_0": changes_of(written, "task_0", rich_result().tasks["task_0"], rich_result())}
    environment = describe_environment()
    pages = {html_report(rich_result(), changes, [], Recipe(name="x"), environment) for _ in range(2)}
    assert len(pages) == 1


@pytest.mark.parametrize(
    ("differences", "sentence"),
    [
        ((difference(0.54),), "Questions: tuned is better than base on token F1 (0.130 → 0.670)."),
        ((difference(-0.54),), "Questions: tuned is worse than base on token F1 (0.130 → 0.670)."),
        (
            (difference(0.02, width=0.05),),
            "Questions: there is no evidence of a difference between tuned and base on token F1 (0.130 → 0.670).",
        ),
        # The interval alone does not say so where there are many comparisons.
        (
            (difference(0.54, p=0.2),),
            "Questions: there is no evidence of a difference between tuned and base on token F1 (0.130 → 0.670).",
        ),
    ],
)
def test_a_headline_says_what_is_better_or_that_nothing_is_shown(
    differences: tuple[Difference, ...], sentence: str
) -> None:
    assert headlines(result(task(differences=differences))) == [sentence]


def test_lower_is_better_where_the_metric_says_so() -> None:
    scores = {"base": {"perplexity": score(21.3)}, "tuned": {"perplexity": score(24.9)}}
    rising = task(metrics=(PERPLEXITY,), scores=scores, differences=(difference(3.6, metric="perplexity"),))
    assert headlines(result(rising)) == ["Questions: tuned is worse than base on perplexity (21.3 → 24.9)."]


def test_one_model_alone_is_told_with_its_interval() -> None:
    alone = task(scores={"base": {"token_f1": score(0.13)}}, differences=())
    assert headlines(result(alone)) == ["Questions: base reaches token F1 0.130 (0.090 … 0.170)."]


def test_a_gate_that_does_not_hold_is_in_the_headlines() -> None:
    gates = (
        GateResult(gate="tuned.token_f1 >= 0.5", at_least=0.6, needed=0.5, holds=True),
        GateResult(gate="tuned.token_f1 >= 0.9", at_least=0.6, needed=0.9, holds=False),
    )
    (sentence,) = headlines(result(gates=gates))
    assert sentence.startswith("1 of 2 gates does not hold: “tuned.token_f1 >= 0.9” (at least 0.600, needed 0.900)")


def test_what_has_no_interval_says_so_wherever_it_is_shown() -> None:
    few = Score(value=0.5, interval=None, rows=9, groups=3)
    lead = difference(0.1).model_copy(update={"interval": None, "in_words": "no evidence of a difference: too few"})
    found = task(scores={"base": {"token_f1": few}, "tuned": {"token_f1": few}}, differences=(lead,))
    why = "a confidence of 0.95 takes at least 5 test documents (groups of rows), and there are 3"
    gates = (GateResult(gate="tuned.token_f1 >= 0.1", at_least=None, needed=0.1, holds=False, why=why),)
    text = markdown_report(result(found, gates=gates))
    assert "none: too few groups (3)" in text and "none: too few groups |" in text
    assert "Where there are fewer than 6 groups, none can be that sure." in text
    assert text.count(why) == 2, "in the sentences, and in the table of the gates"
    assert "there is no evidence of a difference between tuned and base" in text
    alone = result(task(scores={"base": {"token_f1": few}}, differences=()))
    assert headlines(alone) == ["Questions: base reaches token F1 0.500 (no interval: 3 groups)."]


def test_the_best_checkpoint_is_told_with_what_it_is_not_told_apart_from() -> None:
    found = with_checkpoints({50: 0.40, 100: 0.53, 150: 0.52, 200: 0.45})
    best = best_step(found.tasks["task_0"], F1, found.steps)
    assert best is not None
    assert (best.step, best.rivals, best.falls_after) == (100, (150,), True)
    assert any("over-fitting" in sentence for sentence in headlines(found))


def test_a_curve_that_rises_to_its_end_is_not_called_over_fitting() -> None:
    found = with_checkpoints({50: 0.40, 100: 0.45, 150: 0.52})
    best = best_step(found.tasks["task_0"], F1, found.steps)
    assert best is not None and best.step == 150 and not best.falls_after
    assert not any("over-fitting" in sentence for sentence in headlines(found))


def test_of_equal_checkpoints_the_earlier_one_is_best_and_one_alone_is_no_curve() -> None:
    equal = with_checkpoints({50: 0.5, 100: 0.5})
    best = best_step(equal.tasks["task_0"], F1, equal.steps)
    assert best is not None and best.step == 50
    alone = with_checkpoints({50: 0.5})
    assert best_step(alone.tasks["task_0"], F1, alone.steps) is None


def test_a_task_without_any_score_still_gives_a_page(tmp_path: Path) -> None:
    nothing = Score(value=None, interval=None, rows=0, groups=0)
    empty = task(scores={"base": {"token_f1": nothing}, "tuned": {"token_f1": nothing}}, differences=())
    write_report(tmp_path, result(empty), Recipe(name="empty"), None)
    assert "Questions: base reaches token F1 none." in (tmp_path / REPORT).read_text(encoding="utf-8")
    write_report(tmp_path, EvaluateResult(), Recipe(name="nothing"), None)
    assert Page((tmp_path / REPORT).read_text(encoding="utf-8")).open == []


def test_the_rows_that_changed_most_are_those_with_the_largest_change(tmp_path: Path) -> None:
    scores = [(0.5, 0.5), (0.0, 1.0), (1.0, 0.0), *[(0.5, 0.5 + n / 100) for n in range(1, 30)]]
    write_predictions(tmp_path, "task_0", [prediction(n, *both) for n, both in enumerate(scores)])
    (changes,) = changes_of(tmp_path, "task_0", task(), result(task()))
    assert (changes.rows_improved, changes.rows_worsened, changes.rows_equal) == (30, 1, 1)
    assert [one.row.id for one in changes.improved] == ["row-1", "row-31", "row-30", "row-29", "row-28"]
    assert [(one.row.id, one.before, one.after) for one in changes.worsened] == [("row-2", 1.0, 0.0)]
    assert len(changes.improved) == MOST_ROWS


def test_where_lower_is_better_a_row_that_rises_has_worsened(tmp_path: Path) -> None:
    given = prediction(0, 0, 0).model_copy(
        update={"scores": {"base": {"perplexity": 2.0}, "tuned": {"perplexity": 9.0}}}
    )
    write_predictions(tmp_path, "task_0", [given])
    falling = task(metrics=(PERPLEXITY,), differences=(difference(1, metric="perplexity"),))
    (changes,) = changes_of(tmp_path, "task_0", falling, result(falling))
    assert (changes.rows_improved, changes.rows_worsened) == (0, 1)


def test_a_long_row_is_cut_and_says_so() -> None:
    assert cut("a" * LONGEST) == "a" * LONGEST
    assert cut("a" * (LONGEST + 12_345)).endswith("… (12,345 more characters are not shown)")
    assert cut("\x1b[2J") == "\ufffd[2J"


def test_a_damaged_line_of_predictions_is_named(tmp_path: Path) -> None:
    write_predictions(tmp_path, "task_0", [prediction(0, 0, 1)])
    with predictions_file(tmp_path, "task_0").open("a", encoding="utf-8") as file:
        file.write('{"row": 3}\n')
    with pytest.raises(WorkError, match=r"task_0\.jsonl:2: no prediction"):
        changes_of(tmp_path, "task_0", task(), result(task()))


def test_markdown_has_a_line_for_each_model_and_no_cell_breaks_its_table() -> None:
    text = markdown_report(rich_result())
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert any("checkpoint-9" in line for line in lines)
    tables: list[set[int]] = []
    for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append(set())
            tables[-1].add(len(re.findall(r"(?<!\\)\|", line)))
    assert all(len(columns) == 1 for columns in tables) and len(tables) == 3
    assert text.startswith("## Evaluation\n")


def test_markdown_escapes_what_would_be_markup() -> None:
    assert escaped("a|b\n# c <d> *e* [f](g)") == r"a\|b \# c &lt;d\> \*e\* \[f\](g)"


def test_words_are_cut_by_value_and_numbers_into_ranges_of_about_as_many_rows() -> None:
    rows = [
        GenerationRow(
            id=str(n),
            group="g",
            slices={"source": f"source-{n % 3}", "tokens": float(n)},
            messages=(Turn(role="user", content="x" * n),),
            references=(),
        )
        for n in range(1, 101)
    ]
    parts = {key: [cut for cut in cuts(rows) if cut.key == key] for key in ("source", "tokens", LENGTH)}
    assert [one.value for one in parts["source"]] == ["source-0", "source-1", "source-2"]
    for key in ("tokens", LENGTH):
        assert [len(one.rows) for one in parts[key]] == [25, 25, 25, 25]
        assert parts[key][0].value == "1 to 25"
    for of_key in parts.values():
        assert sorted(place for one in of_key for place in one.rows) == list(range(100))


def test_rare_words_are_taken_together_and_a_key_that_divides_nothing_is_left_out() -> None:
    rows = [
        GenerationRow(id=str(n), group="g", slices={"word": f"w{n:02}", "same": "x"}, messages=(), references=())
        for n in range(30)
    ]
    found = cuts(rows)
    assert {one.key for one in found} == {"word"}
    assert len(found) == 13 and found[-1].value == OTHERS and len(found[-1].rows) == 18


def test_values_that_are_no_numbers_and_rows_without_the_key_are_in_no_part() -> None:
    slices: list[dict[str, str | float]] = [{"n": float("nan")}, {}, {"n": 1.0}, {"n": 2.0}]
    rows = [GenerationRow(id=str(n), group="g", slices=of, messages=(), references=()) for n, of in enumerate(slices)]
    assert [(one.value, one.rows) for one in cuts(rows)] == [("1", (2,)), ("2", (3,))]


def test_many_labels_are_cut_to_those_that_are_mixed_up_most() -> None:
    count = MOST_LABELS + 5
    matrix = [[0] * count for _ in range(count)]
    for place in range(count):
        matrix[place][place] = 50
        matrix[place][(place + 1) % count] = place
    classes = Classes(
        labels=tuple(f"label {n}" for n in range(count)),
        confusion={"base": tuple(tuple(line) for line in matrix)},
        calibration={},
        calibration_error={},
    )
    (one,) = confusions(classes)
    assert len(one.lines) == MOST_LABELS == len(one.lines[0].cells)
    assert "label 24" in one.labels and "label 1" not in one.labels
    assert one.note.startswith("5 more labels")
