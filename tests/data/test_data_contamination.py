"""Test rows of which training shows the question or the answer."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.data.contamination import Contamination
from hfkit.data.conversation import Conversation, Grounding, Turn
from hfkit.data.examples import Example, LabelledText, PlainText, Preference, RetrievalExample, TextPair
from hfkit.data.formats.turns import assistant, user
from hfkit.data.rendering_pool import BatchRenderer, RenderSettings, unrendered_batches
from hfkit.data.words import words_of
from hfkit.recipe import ModelSection
from rag.answer import ABSTENTION


def talk(id: str, *said: str) -> Conversation:
    turns = (user(text) if number % 2 == 0 else assistant(text) for number, text in enumerate(said))
    return Conversation(id=id, document=id, messages=tuple(turns))


def grounded(id: str, question: str, answer: str, passage: str = "Nothing of note.") -> Conversation:
    turns = (user(f"[1] Title\n{passage}\n\nQuestion: {question}"), assistant(answer))
    return Conversation(id=id, document=id, messages=turns, grounding=Grounding(question=question, gold=1))


def found(test: Sequence[Example], train: Sequence[Example]) -> dict[int, str]:
    contamination = Contamination(test)
    contamination.look_at(train)
    return contamination.found


def test_a_prompt_that_training_shows_is_found() -> None:
    test = [talk("t:1", "How are you?", "Well."), talk("t:2", "Who are you?", "Me.")]
    system = Turn(role="system", content="Be kind.")
    train = [Conversation(id="x:9", document="x", messages=(system, user("how are  you"), assistant("Fine.")))]

    assert found(test, train) == {0: "its prompt is that of x:9"}


def test_of_a_chat_all_that_comes_before_a_trained_reply_counts() -> None:
    test = [talk("t:1", "Hi", "Hello", "And now?", "Bye.")]

    assert found(test, [talk("x", "And now?", "Go."), talk("y", "Hi there", "Hello")]) == {}
    assert found(test, [talk("x", "Hi", "Hello!", "And now?", "Go.")]) == {0: "its prompt is that of x"}


def test_every_trained_turn_of_a_training_row_has_a_prompt() -> None:
    test = [talk("t:1", "How old is it?", "Very.")]
    train = talk("x", "How old is it?", "Very.", "And how deep?", "Not at all.")

    assert found(test, [train]) == {0: "its prompt is that of x"}
    first = train.messages[1].model_copy(update={"train": False})
    untrained = train.model_copy(update={"messages": (train.messages[0], first, *train.messages[2:])})
    assert found(test, [untrained]) == {}


def test_every_trained_turn_of_a_test_row_has_a_prompt() -> None:
    test = [talk("t:1", "How old is it?", "Very.", "And how deep?", "Not at all.")]

    assert found(test, [talk("x", "How old is it?", "A year.")]) == {0: "its prompt is that of x"}


def test_replies_that_go_on_over_several_turns_have_prompts_too() -> None:
    turns = (assistant("A"), user("And?"), assistant("B"))
    preference = Preference(id="x", document="x", prompt=(user("P"),), chosen=turns, rejected=(assistant("C"),))

    assert found([talk("t", "P", "A", "And?", "Z")], [preference]) == {0: "its prompt is that of x"}


def test_signs_make_another_question() -> None:
    assert found([talk("t", "What is 2 + 2?", "4")], [talk("x", "What is 2 - 2?", "0")]) == {}
    assert found([talk("t", "?", "a")], [talk("x", "!", "b")]) == {}


def test_a_grounded_question_is_found_anywhere() -> None:
    test = [grounded("t", "Where does the harbour lie?", "South.")]

    assert found(test, [talk("x", "Say where does the harbour lie!", "No.")]) == {0: "its question stands in x"}
    assert found(test, [talk("x", "Where does the harbour", "lie?")]) == {}


def test_passages_that_two_rows_share_are_no_contamination() -> None:
    test = [grounded("t", "Where does the harbour lie?", "South.", "A passage that many rows are shown beside others.")]
    train = [grounded("x", "How deep is it?", "Very.", "A passage that many rows are shown beside others.")]

    assert found(test, train) == {}


def test_an_answer_is_found_without_its_citation() -> None:
    test = [grounded("t", "How old is it?", "The harbour is very old. [2]")]

    assert found(test, [talk("x", "Tell me.", "Well, the harbour is VERY old; so it goes.")]) == {
        0: "its answer stands in x"
    }


@pytest.mark.parametrize("answer", ["Very old indeed.", ABSTENTION])
def test_short_answers_and_refusals_are_the_same_everywhere(answer: str) -> None:
    assert found([grounded("t", "How old is it?", answer)], [talk("x", "Other?", answer)]) == {}


def test_a_long_answer_of_any_row_is_found() -> None:
    eight, seven = "one two three four five six seven eight", "one two three four five six seven"
    train = [talk("x", "Count.", f"Zero, {eight}, nine.")]

    assert found([talk("t", "Numbers?", eight)], train) == {0: "its answer stands in x"}
    assert found([talk("t", "Numbers?", seven)], train) == {}


def test_other_kinds_are_compared_by_what_they_show() -> None:
    texts: list[Example] = [
        PlainText(id="t", document="t", text="Same text."),
        PlainText(id="u", document="u", text="New."),
    ]
    assert found(texts, [PlainText(id="x", document="x", text="same  text")]) == {0: "its prompt is that of x"}
    labelled = LabelledText(id="t", document="t", text="A", second_text="B", label=1)
    assert 0 in found([labelled], [labelled.model_copy(update={"label": 2})])
    assert found([labelled], [labelled.model_copy(update={"second_text": "C"})]) == {}
    pair = TextPair(id="t", document="t", first="A", second="B")
    assert 0 in found([pair], [pair])
    assert found([pair], [TextPair(id="x", document="x", first="A", second="C")]) == {}
    query = RetrievalExample(id="t", document="t", query="Q", positives=("P",))
    assert 0 in found([query], [query.model_copy(update={"positives": ("R",)})])
    assert found([query], [query.model_copy(update={"query": "R"})]) == {}
    preference = Preference(
        id="t", document="t", prompt=(user("P"),), chosen=(assistant("A"),), rejected=(assistant("B"),)
    )
    assert 0 in found([preference], [talk("x", "P", "C")])


def test_chunks_of_training_add_up() -> None:
    contamination = Contamination([talk("t", "A?", "a"), talk("u", "B?", "b"), talk("v", "C?", "c")])

    first = contamination.look_at(iter([talk("x", "B?", "z")]))
    second = contamination.look_at(iter([talk("y", "A?", "z"), talk("z", "B?", "z")]))

    assert (first, second) == ({1: "its prompt is that of x"}, {0: "its prompt is that of y"})
    assert contamination.found == {1: "its prompt is that of x", 0: "its prompt is that of y"}


def test_nothing_to_look_for_and_nothing_to_look_in() -> None:
    assert found([], [talk("x", "A?", "a")]) == {}
    assert found([talk("x", "A?", "a")], []) == {}
    assert found([grounded("t", "Where is the harbour?", "South.")], [PlainText(id="x", document="x", text="")]) == {}


WORDS = st.lists(st.sampled_from("abc"), max_size=40).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=6))
def test_sequences_are_found_just_where_they_stand(questions: list[str], texts: list[str]) -> None:
    test = [grounded(str(number), question, "x") for number, question in enumerate(questions)]
    train = [PlainText(id=str(number), document="x", text=text) for number, text in enumerate(texts)]
    expected = {
        number
        for number, question in enumerate(questions)
        if len(words_of(question)) >= 3 and any(f" {question} " in f" {text} " for text in texts)
    }

    assert set(found(test, train)) == expected


def test_long_and_many_sequences_are_found_in_much_text() -> None:
    choose = random.Random(2)
    vocabulary = [f"word{number}" for number in range(300)]
    texts = [" ".join(choose.choices(vocabulary, k=400)) for _ in range(600)]
    questions, expected = [], set()
    for number in range(400):
        length = choose.randint(3, 200)
        words = choose.choices(vocabulary, k=length)
        if number % 2:
            start = choose.randrange(400 - length)
            words = choose.choice(texts).split()[start : start + length]
        question = " ".join(words)
        questions.append(question)
        if any(f" {question} " in f" {text} " for text in texts):
            expected.add(number)

    test = [grounded(str(number), question, "x") for number, question in enumerate(questions)]
    train = [PlainText(id=str(number), document="x", text=text) for number, text in enumerate(texts)]

    assert len(expected) >= 200
    assert set(found(test, train)) == expected


def test_many_test_rows_may_ask_and_answer_the_same() -> None:
    answer = "one two three four five six seven eight nine"
    test = [talk(str(number), f"Question {number % 2}?", answer + " ten" * (number % 3)) for number in range(12)]

    assert set(found(test, [talk("x", "Question 1?", "Nothing.")])) == {1, 3, 5, 7, 9, 11}
    assert set(found(test, [talk("x", "Other?", answer), talk("y", "Other?", answer)])) == {0, 3, 6, 9}
    assert set(found(test, [talk("x", "Other?", answer + " ten")])) == {0, 1, 3, 4, 6, 7, 9, 10}


def test_a_test_row_costs_little_memory() -> None:
    """Some 40 bytes a sequence and 16 a prompt, whatever the number of words; here with room for numpy's own."""
    rows = 20_000

    def tests() -> Iterator[Example]:
        choose = random.Random(3)
        for number in range(rows):
            words = (f"w{choose.randrange(rows)}" for _ in range(15))
            yield talk(f"t:{number}", f"Question {number}?", " ".join(words))

    Contamination(islice(tests(), 10))
    tracemalloc.start()
    contamination = Contamination(tests())
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # What is the same for any number of rows is taken off: one block of words with all that is worked out of it.
    assert held < 100 * rows + 2**23
    assert most < 200 * rows + 2**25
    assert contamination.look_at([talk("x", "question 20000?", "Nothing.")]) == {}
    assert contamination.look_at([talk("x", "question 19999?", "Nothing.")]) == {19_999: "its prompt is that of x"}


def test_a_row_that_is_not_trained_gives_nothing_away(tmp_path: Path, tiny_model: Path) -> None:
    test = talk("t", "How old?", "Very.")
    long = talk("x", "How old?", "word " * 200)
    tested = tmp_path / "tested.jsonl"
    tested.write_text(test.model_dump_json() + "\n", encoding="utf-8")
    model = ModelSection(base=str(tiny_model))
    renderer = BatchRenderer(
        RenderSettings(model=model, max_length=40, special_tokens="escape", chat=True, tested=tested)
    )

    _, outcome = renderer.render([long.model_dump_json()])
    assert outcome.kept == (False,) and outcome.shown == {}
    _, outcome = renderer.render([talk("y", "How old?", "Quite.").model_dump_json()])
    assert outcome.kept == (True,) and outcome.shown == {0: "its prompt is that of y"}


def test_each_batch_tells_only_what_it_shows_itself(tmp_path: Path) -> None:
    tested = tmp_path / "tested.jsonl"
    tests = [PlainText(id=word, document=word, text=word) for word in ("a", "b")]
    tested.write_text("".join(f"{test.model_dump_json()}\n" for test in tests), encoding="utf-8")
    batches = [[PlainText(id=f"x{word}", document="x", text=word).model_dump_json()] for word in "abab"]

    shown = [batch.outcome.shown for batch in unrendered_batches(batches, tested)]

    assert shown == [{0: "its prompt is that of xa"}, {1: "its prompt is that of xb"}, {}, {}]
