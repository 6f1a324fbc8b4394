"""The grounded answer's contract: what stands in the prompt, what counts as a citation, what counts as a refusal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.answer import (
    ABSTENTION,
    INSTRUCTION,
    Message,
    Passage,
    answer,
    cited_answer,
    cited_numbers,
    finish_answer,
    grounded_messages,
    is_abstention,
    passage_of,
    without_citations,
)
from rag.chunking import Chunk
from rag.search import Hit

WORD = st.text("abcdefghijklmnopqrstuvwxyzäöüßλж0123456789", min_size=1, max_size=8)
SENTENCE = st.lists(WORD, min_size=1, max_size=12).map(lambda words: " ".join(words) + ".")
HEADING = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
PASSAGE = st.builds(Passage, st.lists(HEADING, min_size=0, max_size=3).map(tuple), SENTENCE)
NUMBERED = re.compile(r"^\[(\d+)\] (.*)\n(.*)$")


class Scripted:
    """A reader that says its pieces, whatever it is asked, and remembers what it was asked."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces
        self.asked: list[list[Message]] = []

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        self.asked.append(list(messages))
        yield from self.pieces


def hits(count: int) -> tuple[Hit, ...]:
    return tuple(
        Hit(
            Chunk("a.md", position, ("A", f"Part {position}"), 0, 5, f"text {position}", 4),
            "A",
            1 / (position + 1),
            0.5,
            position + 1,
            source="a.md",
            metadata={},
            start=0,
            end=5,
            text=f"text {position}",
        )
        for position in range(count)
    )


@given(SENTENCE, st.lists(PASSAGE, max_size=8))
def test_the_prompt_holds_each_passage_under_its_number_and_then_the_question(
    question: str, passages: list[Passage]
) -> None:
    system, user = grounded_messages(question, passages)
    assert system == {"role": "system", "content": INSTRUCTION}
    assert user["role"] == "user"
    *blocks, last = user["content"].split("\n\n")
    assert last == f"Question: {question}"
    read = [NUMBERED.match(block) for block in blocks if block]
    assert [match and match.groups() for match in read] == [
        (str(number), " > ".join(passage.heading_path), passage.text) for number, passage in enumerate(passages, 1)
    ]


def test_the_prompt_is_the_one_that_readers_were_trained_with() -> None:
    """Every tuned reader depends on these very characters: a change must be meant."""
    passages = [Passage(("Guide", "Dates"), "\n Dates are UTC.\n"), Passage((), "No heading.")]
    assert grounded_messages(" When? ", passages) == [
        {
            "role": "system",
            "content": "Answer the question from the numbered passages alone. Quote the passage that answers and cite "
            "it, like [2]. If no passage answers, say: The documents do not say.",
        },
        {
            "role": "user",
            "content": "[1] Guide > Dates\nDates are UTC.\n\n[2] \nNo heading.\n\nQuestion: When?",
        },
    ]


@given(SENTENCE, st.integers(1, 999))
def test_a_cited_answer_gives_back_its_quote_and_its_number(quote: str, number: int) -> None:
    text = cited_answer(f" {quote}\n", number)
    assert cited_numbers(text) == (number,)
    assert without_citations(text) == quote


@given(st.lists(st.integers(0, 999) | SENTENCE))
def test_numbers_are_cited_once_each_in_order_of_first_use(pieces: list[int | str]) -> None:
    text = " ".join(f"[{piece}]" if isinstance(piece, int) else piece for piece in pieces)
    expected: list[int] = []
    for piece in pieces:
        if isinstance(piece, int) and piece not in expected:
            expected.append(piece)
    assert cited_numbers(text) == tuple(expected)
    assert without_citations(text) == " ".join(piece for piece in pieces if isinstance(piece, str))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", ()),
        ("no mark", ()),
        ("[1][2] and [1]", (1, 2)),
        ("[01] is [1]", (1,)),
        ("a list[3] index", (3,)),
        ("[1, 2]", ()),
        ("[ 1 ]", ()),
        ("[-1]", ()),
        ("[1234]", ()),
        ("[1", ()),
        ("1]", ()),
        ("[[2]]", (2,)),
        ("[x]", ()),
    ],
)
def test_what_is_a_citation(text: str, numbers: tuple[int, ...]) -> None:
    assert cited_numbers(text) == numbers


@pytest.mark.parametrize(
    "text",
    [
        ABSTENTION,
        ABSTENTION.upper(),
        f"I am sorry. {ABSTENTION}",
        "The documents\ndo  not say.",
        "The documents don't say.",
        "The documents don’t say that.",
        "No passage answers this question.",
        "This is not mentioned in the passages.",
        "That cannot be answered from the passages.",
    ],
)
def test_wordings_of_a_refusal(text: str) -> None:
    assert is_abstention(text)


@pytest.mark.parametrize("text", ["", "No.", "It says so in the documents [1].", "The documents say that it is red."])
def test_what_is_no_refusal(text: str) -> None:
    assert not is_abstention(text)


@given(st.lists(SENTENCE | st.integers(0, 12).map("[{}]".format), min_size=1), st.integers(0, 6))
def test_a_finished_answer_tells_real_citations_from_invented_ones(pieces: list[str], given_hits: int) -> None:
    text = " ".join(pieces)
    finished = finish_answer(f"\n{text} ", hits(given_hits))
    assert finished.text == text
    assert finished.hits == hits(given_hits)
    assert set(finished.citations) <= set(range(1, given_hits + 1))
    assert set(finished.unknown_citations).isdisjoint(range(1, given_hits + 1))
    assert len(finished.citations) == len(set(finished.citations))
    assert sorted(finished.citations + finished.unknown_citations) == sorted(cited_numbers(text))
    assert list(finished.citations) == [n for n in cited_numbers(text) if 1 <= n <= given_hits]
    assert finished.abstained == is_abstention(text)


def test_an_answer_joins_what_the_reader_says_over_the_passages_it_was_shown() -> None:
    reader = Scripted("It is ", "text 1 [", "2] and [9]. ")
    finished = answer("What is it?", hits(2), reader)
    assert finished.text == "It is text 1 [2] and [9]."
    assert (finished.citations, finished.unknown_citations, finished.abstained) == ((2,), (9,), False)
    assert reader.asked == [grounded_messages("What is it?", [passage_of(hit) for hit in hits(2)])]


def test_where_nothing_is_found_the_reader_is_not_asked() -> None:
    reader = Scripted("I know everything [1].")
    finished = answer("What is it?", (), reader)
    assert (finished.text, finished.abstained, finished.citations) == (ABSTENTION, True, ())
    assert reader.asked == []
