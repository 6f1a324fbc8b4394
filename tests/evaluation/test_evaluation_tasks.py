"""Tasks: those that come with hfkit on rows in their datasets' own columns, one's own, and those that code makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfkit.data import bounded_templates
from hfkit.errors import RequestError
from hfkit.evaluation.answers import asked_of
from hfkit.evaluation.rows import ChoiceRow, GenerationRow, PreferenceRow, TextRow
from hfkit.evaluation.tasks import Task, load_task
from hfkit.recipe import CodeTask, EvaluateSection, OwnTask, UsedTask, load_recipe
from hfkit.stages import STAGES

if TYPE_CHECKING:
    from tests.conftest import RecipeWriter

SQUAD = [
    {
        "id": "1",
        "title": "Ada",
        "context": "Ada was born in London in 1815.",
        "question": "Where was Ada born?",
        "answers": {"text": ["London", "in London", "London"], "answer_start": [16, 13, 16]},
    },
    {
        "id": "2",
        "title": "Ada",
        "context": "Ada was born in London in 1815.",
        "question": "Where did Ada die?",
        "answers": {"text": [], "answer_start": []},
    },
]
GSM8K = [
    {"question": "2 apples and 3 more?", "answer": "2+3 = <<2+3=5>>5 apples.\n#### 5"},
    {"question": "A thousand and one?", "answer": "Count.\n#### 1,001"},
    {"question": "Nothing?", "answer": "no number"},
]
MMLU = [
    {"question": f"What is {n} + {n}?", "subject": subject, "choices": ["1", "2", str(2 * n), "0"], "answer": 2}
    for subject in ("elementary_mathematics", "abstract_algebra")
    for n in (2, 3)
]
HELLASWAG = [
    {
        "ind": 1,
        "activity_label": "Cooking",
        "ctx_a": "A man [header] stands [title] in a kitchen.",
        "ctx_b": "he",
        "ctx": "…",
        "endings": ["stirs a pot.", "flies [substeps] away.", "sings.", "sleeps."],
        "label": "0",
        "source_id": "video~1",
    },
    {"ind": 2, "activity_label": "Cooking", "ctx_a": "A man.", "ctx_b": "", "endings": ["a", "b"], "label": ""},
]
ARC = [
    {
        "id": "q1",
        "question": "What do plants need?",
        "answerKey": "2",
        "choices": {"text": ["stones", "light", "noise"], "label": ["1", "2", "3"]},
    },
    {
        "id": "q2",
        "answerKey": "C",
        "question": {
            "stem": "What is wet?",
            "choices": [
                {"text": "fire", "label": "A"},
                {"text": "sand", "label": "B"},
                {"text": "water", "label": "C"},
            ],
        },
    },
]
IFEVAL = [
    {
        "key": 1,
        "prompt": "Write with no commas and more than 5 words.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"num_words": 5, "relation": "at least"}],
    },
]


@pytest.fixture(autouse=True)
def _here(workplace: Path) -> None:
    """Paths of the tests are relative ones."""


def write(rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def used(use: str, rows: list[dict[str, Any]], **more: Any) -> Task:
    return load_task(UsedTask.model_validate({"use": use, "path": write(rows), **more}), [])


def own(rows: list[dict[str, Any]], **keys: Any) -> Task:
    return load_task(OwnTask.model_validate({"name": "mine", "path": write(rows), **keys}), [])


def generation(row: object) -> GenerationRow:
    assert isinstance(row, GenerationRow)
    return row


def choice(row: object) -> ChoiceRow:
    assert isinstance(row, ChoiceRow)
    return row


def test_squad() -> None:
    task = used("squad", SQUAD)
    first, second = map(generation, task.rows)
    assert first.references == ("London", "in London") and second.references == ("unanswerable",)
    assert first.messages[-1].content == "Ada was born in London in 1815.\n\nQuestion: Where was Ada born?"
    assert first.group == second.group == "Ada" and first.id == "rows.jsonl:1"
    assert (first.slices, second.slices) == ({"answerable": "yes"}, {"answerable": "no"})
    assert [metric.name for metric in task.metrics] == ["exact_match", "token_f1"]
    nested = {
        "data": [
            {
                "title": "Ada",
                "paragraphs": [
                    {
                        "context": SQUAD[0]["context"],
                        "qas": [
                            {
                                "id": "1",
                                "question": "Where was Ada born?",
                                "answers": [{"text": "London", "answer_start": 16}],
                            }
                        ],
                    }
                ],
            }
        ]
    }
    Path("squad.json").write_text(json.dumps(nested), encoding="utf-8")
    task = load_task(UsedTask(use="squad", path="squad.json"), [])
    assert generation(task.rows[0]).messages == first.messages


def test_gsm8k_with_solved_examples() -> None:
    task = used("gsm8k", GSM8K, few_shot=1)
    (row,) = map(generation, task.rows)
    assert row.references == ("1,001",)
    assert [turn.role for turn in row.messages] == ["system", "user", "assistant", "user"]
    assert row.messages[2].content == "2+3 = 5 apples.\nThe answer is 5."
    assert task.remarks == (
        "1 row was not asked: the column answer does not end with #### and a number, such as rows.jsonl:3: "
        "'no number'.",
    )
    assert [metric.name for metric in task.metrics] == ["numeric"] and task.max_new_tokens == 320


def test_mmlu_shows_examples_of_the_same_subject() -> None:
    task = used("mmlu", MMLU, few_shot=1)
    first, second = map(choice, task.rows)
    assert first.choices == ("A", "B", "C", "D") and first.correct == 2
    assert first.slices == {"subject": "elementary mathematics"} and second.slices == {"subject": "abstract algebra"}
    assert first.context == (
        "The following are multiple choice questions (with answers) about elementary mathematics.\n\n"
        "What is 2 + 2?\nA. 1\nB. 2\nC. 4\nD. 0\nAnswer: C\n\n"
        "What is 3 + 3?\nA. 1\nB. 2\nC. 6\nD. 0\nAnswer: "
    )
    chat = choice(used("mmlu", MMLU, chat=True, limit=1).rows[0])
    assert chat.context == "" and [turn.role for turn in chat.messages] == ["system", "user"]
    assert chat.messages[1].content.endswith("D. 0\nAnswer:")


def test_hellaswag() -> None:
    task = used("hellaswag", HELLASWAG)
    (row,) = map(choice, task.rows)
    assert row.context == "Cooking: A man stands. in a kitchen. He "
    assert row.choices == ("stirs a pot.", "flies away.", "sings.", "sleeps.") and row.correct == 0
    assert row.group == "video~1" and "the test split has no labels" in task.remarks[0]


def test_arc_in_both_layouts() -> None:
    first, second = map(choice, used("arc", ARC).rows)
    assert (first.context, first.choices[first.correct]) == ("Question: What do plants need?\nAnswer: ", "light")
    assert (second.context, second.choices[second.correct]) == ("Question: What is wet?\nAnswer: ", "water")


@pytest.mark.parametrize("key", ["3", 3])
def test_arc_looks_for_a_label_before_a_text(key: str | int) -> None:
    """Choices that are numbers themselves: the answer key 3 is the third label, whose text is 4."""
    row = {"question": "2 + 2?", "answerKey": key, "choices": {"text": list("2346"), "label": list("1234")}}
    (asked,) = map(choice, used("arc", [row]).rows)
    assert (asked.correct, asked.choices[asked.correct]) == (2, "4")


def test_half_of_a_surrogate_pair_is_counted_and_not_asked() -> None:
    whole = {"question": "2 + 2?", "answer": "#### 4"}
    task = used("gsm8k", [{**whole, "question": "2 \ud800 2?"}, whole])
    assert len(task.rows) == 1 and asked_of(task.rows[0])
    assert any("half of a surrogate pair" in remark and "rows.jsonl:1" in remark for remark in task.remarks)


def test_ifeval_is_scored_by_its_instructions() -> None:
    from hfkit.evaluation.rows import Generation

    task = used("ifeval", IFEVAL)
    said = ("One two three four five six", "One, two three four five six", "One two")
    scores = {
        metric.name: [metric.rows(task.rows, [Generation(text=text, stopped=True)])[0] for text in said]
        for metric in task.metrics
    }
    assert [numbers[0] for numbers in scores["constraints"] if numbers] == [1.0, 0.0, 0.0]
    each = next(metric for metric in task.metrics if metric.name == "constraints_each")
    import numpy as np

    assert [float(each.value(np.asarray(numbers))) for numbers in scores["constraints_each"]] == [1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("use", "rows", "message"),
    [
        ("squad", [{"question": "?"}], "squad: no row can be used; the column answers is missing: rows.jsonl:1: there"),
        ("mmlu", [{**MMLU[0], "answer": 7}], "the column answer names none of the 4 choices: rows.jsonl:1: 7"),
        ("arc", [{**ARC[0], "answerKey": "9"}], "the column answerKey names none of the 3 choices: rows.jsonl:1: '9'"),
        (
            "arc",
            [{**ARC[0], "choices": {"text": ["stones", "light"], "label": ["1", "2", "3"]}}],
            "the choices have not one label each: rows.jsonl:1: 2 choices, 3 labels",
        ),
        ("gsm8k", [{"question": " ", "answer": "#### 1"}], "the column question is empty: rows.jsonl:1"),
        ("ifeval", [{**IFEVAL[0], "kwargs": []}], "the column kwargs holds no mapping for each instruction"),
        ("hellaswag", [{**HELLASWAG[0], "endings": ["one"]}], "the column endings holds 1 of at least 2 texts"),
    ],
)
def test_rows_in_another_layout_are_named(use: str, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        used(use, rows)
    assert message in str(caught.value)


def test_the_limit_counts_asked_rows_and_examples_must_leave_one() -> None:
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(9)]
    assert [row.id for row in used("gsm8k", rows, limit=3, few_shot=2).rows] == [f"rows.jsonl:{n}" for n in (3, 4, 5)]
    with pytest.raises(RequestError, match="few_shot: all 9 rows are shown as examples, none is left"):
        used("gsm8k", rows, few_shot=9)
    with pytest.raises(RequestError, match=r"missing\.jsonl"):
        load_task(UsedTask(use="gsm8k", path="missing.jsonl"), [])


def test_a_prompt_of_ones_own() -> None:
    rows = [{"q": f"What is {n}?", "a": [str(n), "x"], "kind": "odd" if n % 2 else "even", "doc": "d"} for n in (1, 2)]
    task = own(
        rows,
        kind="generation",
        prompt="Answer: {{ q }}",
        system="About {{ kind }} numbers.",
        references="a",
        slices=["kind"],
        group="doc",
        facts=["a"],
        metrics=["numeric", {"metric": "regex", "settings": {"pattern": "x"}}],
    )
    first = generation(task.rows[0])
    assert [turn.content for turn in first.messages] == ["About odd numbers.", "Answer: What is 1?"]
    assert (first.references, first.slices, first.group) == (("1", "x"), {"kind": "odd"}, "d")
    assert first.facts == {"a": ["1", "x"]} and [metric.name for metric in task.metrics] == ["numeric", "regex"]


def test_choices_and_labels_of_ones_own() -> None:
    rows = [{"t": f"text {n}", "options": ["yes", "no"], "right": right} for n, right in enumerate([0, "B", "no"])]
    task = own(rows, kind="choice", prompt="{{ t }}? ", choices="options", correct="right")
    assert [choice(row).correct for row in task.rows] == [0, 1, 1] and task.labels == ()
    labelled = [{"t": f"text {n}", "label": label} for n, label in enumerate(["good", "bad", "good"])]
    task = own(labelled, kind="classification", prompt="{{ t }}\nIt is ", correct="label")
    assert task.labels == ("bad", "good") and [choice(row).correct for row in task.rows] == [1, 0, 1]
    assert [metric.name for metric in task.metrics] == ["accuracy", "macro_f1"]
    ordered = own(labelled, kind="classification", prompt="{{ t }} ", correct="label", choices=["good", "bad"])
    assert ordered.labels == ("good", "bad") and choice(ordered.rows[0]).correct == 0
    # Rows that are labelled texts, as training reads them, need no prompt.
    plain = own([{"text": row["t"], "label": row["label"]} for row in labelled], kind="classification")
    assert plain.labels == ("bad", "good") and choice(plain.rows[0]).context == "text 0\nLabel: "


def test_texts_preferences_and_conversations_of_ones_own() -> None:
    task = own([{"body": "Some text."}, {"body": ""}], kind="text", text="body")
    assert [row.text for row in task.rows if isinstance(row, TextRow)] == ["Some text."]
    assert "the column body is empty" in task.remarks[0]
    pairs = [{"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}]
    for task in (
        own(pairs, kind="preference"),
        own(pairs, kind="preference", prompt="{{ prompt }}", chosen="chosen", rejected="rejected"),
    ):
        (row,) = task.rows
        assert isinstance(row, PreferenceRow) and (row.chosen, row.rejected) == ("Hello!", "Go away.")
        assert [turn.content for turn in row.messages] == ["Hi"]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    asked = {"question": "What is old?", "answers": [{"text": "Oslo", "answer_start": 0}]}
    article = {"title": "Oslo", "paragraphs": [{"context": "Oslo is old.", "qas": [asked, asked]}]}
    of_article = own([article], kind="generation")
    assert [row.id for row in of_article.rows] == ["rows.jsonl:1/0", "rows.jsonl:1/1"]
    task = own([{"messages": turns, "topic": "greeting"}], kind="generation", slices=["topic"])
    (said,) = map(generation, task.rows)
    assert said.references == ("Hello!",) and said.slices == {"topic": "greeting"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt": "{{ q"}, "mine: prompt: line 1: "),
        ({"prompt": "{{ missing }}"}, "the template prompt cannot be filled in: rows.jsonl:1: 'missing' is undefined"),
        ({"prompt": "{{ ''.__class__.__mro__ }}"}, "the template prompt cannot be filled in"),
        ({"prompt": "{{ q }}", "metrics": [{"metric": "regex", "settings": {"pattern": "("}}]}, "mine: metrics: "),
        ({"prompt": "{{ q }}", "references": "b"}, "the column b is missing: rows.jsonl:1: there are q, a"),
    ],
)
def test_what_is_wrong_with_a_task_is_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        own([{"q": "?", "a": "!"}], **{"kind": "generation", "references": "a", **keys})
    assert message in str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("key", ["prompt", "system"])
def test_a_template_without_end_ends_the_reading_of_a_task(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setattr(bounded_templates, "MAX_STEPS", 1000)
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    keys = {"kind": "generation", "references": "a", "prompt": "{{ q }}", key: loops + "{{ q }}"}
    with pytest.raises(RequestError, match=f"evaluate.tasks: mine: {key}: it does not come to an end: over 1000 steps"):
        own([{"q": "?", "a": "!"}] * 3, **keys)


def test_a_template_of_ones_own_may_do_what_jinja_may() -> None:
    prompt = (
        "{% macro say(x) %}<{{ x }}>{% endmacro %}{% set _ = xs.append(q ~ 'b') %}"
        "{% for x in xs if x %}{{ say(x) }}{{ loop.index + 1 }}{% else %}none{% endfor %}{{ '%s' % q * 2 }}\n"
    )
    task = own([{"q": "?", "a": "!", "xs": ["a", "", "c"]}], kind="generation", references="a", prompt=prompt)
    (row,) = map(generation, task.rows)
    assert row.messages[-1].content == "<a>2<c>3<?b>4??\n"


CODE = """
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.rows import TextRow
from hfkit.evaluation.tasks import Task

def make_task(count=2, twice=False):
    print("this must not be in the result")
    rows = tuple(TextRow(id="same" if twice else str(n), group="g", text="x" * n) for n in range(1, count + 1))
    return Task(name="own", title="t", kind="text", rows=rows, metrics=(metric_named("perplexity"),))

def broken():
    raise SystemExit("no")

def other():
    return [1]

def half():
    return Task(name="own", title="t", kind="text", rows=(TextRow(id="r1", group="g", text="x\\ud800"),), metrics=())
"""


def coded(function: str = "make_task", *, allow_code: bool = True, **keys: Any) -> Task:
    Path("my_task.py").write_text(CODE, encoding="utf-8")
    entry = CodeTask.model_validate({"name": "coded", "file": f"my_task.py:{function}", **keys})
    return load_task(entry, [], allow_code=allow_code)


def test_code_makes_a_task_where_the_recipe_allows_it(capfd: pytest.CaptureFixture[str]) -> None:
    task = coded(arguments={"count": 5}, limit=3)
    assert task.name == "coded" and [row.id for row in task.rows] == ["1", "2", "3"]
    assert capfd.readouterr().out == ""
    for function, keys, message in [
        ("make_task", {"arguments": {"nope": 1}}, "TypeError"),
        ("make_task", {"arguments": {"twice": True}}, "two rows have the same id"),
        ("broken", {}, "SystemExit: no"),
        ("other", {}, "gave a list; let it return a hfkit.evaluation.tasks.Task"),
        ("nothing", {}, "my_task.py has no function nothing"),
        ("half", {}, "the row 'r1' holds what cannot be kept as JSON"),
    ]:
        with pytest.raises(RequestError) as caught:
            coded(function, **keys)
        assert message in str(caught.value)
    Path("my_task.py").unlink()
    with pytest.raises(RequestError, match="add the line allow_code: true"):
        coded(allow_code=False)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"use": "mmlu"}, "come from a path or from the hub"),
        ({"use": "mmlu", "path": "a", "hub": "b/c"}, "come from a path or from the hub"),
        ({"use": "mmlu", "path": "a", "split": "test"}, "belongs to a dataset of the Hub"),
        ({"kind": "generation", "name": "a", "path": "x", "prompt": "p"}, "with a prompt, generation needs it"),
        ({"kind": "text", "name": "a", "path": "x", "chosen": "p"}, "says nothing for a task of kind text"),
        ({"kind": "text", "name": "a", "path": "x", "metrics": ["accuracy"]}, "does not score a task of kind text"),
        (
            {"kind": "text", "name": "a", "path": "x", "metrics": ["perplexty"]},
            "unknown metric perplexty; did you mean",
        ),
        ({"kind": "generation", "name": "a", "path": "x", "references": "r"}, "needs a prompt"),
        ({"use": "gsm8k", "path": "a", "chat": False}, "a reply is asked for through the chat template"),
    ],
)
def test_tasks_that_a_recipe_refuses(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        EvaluateSection.model_validate({"tasks": [task]})
    assert message in str(caught.value)


def test_the_stage_depends_on_the_file_of_a_schema(tiny_recipe: RecipeWriter) -> None:
    schema = Path("schema.json")
    schema.write_text('{"type": "object"}', encoding="utf-8")
    task = {
        "kind": "generation",
        "name": "forms",
        "path": write([{"q": "a", "r": "{}"}]),
        "prompt": "{{ q }}",
        "references": "r",
        "metrics": [{"metric": "json_schema", "settings": {"schema": "schema.json"}}],
    }
    recipe = load_recipe(tiny_recipe(evaluate={"tasks": [task]}), ())
    before = STAGES["evaluate"].reads(recipe)
    assert STAGES["evaluate"].reads(recipe) == before
    schema.write_text('{"type": "array"}', encoding="utf-8")
    assert STAGES["evaluate"].reads(recipe) != before
    schema.unlink()
    assert STAGES["evaluate"].reads(recipe) != before
