"""Rows that repeat others: the key of exact ones, and near ones against a comparison of all pairs."""

from __future__ import annotations

import random
import subprocess
import sys
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.data.conversation import Conversation, Grounding, ToolCall, Turn
from hfkit.data.duplicates import NearDuplicates, content_key
from hfkit.data.examples import Example, LabelledText, PlainText, Preference, RatedReply
from hfkit.data.formats.turns import assistant, user
from hfkit.data.words import words_of


def talk(id: str, asked: str, answered: str, system: str | None = None) -> Conversation:
    turns: tuple[Turn, ...] = (user(asked), assistant(answered))
    if system is not None:
        turns = (Turn(role="system", content=system), *turns)
    return Conversation(id=id, document=id, messages=turns)


def text(id: str, content: str) -> PlainText:
    return PlainText(id=id, document=id, text=content)


def triples(content: str) -> set[tuple[str, ...]]:
    words = words_of(content)
    if len(words) <= 3:
        return {tuple(words)} if words else set()
    return set(zip(words, words[1:], words[2:], strict=False))


def likeness(mine: set[tuple[str, ...]], yours: set[tuple[str, ...]]) -> float:
    """Jaccard's, counted out."""
    return len(mine & yours) / len(mine | yours) if mine | yours else 1.0


def test_the_key_is_that_of_what_is_said() -> None:
    base = talk("a:1", "Hi  there\n", "Hello")
    same = Conversation(id="b:2", document="x", messages=(user("Hi there"), assistant("Hello")), metadata={"k": 1})
    assert content_key(base) == content_key(same)
    assert content_key(text("1", "caf\u00e9")) == content_key(text("2", "cafe\u0301"))


@pytest.mark.parametrize(
    "other",
    [
        talk("1", "Hi there", "hello"),
        talk("1", "Hi there", "Hello!"),
        talk("1", "Hi there", "Hello", system="x"),
        Conversation(id="1", document="1", messages=(user("Hi"), assistant("there Hello"))),
        Conversation(
            id="1", document="1", messages=(user("Hi there"), Turn(role="assistant", content="Hello", train=False))
        ),
        Conversation(
            id="1",
            document="1",
            messages=(user("Hi there"), Turn(role="assistant", content="Hello", reasoning_content="x")),
        ),
        Conversation(id="1", document="1", messages=(user("Hi there"), assistant("Hello")), tools=({"name": "f"},)),
        RatedReply(id="1", document="1", prompt=(user("Hi there"),), completion=(assistant("Hello"),), wanted=True),
    ],
)
def test_rows_that_differ_have_other_keys(other: Example) -> None:
    assert content_key(other) != content_key(talk("1", "Hi there", "Hello"))


def test_ids_of_calls_are_no_content() -> None:
    def called(id: str, name: str) -> Conversation:
        call = ToolCall.model_validate({"id": id, "function": {"name": name, "arguments": {"b": 1, "a": 2}}})
        answer = Turn(role="tool", content="x", tool_call_id=id)
        return Conversation(
            id="1", document="1", messages=(user("a"), Turn(role="assistant", tool_calls=(call,)), answer)
        )

    assert content_key(called("c1", "f")) == content_key(called("c2", "f"))
    assert content_key(called("c1", "f")) != content_key(called("c1", "g"))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab é\u0301\n", max_size=6), st.text(alphabet="ab é\u0301\n", max_size=6))
def test_keys_are_equal_just_where_the_normalised_texts_are(one: str, other: str) -> None:
    def normalised(content: str) -> list[str]:
        return unicodedata.normalize("NFC", content).split()

    assert (content_key(text("1", one)) == content_key(text("2", other))) == (normalised(one) == normalised(other))


def test_keys_are_the_same_in_every_process() -> None:
    code = (
        "from hfkit.data.duplicates import content_key; from hfkit.data.examples import PlainText;"
        "print(content_key(PlainText(id='1', document='1', text='a b c')))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert int(done.stdout) == content_key(text("2", "a b c"))


def similar_texts(count: int, seed: int) -> list[str]:
    """Texts of which many are others with some words changed, from a few words to all of them."""
    choose = random.Random(seed)
    vocabulary = [f"word{number}" for number in range(400)]
    texts: list[str] = []
    for _ in range(count):
        words = choose.choices(vocabulary, k=choose.randint(3, 60))
        if texts and choose.random() < 0.6:
            words = choose.choice(texts).split()
            for _ in range(choose.randint(0, max(1, len(words) // 6))):
                words[choose.randrange(len(words))] = choose.choice(vocabulary)
        texts.append(" ".join(words))
    return texts


@pytest.mark.parametrize("similarity", [0.5, 0.8, 0.95, 1.0])
def test_near_duplicates_are_those_that_a_comparison_of_all_pairs_finds(similarity: float) -> None:
    texts = similar_texts(400, seed=5)
    sets = [triples(content) for content in texts]
    kept: list[int] = []
    expected: dict[int, float] = {}
    for number in range(len(texts)):
        best = max((likeness(sets[number], sets[other]) for other in kept), default=0.0)
        if best >= similarity:
            expected[number] = best
        else:
            kept.append(number)

    found = list(NearDuplicates(similarity).add(text(str(number), content) for number, content in enumerate(texts)))

    assert len(expected) > 20
    wrong = 0
    for number, near in enumerate(found):
        if near is None:
            wrong += number in expected
            continue
        # Whatever is said to be alike is so, and as much as it is said to be.
        assert near.similarity == pytest.approx(likeness(sets[number], sets[int(near.of)]))
        assert near.similarity >= similarity
        assert int(near.of) < number
    # Signatures may miss a pair, and a row missed is one more that others are compared with.
    assert wrong <= 0.02 * len(expected) + 1


def found_in(examples: Sequence[Example], similarity: float = 0.8) -> list[str | None]:
    return [None if near is None else near.of for near in NearDuplicates(similarity).add(examples)]


LONG = " ".join(f"word{number}" for number in range(60))


def test_the_first_of_a_pair_stays_and_one_dropped_drops_no_other() -> None:
    def changed(*places: int) -> str:
        return " ".join("other" if number in places else word for number, word in enumerate(LONG.split()))

    # The third is like the second, which is gone, and not like the first.
    rows = [text("a", LONG), text("b", changed(10)), text("c", changed(10, 30)), text("d", changed(10, 30))]

    assert found_in(rows, 0.9) == [None, "a", None, "c"]


def test_rows_are_compared_part_by_part() -> None:
    asked = [talk("a", LONG, "It is so."), talk("b", LONG, "Not at all."), talk("c", f"{LONG} now", "It is so.")]
    assert found_in(asked) == [None, None, "a"]
    # What all rows have in front says nothing of what they ask.
    assert found_in([talk("a", "One?", "x", LONG), talk("b", "Two?", "x", LONG)]) == [None, None]
    ratings = [
        RatedReply(id=str(wanted), document="1", prompt=(user(LONG),), completion=(assistant(LONG),), wanted=wanted)
        for wanted in (True, False)
    ]
    assert found_in(ratings) == [None, None]
    labels = [LabelledText(id=str(label), document="1", text=LONG, label=label) for label in (1, 2)]
    assert found_in(labels) == [None, None]
    pairs = [
        Preference(
            id=reply, document="1", prompt=(user(LONG),), chosen=(assistant(reply),), rejected=(assistant("No"),)
        )
        for reply in ("Yes", "Sure", "yes.")
    ]
    assert found_in(pairs) == [None, None, "Yes"]


def test_two_questions_about_one_passage_are_no_duplicates() -> None:
    def grounded(id: str, question: str) -> Conversation:
        turns = (user(f"{LONG}\n\nQuestion: {question}"), assistant("It is old. [1]"))
        return Conversation(id=id, document="d", messages=turns, grounding=Grounding(question=question, gold=1))

    assert found_in(
        [grounded("a", "How old is Oslo?"), grounded("b", "What is old?"), grounded("c", "What is old?")]
    ) == [
        None,
        None,
        "b",
    ]


def test_texts_without_words_are_compared_as_they_are() -> None:
    assert found_in([text("a", "😀"), text("b", "😭"), text("c", "😀"), text("d", " "), text("e", " ")]) == [
        None,
        None,
        "a",
        None,
        None,
    ]


def test_rows_of_one_template_are_told_apart_by_the_part_that_tells() -> None:
    # Thousands of rows that share nearly all of a part are looked up by another one, and none of them is lost.
    choose = random.Random(3)
    rows = [talk(str(n), f"{LONG} {n}", " ".join(choose.choices("abcdefghij", k=20))) for n in range(1500)]

    assert found_in([*rows, talk("again", f"{LONG} x", rows[700].messages[1].content)]) == [None] * 1500 + ["700"]


def test_scripts_without_spaces_are_compared_by_their_characters() -> None:
    one = "日本語の文章を書くのはとても楽しいことです"

    assert found_in([text("a", one), text("b", one + "ね"), text("c", "中国の首都は北京で、とても大きな都市です")]) == [
        None,
        "a",
        None,
    ]
