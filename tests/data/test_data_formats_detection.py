"""How a format is told from the first rows, and what is said where it is not certain."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hfkit.data.conversation import Conversation
from hfkit.data.examples import Preference
from hfkit.data.formats import FORMATS, ChosenFormat, choose_format
from hfkit.errors import RequestError
from hfkit.recipe.data import FormatName

KEY = "data.sources.0"
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHARE = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]

CERTAIN: list[tuple[FormatName, dict[str, Any]]] = [
    ("messages", {"messages": TURNS}),
    ("messages", {"conversations": TURNS, "id": "1"}),
    ("messages", {"prompt": "Hi", "prompt_id": "1", "messages": TURNS}),
    ("messages", {"messages": '[{"role": "user", "content": "Hi"}]', "tools": "[]"}),
    ("sharegpt", {"conversations": SHARE}),
    ("sharegpt", {"messages": SHARE, "system": ""}),
    ("alpaca", {"instruction": "a", "input": "b", "output": "c"}),
    ("alpaca", {"instruction": "a", "output": "c"}),
    ("alpaca", {"instruction": "a", "context": "", "response": "c", "category": "x"}),
    ("prompt_completion", {"prompt": "a", "completion": "b"}),
    ("prompt_completion", {"prompt": TURNS[:1], "completion": TURNS[1:]}),
    ("prompt_completion", {"id": "1", "system_prompt": "", "question": "a", "response": "b"}),
    ("prompt_completion", {"input": "a", "output": "b"}),
    ("prompt_completion", {"article": "a", "highlights": "b", "id": "1"}),
    ("prompt_completion", {"text": "a", "summary": "b"}),
    ("text", {"text": "a", "meta": {"x": 1}}),
    ("preference", {"prompt": "a", "chosen": "b", "rejected": "c"}),
    ("preference", {"chosen": TURNS, "rejected": TURNS}),
    ("preference", {"conversations": SHARE[:1], "chosen": SHARE[1], "rejected": SHARE[1]}),
    ("rated_reply", {"prompt": "a", "completion": "b", "label": True}),
    ("rated_reply", {"prompt": "a", "completion": "b", "label": "False"}),
    ("labelled_text", {"text": "a", "label": 1}),
    ("labelled_text", {"text": "a", "label": "spam", "label_text": "x"}),
    ("labelled_text", {"sentence": "a", "label": 1, "idx": 3}),
    ("labelled_text", {"premise": "a", "hypothesis": "b", "label": 1}),
    ("labelled_text", {"sentence1": "a", "sentence2": "b", "label": 0}),
    ("text_pair", {"sentence1": "a", "sentence2": "b", "score": 1}),
    ("text_pair", {"sentence1": "a", "sentence2": "b", "label": 3.8}),
    ("text_pair", {"anchor": "a", "positive": "b"}),
    ("retrieval", {"anchor": "a", "positive": "b", "negative": "c"}),
    ("retrieval", {"query": "a", "positives": ["b"]}),
    ("retrieval", {"query": "a", "pos": ["b"], "neg": ["c"]}),
    ("question_answer", {"question": "a", "answer": "b"}),
    ("question_answer", {"id": "1", "title": "t", "context": "b", "question": "a", "answers": {"text": ["b"]}}),
    ("question_answer", {"context": "b", "question": "a", "answers": {"text": [], "answer_start": []}}),
]


def chosen(rows: list[dict[str, Any]], **fields: str) -> ChosenFormat:
    return choose_format(rows, "auto", fields, KEY)


def refused(rows: list[Mapping[str, Any]], format: FormatName | None = None, **fields: str) -> str:
    with pytest.raises(RequestError) as raised:
        choose_format(rows, "auto" if format is None else format, fields, KEY)
    return str(raised.value)


@pytest.mark.parametrize(("format", "row"), CERTAIN)
def test_common_rows_are_known(format: FormatName, row: dict[str, Any]) -> None:
    found = chosen([row])

    assert found.name == format
    assert found.why.startswith(f"{format}, told from the column")


@pytest.mark.parametrize(("format", "row"), CERTAIN)
def test_neither_order_nor_case_of_columns_matters(format: FormatName, row: dict[str, Any]) -> None:
    names = list(row)
    random.Random(1).shuffle(names)

    found = chosen([{name.title(): row[name] for name in names}])

    assert found.name == format
    assert set(found.columns.values()) <= {name.title() for name in names}


@pytest.mark.parametrize(
    ("row", "candidates"),
    [
        ({"prompt": "a", "completion": "b", "instruction": "c", "output": "d"}, ["prompt_completion", "alpaca"]),
        ({"problem": "a", "solution": "b", "messages": TURNS}, ["messages", "prompt_completion"]),
        ({"text": "a", "category": "x"}, ["text", "labelled_text"]),
        ({"messages": TURNS, "prompt": "a", "chosen": "b", "rejected": "c"}, ["messages", "preference"]),
        ({"question": "a", "answer": "b", "response": "c"}, ["prompt_completion", "question_answer"]),
    ],
)
def test_several_formats_that_fit_are_an_error(row: dict[str, Any], candidates: list[str]) -> None:
    said = refused([row])

    assert said.startswith("data.sources.0.format: the rows fit ")
    for name in candidates:
        assert f"format: {name}" in said
        assert f"{name} (" in said


def test_the_line_that_an_error_names_settles_it() -> None:
    row = {"prompt": "a", "completion": "b", "instruction": "c", "output": "d"}
    assert "write format: prompt_completion or format: alpaca" in refused([row])

    assert choose_format([row], "alpaca", {}, KEY).columns == {"instruction": "instruction", "output": "output"}


def test_two_columns_for_one_field_are_an_error_with_both_lines() -> None:
    said = refused([{"question": "a", "input": "b", "output": "c"}])

    assert "prompt of prompt_completion could be question or input" in said
    assert "write fields: {prompt: question} or fields: {prompt: input}" in said


def test_nothing_that_fits_names_columns_formats_and_the_remedy() -> None:
    said = refused([{"promt": "a", "completion": "b"}])

    assert "no format fits the columns promt, completion" in said
    assert "prompt_completion: lacks prompt (text or a list of turns)" in said
    assert "write format: prompt_completion and fields: {prompt: promt}" in said


def test_the_remedy_of_an_error_works() -> None:
    row = {"q": "a", "a": "b"}
    assert "write format: prompt_completion and fields: {prompt: q, completion: a}" in refused([row])

    found = choose_format([row], "prompt_completion", {"prompt": "q", "completion": "a"}, KEY)

    made = found.convert(row, id="f:1")
    assert isinstance(made, Conversation)
    assert [turn.content for turn in made.messages] == ["a", "b"]


def test_values_of_another_shape_are_shown() -> None:
    assert "needs a list of turns with role and content in messages, which holds the text 'hello'" in refused(
        [{"messages": "hello"}]
    )


def test_a_stated_format_with_a_column_missing_names_the_nearest() -> None:
    said = refused([{"instuction": "a", "output": "b"}], "alpaca")

    assert said.startswith("data.sources.0.format: alpaca needs instruction")
    assert "write format: alpaca and fields: {instruction: instuction}" in said


def test_fields_that_are_not_known_and_columns_that_are_not_there() -> None:
    row = {"question": "a", "completion": "b"}
    assert refused([row], "prompt_completion", promt="question") == (
        "data.sources.0.fields.promt: prompt_completion has no such field; did you mean prompt?"
    )
    assert refused([row], prompt="qestion") == (
        "data.sources.0.fields.prompt: the rows have no column qestion; did you mean question?"
    )
    assert "no format has all of the fields label and history" in refused([row], label="question", history="completion")


def test_mapped_fields_rule_out_other_formats() -> None:
    row = {"prompt": "a", "completion": "b", "inst": "c", "output": "d"}

    assert chosen([row], instruction="inst").name == "alpaca"


def test_fields_reach_into_nested_values() -> None:
    row = {"data": {"question": "a", "turns": [{"text": "b"}]}}
    found = chosen([row], prompt="data.question", completion="data.turns.0.text")

    made = found.convert(row, id="f:1")

    assert isinstance(made, Conversation)
    assert [turn.content for turn in made.messages] == ["a", "b"]


def test_a_column_with_dots_in_its_name_is_taken_by_its_name() -> None:
    row = {"data.q": "a", "data": {"q": "x"}, "completion": "b"}

    made = chosen([row], prompt="data.q").convert(row, id="f:1")

    assert isinstance(made, Conversation)
    assert made.messages[0].content == "a"


def test_a_column_that_looks_misspelt_is_noted() -> None:
    found = chosen([{"messages": TURNS, "sytem": "x", "topic": "y"}])

    assert found.notes == (
        "data.sources.0: the column sytem is not used; if it is system, write fields: {system: sytem}",
    )


def test_a_few_faulty_rows_do_not_hide_the_format() -> None:
    good = [{"prompt": "a", "completion": "b"}] * 18

    assert chosen([*good, {"prompt": 5, "completion": "b"}, {"prompt": None}]).name == "prompt_completion"


def test_columns_that_few_rows_fill_are_no_format() -> None:
    rows = [{"messages": TURNS}] * 9 + [{"messages": TURNS, "prompt": "a", "completion": "b"}]

    assert chosen(rows).name == "messages"


def test_two_shapes_in_one_source_are_an_error() -> None:
    assert "no format fits" in refused([{"messages": TURNS}, {"messages": SHARE}])
    assert "prompt_completion" in refused([{"messages": TURNS}, {"prompt": "a", "completion": "b"}])


def test_columns_that_only_later_rows_have_are_read() -> None:
    found = chosen([{"instruction": "a", "output": "b"}])

    made = found.convert({"instruction": "a", "input": "c", "output": "b"}, id="f:201")

    assert isinstance(made, Conversation)
    assert made.messages[0].content == "a\n\nc"


def test_only_the_first_rows_are_looked_at() -> None:
    rows = [{"text": "a"}] * 200 + [{"prompt": "a", "completion": "b"}] * 10_000

    assert chosen(rows).name == "text"


def test_a_stated_format_is_taken_whatever_else_would_fit() -> None:
    row = {"chosen": "b", "rejected": "c", "prompt": "a", "messages": TURNS}

    found = choose_format([row], "preference", {}, KEY)

    assert found.why == "preference, as the recipe says, from the columns chosen, rejected and prompt"
    assert isinstance(found.convert(row, id="f:1"), Preference)


@pytest.mark.parametrize("rows", [[], [{}], [{}, {}]])
def test_no_rows_and_no_columns_are_an_error(rows: list[Mapping[str, Any]]) -> None:
    assert refused(rows).startswith("data.sources.0: ")


def test_the_rows_that_the_handbook_shows_are_of_the_formats_it_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data-formats.md").read_text(encoding="utf-8")
    shown = []
    for section in page.split("\n## ")[1:]:
        for block in re.findall(r"```json\n(.+?)```", section, re.DOTALL):
            named = re.search(r"\n\nAn? `(\w+)` row holds", section)
            assert named is not None, section
            start = 0
            while start < len(block.rstrip()):
                row, end = json.JSONDecoder().raw_decode(block, start)
                start = end + 1
                found = chosen([row])
                assert found.name == named[1]
                found.convert(row, id="f:1")
                shown.append(found.name)
    assert set(shown) == set(FORMATS)
    for name in FORMATS:
        assert f"| `{name}` |" in page


def test_columns_that_the_recipe_maps_are_no_guess() -> None:
    """`question` and `answer` by themselves are a question_answer; mapped otherwise they are not."""
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(9)]
    assert choose_format(rows, "auto", {}, "data.sources.0").name == "question_answer"
    chosen = choose_format(rows, "auto", {"prompt": "question", "completion": "answer"}, "data.sources.0")
    assert chosen.name == "prompt_completion"
