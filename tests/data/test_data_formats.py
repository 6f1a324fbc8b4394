"""Rows of every format, and the examples that they become."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from hfkit.data.conversation import Conversation, Grounding, Turn
from hfkit.data.examples import (
    Example,
    LabelledText,
    PlainText,
    Preference,
    RatedReply,
    RetrievalExample,
    TextPair,
)
from hfkit.data.formats import choose_format
from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.quality import UNICODE, examine
from hfkit.recipe.data import FormatName, QualitySection
from rag.answer import ABSTENTION, Passage, cited_answer, grounded_messages


def convert(
    row: Mapping[str, Any], format: FormatName, *, system: str | None = None, ledger: Ledger | None = None
) -> Example:
    return choose_format([row], format, {}, "data.sources.0").convert(row, id="f:1", system=system, ledger=ledger)


def conversation(row: Mapping[str, Any], format: FormatName, system: str | None = None) -> Conversation:
    example = convert(row, format, system=system)
    assert isinstance(example, Conversation)
    return example


def said(example: Conversation) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in example.messages]


def fault(row: Mapping[str, Any], format: FormatName) -> RowFault:
    with pytest.raises(RowFault) as raised:
        convert(row, format)
    return raised.value


HELLO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
ASKED = [("user", "Hi"), ("assistant", "Hello")]


def test_messages_keep_turns_as_they_are() -> None:
    row = {"messages": [{"role": "system", "content": " Be kind. "}, *HELLO, *HELLO]}

    assert said(conversation(row, "messages")) == [("system", " Be kind. "), *ASKED, *ASKED]


@pytest.mark.parametrize(
    ("written", "role"),
    [("User", "user"), ("human", "user"), ("developer", "developer"), ("TOOL", "tool"), ("function", "tool")],
)
def test_roles_are_known_by_their_usual_names(written: str, role: str) -> None:
    row = {"messages": [{"role": written, "content": "x"}, HELLO[1]]}

    assert conversation(row, "messages").messages[0].role == role


@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', {"city": "Oslo"}])
def test_tool_calls_have_their_arguments_as_an_object(arguments: object) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    schema = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
    row = {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "Rain", "tool_call_id": "c1", "name": "weather"},
            {"role": "assistant", "content": "It rains."},
        ],
        "tools": [schema],
    }

    made = conversation(row, "messages")

    assert made.messages[1].content == ""
    assert made.messages[1].tool_calls[0].function.arguments == {"city": "Oslo"}
    assert (made.messages[2].tool_call_id, made.messages[2].name) == ("c1", "weather")
    assert made.tools == ({"type": "function", "function": schema},)


def test_the_old_function_call_of_openai_is_a_tool_call() -> None:
    called = {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": ""}}
    row = {"messages": [HELLO[0], called, {"role": "function", "name": "now", "content": "12:00"}, HELLO[1]]}

    made = conversation(row, "messages")

    assert [call.function.name for call in made.messages[1].tool_calls] == ["now"]
    assert made.messages[2].role == "tool"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_apart_from_what_is_said(key: str) -> None:
    row = {"messages": [HELLO[0], {"role": "assistant", "content": "4", key: "2 + 2"}]}

    assert conversation(row, "messages").messages[1].reasoning_content == "2 + 2"


def test_parts_of_text_are_joined_and_thoughts_among_them_kept() -> None:
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    row = {"messages": [HELLO[0], {"role": "assistant", "content": parts}]}

    last = conversation(row, "messages").messages[1]

    assert (last.content, last.reasoning_content) == ("Hello", "Hm.")


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}, {"weight": 0.0}, {"train": False, "weight": 0}])
def test_turns_can_be_left_out_of_training(mark: Mapping[str, object]) -> None:
    row = {"messages": [HELLO[0], {**HELLO[1], **mark}, *HELLO]}

    assert [turn.is_trained for turn in conversation(row, "messages").messages] == [False, False, False, True]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "wizard", "content": "x"}, "an unknown role"),
        ({"content": "x"}, "a turn without a role"),
        ({"role": "user", "content": None}, "a turn without content"),
        ({"role": "user"}, "a turn without content"),
        ({"role": "user", "content": 7}, "content that is not text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "content that is not text"),
        ({"role": "user", "content": "x", "images": ["a.png"]}, "content that is not text"),
        ({"role": "user", "content": "x", "weight": 0.5}, "a turn whose train or weight is neither 0 nor 1"),
        (
            {"role": "user", "content": "x", "tool_calls": [{"name": "f"}]},
            "a tool call by somebody who is not the assistant",
        ),
        ({"role": "user", "content": "x", "thinking": "y"}, "reasoning by somebody who is not the assistant"),
        ({"role": "user", "content": "x", "value": "y"}, "a turn that says one thing twice"),
        ("hello", "a turn that is not an object"),
    ],
)
def test_turns_that_lose_something_are_faults(turn: object, reason: str) -> None:
    assert fault({"messages": [turn, HELLO[1]]}, "messages").reason == reason


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"name": "f", "arguments": "[1]"}, "tool call arguments that are not an object"),
        ({"name": "f", "arguments": "{broken"}, "text that should be JSON and is not"),
        ({"name": "f", "arguments": '{"x": NaN}'}, "text that should be JSON and is not"),
        ({"name": "", "arguments": {}}, "a tool call without a name"),
        ({"type": "web_search", "query": "x"}, "a tool call that is not of a function"),
        ({"name": "f", "arguments": {}, "signature": "x"}, "a tool call with a key that is not known"),
        ("f", "a tool call that cannot be read"),
        ({"name": "f", "arguments": {"x": float("nan")}}, "a number that JSON cannot write"),
        ({"name": "f", "arguments": json.loads('{"x":' * 80 + "1" + "}" * 80)}, "values nested too deep"),
    ],
)
def test_tool_calls_that_cannot_be_read_are_faults(call: object, reason: str) -> None:
    row = {"messages": [HELLO[0], {"role": "assistant", "content": "", "tool_calls": [call]}]}

    assert fault(row, "messages").reason == reason


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "a conversation without turns"),
        ([HELLO[0]], "a conversation without a turn of the assistant"),
        ([*HELLO, HELLO[0]], "a conversation that does not end with the assistant"),
        ([HELLO[0], {**HELLO[1], "train": False}], "a conversation of which no turn is trained"),
    ],
)
def test_conversations_that_teach_nothing_are_faults(messages: list[object], reason: str) -> None:
    assert fault({"messages": messages}, "messages").reason == reason


def test_keys_that_say_nothing_of_the_text_are_noted_and_nulls_are_not() -> None:
    ledger = Ledger()
    row = {"messages": [{**HELLO[0], "timestamp": 3, "images": None, "tool_calls": []}, HELLO[1]]}

    convert(row, "messages", ledger=ledger)

    assert [(account.reason, account.rows) for account in ledger.noted] == [
        ("messages with the key 'timestamp', which is not used", 1)
    ]
    assert ledger.noted[0].first == ("f:1: messages.0",)


def test_a_system_prompt_is_put_in_front_where_there_is_none() -> None:
    own = {"role": "system", "content": "Own"}
    assert said(conversation({"messages": HELLO}, "messages", "Kind"))[0] == ("system", "Kind")
    assert said(conversation({"messages": [own, *HELLO]}, "messages", "Kind"))[0] == ("system", "Own")
    assert said(conversation({"messages": HELLO, "system": "Row"}, "messages", "Kind"))[0] == ("system", "Row")
    blank = {"role": "system", "content": " "}
    assert said(conversation({"messages": [blank, *HELLO]}, "messages", "Kind")) == [("system", "Kind"), *ASKED]


def test_two_system_prompts_in_one_row_are_a_fault() -> None:
    row = {"messages": [{"role": "system", "content": "One"}, *HELLO], "system": "Two"}

    assert fault(row, "messages").reason == "two system prompts"


def test_messages_may_be_json_text_as_tables_hold_them() -> None:
    row = {"messages": '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'}

    assert said(conversation(row, "messages")) == ASKED


def test_sharegpt_with_calls_of_tools_as_turns() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "gpt", "value": "Let me see."},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
            {"from": "function_call", "value": '{"name": "time", "arguments": "{}"}'},
            {"from": "observation", "value": "Rain"},
            {"from": "gpt", "value": "It rains."},
        ],
        "system": "Be brief.",
        "tools": '[{"name": "weather"}]',
    }

    made = conversation(row, "sharegpt")

    # What the assistant says and calls before anybody answers is one turn.
    assert [turn.role for turn in made.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert made.messages[2].content == "Let me see."
    assert [call.function.name for call in made.messages[2].tool_calls] == ["weather", "time"]
    assert made.tools == ({"type": "function", "function": {"name": "weather"}},)


def test_alpaca_puts_the_input_below_the_instruction() -> None:
    row = {"instruction": "Translate.", "input": "Good day", "output": "Bonjour", "history": [["a", "b"]]}
    assert said(conversation(row, "alpaca")) == [
        ("user", "a"),
        ("assistant", "b"),
        ("user", "Translate.\n\nGood day"),
        ("assistant", "Bonjour"),
    ]
    empty = {"instruction": "Say hi.", "input": " ", "output": "hi", "history": None}
    assert said(conversation(empty, "alpaca")) == [("user", "Say hi."), ("assistant", "hi")]


def test_an_alpaca_history_that_is_no_pairs_is_a_fault() -> None:
    row = {"instruction": "x", "output": "y", "history": [["a", "b", "c"]]}

    assert fault(row, "alpaca").reason == "a history that is not a list of pairs"


def test_prompt_and_completion_as_text_and_as_messages() -> None:
    assert said(conversation({"prompt": "Hi", "completion": "Hello"}, "prompt_completion")) == ASKED
    row = {"prompt": [*HELLO, HELLO[0]], "completion": [{"role": "assistant", "content": "Again"}]}
    made = conversation(row, "prompt_completion")
    assert said(made) == [*ASKED, ("user", "Hi"), ("assistant", "Again")]
    # The earlier reply belongs to the prompt.
    assert [turn.is_trained for turn in made.messages] == [False, False, False, True]


def test_a_completion_by_somebody_else_is_a_fault() -> None:
    row = {"prompt": "Hi", "completion": [HELLO[0], HELLO[1]]}

    assert fault(row, "prompt_completion").reason == "a completion that does not begin with the assistant"


def test_text_is_taken_as_it_is() -> None:
    assert convert({"text": " a \n"}, "text") == PlainText(id="f:1", document="f:1", text=" a \n")
    assert fault({"text": 5}, "text").reason == "a value that is not text"
    assert fault({"text": None}, "text").reason == "a value is missing"


def test_preference_of_texts() -> None:
    made = convert({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}, "preference")

    assert isinstance(made, Preference)
    assert (made.prompt, made.chosen, made.rejected) == (
        (Turn(role="user", content="Hi"),),
        (Turn(role="assistant", content="Hello"),),
        (Turn(role="assistant", content="No"),),
    )


def test_preference_is_cut_where_whole_conversations_part() -> None:
    no = {"role": "assistant", "content": "No"}
    bare = {"chosen": [HELLO[0], HELLO[1]], "rejected": [HELLO[0], no]}
    for row in (bare, {**bare, "prompt": "Hi"}, {**bare, "prompt": [HELLO[0]]}):
        made = convert(row, "preference")
        assert isinstance(made, Preference)
        assert [turn.content for turn in (*made.prompt, *made.chosen, *made.rejected)] == ["Hi", "Hello", "No"]
    assert (
        fault({**bare, "prompt": "Bye"}, "preference").reason == "a prompt that is not the one in chosen and rejected"
    )


def test_preference_as_one_text_with_marked_speakers() -> None:
    talk = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Sing\n\nAssistant:"
    made = convert({"chosen": f"{talk} La", "rejected": f"{talk} No"}, "preference")

    assert isinstance(made, Preference)
    assert [turn.content for turn in made.prompt] == ["Hi", "Yes?", "Sing"]
    assert (made.chosen[0].content, made.rejected[0].content) == ("La", "No")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Hi", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"chosen": "a", "rejected": "b"}, "replies without a prompt"),
        ({"prompt": "Hi", "chosen": [HELLO[0]], "rejected": "b"}, "a reply that is not the assistant's"),
        ({"prompt": "Hi", "chosen": None, "rejected": "b"}, "a value is missing"),
    ],
)
def test_preferences_that_prefer_nothing_are_faults(row: Mapping[str, object], reason: str) -> None:
    assert fault(row, "preference").reason == reason


@pytest.mark.parametrize(("label", "wanted"), [(True, True), (0, False), ("True", True), ("false", False), (1.0, True)])
def test_rated_reply(label: object, wanted: bool) -> None:
    made = convert({"prompt": "Hi", "completion": "Hello", "label": label}, "rated_reply")

    assert isinstance(made, RatedReply)
    assert made.wanted is wanted


def test_replies_to_one_prompt_are_of_one_document() -> None:
    one = convert({"prompt": "Hi there", "completion": "Hello", "label": True}, "rated_reply")
    two = convert({"prompt": "hi there!", "completion": "No", "label": False}, "rated_reply")
    other = convert({"prompt": "Bye", "completion": "No", "label": False}, "rated_reply")

    assert one.document == two.document != other.document


def test_a_rating_that_is_neither_is_a_fault() -> None:
    row = {"prompt": "Hi", "completion": "Hello", "label": "good"}

    assert fault(row, "rated_reply").reason == "a label that is neither true nor false"


def test_labelled_texts() -> None:
    assert convert({"text": "x", "label": "a"}, "labelled_text") == LabelledText(
        id="f:1", document="f:1", text="x", label="a"
    )
    made = convert({"premise": "x", "hypothesis": "y", "label": 2.0}, "labelled_text")
    assert isinstance(made, LabelledText)
    assert (made.text, made.second_text, made.label) == ("x", "y", 2)
    assert fault({"text": "x", "label": 0.5}, "labelled_text").reason.startswith("a label that is neither")
    assert fault({"text": "x", "label": None}, "labelled_text").reason.startswith("a label that is neither")


def test_text_pairs() -> None:
    made = convert({"sentence1": "x", "sentence2": "y", "score": "4.5"}, "text_pair")
    assert isinstance(made, TextPair)
    assert (made.first, made.second, made.score) == ("x", "y", 4.5)
    plain = convert({"anchor": "x", "positive": "y"}, "text_pair")
    assert isinstance(plain, TextPair)
    assert plain.score is None
    assert (
        fault({"sentence1": "x", "sentence2": "y", "score": "high"}, "text_pair").reason
        == "a score that is not a number"
    )


def test_retrieval() -> None:
    row = {"query": "q", "positive_passages": [{"docid": "1", "title": "T", "text": "p"}], "neg": ["n1", "n2"]}
    made = convert(row, "retrieval")
    assert isinstance(made, RetrievalExample)
    assert (made.query, made.positives, made.negatives) == ("q", ("T\np",), ("n1", "n2"))
    assert fault({"query": "q", "positives": []}, "retrieval").reason == "a query without a passage that answers it"
    both = {"query": "q", "positives": ["a"], "negatives": ["a"]}
    assert fault(both, "retrieval").reason == "a passage that is both positive and negative"


def test_a_question_with_its_context_becomes_what_the_app_asks() -> None:
    row = {
        "title": "Oslo",
        "context": "Oslo lies in Norway. It is old.",
        "question": "Where is Oslo?",
        "answers": {"text": ["in Norway", "in Norway", "Norway"], "answer_start": [10, 10, 13]},
    }

    made = conversation(row, "question_answer")

    prompt = grounded_messages("Where is Oslo?", [Passage(("Oslo",), "Oslo lies in Norway. It is old.")])
    assert made.as_messages() == [*prompt, {"role": "assistant", "content": cited_answer("in Norway", 1)}]
    assert made.grounding == Grounding(question="Where is Oslo?", gold=1)
    assert made.document == "Oslo"


@pytest.mark.parametrize(
    "answer",
    [{"answers": {"text": [], "answer_start": []}}, {"answers": ["x"], "is_impossible": True}, {"answers": []}],
)
def test_a_question_that_its_context_does_not_answer_is_declined(answer: Mapping[str, object]) -> None:
    made = conversation({"context": "Oslo is old.", "question": "Where is Rome?", **answer}, "question_answer")

    assert made.messages[-1].content == ABSTENTION
    assert made.grounding == Grounding(question="Where is Rome?", gold=None)


@pytest.mark.parametrize("answer", [None, "", "  ", [""]])
def test_a_lost_answer_is_a_fault_and_no_refusal(answer: object) -> None:
    row = {"context": "Oslo is old.", "question": "Where is Rome?", "answers": answer}

    with pytest.raises(RowFault):
        convert(row, "question_answer")


def test_questions_about_one_paragraph_are_of_one_document() -> None:
    one = convert({"context": "Oslo is old.", "question": "What is old?", "answer": "Oslo"}, "question_answer")
    two = convert({"context": "Oslo is  old.", "question": "How is Oslo?", "answer": "old"}, "question_answer")

    assert one.document == two.document


def test_a_question_without_context_is_a_plain_conversation() -> None:
    made = conversation({"question": "2 + 2?", "answer": "4"}, "question_answer", system="Count.")

    assert said(made) == [("system", "Count."), ("user", "2 + 2?"), ("assistant", "4")]
    assert made.grounding is None


def test_answers_that_differ_or_stand_nowhere_are_noted() -> None:
    ledger = Ledger()
    row = {"context": "Oslo is old.", "question": "What?", "answers": ["Rome", "Paris"]}

    convert(row, "question_answer", ledger=ledger)

    assert sorted(account.reason for account in ledger.noted) == [
        "answers that do not stand in their context word for word",
        "questions with several different answers, of which one is used",
    ]


def test_articles_of_squad_are_taken_apart() -> None:
    asked = {
        "id": "1",
        "question": "What is old?",
        "answers": [{"text": "Oslo", "answer_start": 0}],
        "is_impossible": False,
    }
    article = {"title": "Oslo", "paragraphs": [{"context": "Oslo is old.", "qas": [asked, {**asked, "id": "2"}]}]}
    chosen = choose_format([article], "auto", {}, "data.sources.0")

    rows = list(chosen.expand(article, "f:1"))

    assert chosen.name == "question_answer"
    assert [(row["id"], place) for row, place in rows] == [("1", "f:1/0"), ("2", "f:1/1")]
    made = chosen.convert(rows[0][0], id="f:1")
    assert isinstance(made, Conversation)
    assert made.messages[-1].content == "Oslo [1]"
    # An article without questions is a row like another, and at fault.
    empty = {"title": "Rome", "paragraphs": []}
    assert list(chosen.expand(empty, "f:2")) == [(empty, "f:2")]


def test_what_the_recipe_says_of_a_row_is_taken_over() -> None:
    chosen = choose_format([{"text": "x"}], "text", {}, "data.sources.0")

    made = chosen.convert({"text": "x"}, id="f:1", document="d", metadata={"lang": "en"})

    assert (made.id, made.document, made.metadata) == ("f:1", "d", {"lang": "en"})


def test_half_a_surrogate_pair_is_left_for_the_quality_gates() -> None:
    named = {"role": "assistant", "content": "", "tool_calls": [{"name": "a\ud83d", "arguments": {"\ud83d": "\ud83d"}}]}
    rows: list[tuple[FormatName, dict[str, object]]] = [
        ("text", {"text": "a\ud83db"}),
        ("labelled_text", {"text": "a", "label": "\ud83d"}),
        ("messages", {"messages": [HELLO[0], named]}),
    ]
    for format, row in rows:
        made = convert(row, format)

        assert examine(made, QualitySection()).dropped[0][0] == UNICODE


def test_values_nested_too_deep_are_a_fault() -> None:
    deep: object = "x"
    for _ in range(100_000):
        deep = [deep]
    row = {
        "messages": [
            HELLO[0],
            {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"x": deep}}]},
        ]
    }

    chosen = choose_format([{"messages": HELLO}], "messages", {}, "data.sources.0")
    with pytest.raises(RowFault):
        chosen.convert(row, id="f:1")
