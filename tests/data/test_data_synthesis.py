"""Examples from documents: the quote stands where the citation points, and nowhere else that is shown."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.data.conversation import Conversation
from hfkit.data.synthesis import first_sentence, normalised, question_about, questions_from, write_examples
from hfkit.recipe import SynthesizeSection
from rag.answer import ABSTENTION, cited_numbers, is_abstention, without_citations
from rag.chunking import Chunk

WORDS = [
    "a",
    "river",
    "stone",
    "and",
    "the",
    "wind",
    "carries",
    "old",
    "songs",
    "over",
    "quiet",
    "hills",
    "in",
    "spring",
]


@dataclass(frozen=True)
class Shown:
    """A passage as the reader sees it."""

    number: int
    headings: str
    text: str


def shown_in(row: Conversation) -> list[Shown]:
    user = row.messages[1].content
    body, question = user.rsplit("\n\nQuestion: ", 1)
    assert row.grounding is not None and question == row.grounding.question.strip()
    marks = list(re.finditer(r"(?m)^\[(\d+)\] (.*)$", body))
    ends = [mark.start() for mark in marks[1:]] + [len(body)] * bool(marks)
    return [Shown(int(mark[1]), mark[2], body[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]


def flat(text: str) -> str:
    return " ".join(text.split()).lower()


def make_chunks(seed: int, documents: int, sections: int) -> list[Chunk]:
    """Documents of prose, in which some sentences and headings come again elsewhere; some sections have two chunks."""
    choose = random.Random(seed)
    stock = [f"{' '.join(choose.choices(WORDS, k=choose.randint(4, 9))).capitalize()}." for _ in range(documents + 2)]
    chunks = []
    for document in range(documents):
        position = 0
        for section in range(sections):
            heading = (f"Document {document}", f"Topic {choose.randint(0, documents * sections)} part {section}")
            for part in range(choose.choice([1, 1, 2])):
                own = f"{' '.join(choose.choices(WORDS, k=8)).capitalize()} {document} {section} {part}."
                sentences = [own, *choose.sample(stock, 2)]
                if choose.random() < 0.3:
                    sentences.reverse()
                text = choose.choice([" ", "\n"]).join(sentences)
                chunks.append(Chunk(f"d{document:02}.md", position, heading, 0, len(text), text, 20))
                position += 1
    return chunks


@dataclass
class FromChunks:
    """Finds chunks in an order that depends on the question alone, and keeps what it was asked."""

    chunks: list[Chunk]

    def __post_init__(self) -> None:
        self.within: list[frozenset[str]] = []

    def __call__(self, texts: Sequence[str], top_k: int, within: Collection[str]) -> list[list[Chunk]]:
        self.within.append(frozenset(within))
        allowed = [chunk for chunk in self.chunks if chunk.document_id in within]
        return [random.Random(text).sample(allowed, min(top_k, len(allowed))) for text in texts]


SECTIONS = st.builds(
    SynthesizeSection,
    questions=st.integers(1, 6),
    rows=st.none() | st.integers(1, 30),
    passages=st.integers(2, 6),
    unanswerable=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 5), SECTIONS)
def test_questions_keep_to_their_limits_and_quote_their_chunk(
    seed: int, documents: int, sections: int, section: SynthesizeSection
) -> None:
    chunks = make_chunks(seed, documents, sections)
    seen: set[str] = set()
    questions = questions_from(chunks, section, seed, seen)
    assert len(questions) <= (section.rows or len(chunks))
    assert max(Counter(question.chunk.document_id for question in questions).values(), default=0) <= section.questions
    opened = {(c.document_id, c.heading_path): c for c in reversed(chunks)}
    for question in questions:
        assert question.quote in " ".join(question.chunk.text.split())
        assert " ".join(question.chunk.text.split()).startswith(question.quote)
        assert question.chunk == opened[question.chunk.document_id, question.chunk.heading_path]
        assert {normalised(question.text), normalised(question.quote)} <= seen
    wordings = [normalised(text) for question in questions for text in (question.text, question.quote)]
    assert len(wordings) == len(set(wordings)), "a wording is used once"
    # What was used cannot be used again, by this source or another.
    for question in questions_from(chunks, section, seed + 1, seen):
        assert {normalised(question.text), normalised(question.quote)}.isdisjoint(wordings)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), SECTIONS)
def test_questions_do_not_hang_on_the_order_of_the_chunks(
    seed: int, documents: int, section: SynthesizeSection
) -> None:
    chunks = make_chunks(seed, documents, 3)
    shuffled = random.Random(seed).sample(chunks, len(chunks))
    assert questions_from(chunks, section, seed, set()) == questions_from(shuffled, section, seed, set())


def test_questions_come_from_the_documents_that_were_named() -> None:
    chunks = make_chunks(1, 12, 3)
    section = SynthesizeSection(documents=("d0[123].md", "d1*"))
    asked = {question.chunk.document_id for question in questions_from(chunks, section, 7, set())}
    assert asked == {"d01.md", "d02.md", "d03.md", "d10.md", "d11.md"}


def test_the_cap_draws_from_all_documents() -> None:
    chunks = make_chunks(1, 30, 3)
    capped = questions_from(chunks, SynthesizeSection(rows=10), 7, set())
    assert len(capped) == 10
    assert len({question.chunk.document_id for question in capped}) > 5
    assert capped != questions_from(chunks, SynthesizeSection(rows=10), 8, set())


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), SECTIONS, st.data())
def test_a_row_is_true_to_its_passages(
    seed: int, documents: int, section: SynthesizeSection, data: st.DataObject
) -> None:
    chunks = make_chunks(seed, documents, 3)
    ids = sorted({chunk.document_id for chunk in chunks})
    allowed = frozenset(data.draw(st.lists(st.sampled_from(ids), min_size=1, unique=True)))
    questions = [q for q in questions_from(chunks, section, seed, set()) if q.chunk.document_id in allowed]
    retrieve = FromChunks(chunks)
    rows = write_examples(questions, retrieve, allowed, section, seed)
    assert [row.document for row in rows] == [question.chunk.document_id for question in questions]
    assert len({row.id for row in rows}) == len(rows)
    assert retrieve.within in ([], [allowed])
    texts = {flat(chunk.text): chunk.document_id for chunk in chunks}
    for row, question in zip(rows, questions, strict=True):
        assert [turn.role for turn in row.messages] == ["system", "user", "assistant"]
        assert row.grounding is not None and row.grounding.question == question.text
        passages = shown_in(row)
        assert [passage.number for passage in passages] == list(range(1, len(passages) + 1))
        assert len(passages) <= section.passages
        assert len({(passage.headings, passage.text) for passage in passages}) == len(passages)
        assert all(texts[flat(passage.text)] in allowed for passage in passages)
        holders = [passage.number for passage in passages if flat(question.quote) in flat(passage.text)]
        # Another part of the section that answers might answer too.
        section_of_question = " > ".join(question.chunk.heading_path)
        assert [p.number for p in passages if p.headings == section_of_question] == holders
        reply = row.messages[2].content
        if row.grounding.gold is None:
            assert reply == ABSTENTION
            assert holders == []
        else:
            assert cited_numbers(reply) == (row.grounding.gold,)
            assert without_citations(reply) == question.quote
            assert holders == [row.grounding.gold]
            gold = passages[row.grounding.gold - 1]
            assert gold.text == question.chunk.text.strip()
            assert gold.headings == " > ".join(question.chunk.heading_path)
            assert not is_abstention(reply)
    if section.unanswerable in (0.0, 1.0):
        assert all((row.grounding is not None and row.grounding.gold is None) == section.unanswerable for row in rows)
    assert write_examples(questions, FromChunks(chunks), allowed, section, seed) == rows


def test_the_share_of_unanswerable_rows_and_the_place_of_the_gold_passage() -> None:
    chunks = make_chunks(3, 200, 6)
    questions = questions_from(chunks, SynthesizeSection(questions=6), 7, set())
    assert len(questions) > 800
    for share in (0.1, 0.25, 0.6):
        section = SynthesizeSection(passages=4, unanswerable=share)
        rows = write_examples(questions, FromChunks(chunks), {c.document_id for c in chunks}, section, 7)
        golds = Counter(row.grounding.gold for row in rows if row.grounding is not None)
        # Five standard deviations.
        assert abs(golds[None] / len(rows) - share) < 5 * (share * (1 - share) / len(rows)) ** 0.5
        answerable = len(rows) - golds[None]
        assert all(abs(golds[n] / answerable - 0.25) < 5 * (0.1875 / answerable) ** 0.5 for n in (1, 2, 3, 4))
        assert all(len(shown_in(row)) == 4 for row in rows)


def test_other_seeds_write_other_rows() -> None:
    chunks = make_chunks(3, 10, 3)
    section = SynthesizeSection()
    questions = questions_from(chunks, section, 7, set())
    everything = {chunk.document_id for chunk in chunks}
    rows = [write_examples(questions, FromChunks(chunks), everything, section, seed) for seed in (1, 2)]
    assert rows[0] != rows[1]


def test_a_sentence_that_reads_like_a_refusal_is_no_answer() -> None:
    """The reader who quotes it rightly would be scored as one who abstained."""
    for sentence in (
        "The documents do not say. What they leave out is listed here.",
        "A key that is not mentioned in the schema is refused at once.",
        "Such a question cannot be answered from the catalogue alone.",
    ):
        chunk = Chunk("a.md", 0, ("Guide", "Unknown keys"), 0, len(sentence), sentence, 12)
        questions = questions_from([chunk], SynthesizeSection(), 7, set())
        for row in write_examples(questions, FromChunks([chunk]), {"a.md"}, SynthesizeSection(unanswerable=0.0), 7):
            assert not is_abstention(row.messages[-1].content)


def test_a_section_without_a_heading_is_not_asked_about() -> None:
    text = "This is a fine sentence of prose."
    assert questions_from([Chunk("a.md", 0, (), 0, len(text), text, 12)], SynthesizeSection(), 7, set()) == []


SENTENCES = [
    ("A stop token ends the turn. More follows.", "A stop token ends the turn."),
    ("One line\nof prose goes\non here. Next.", "One line of prose goes on here."),
    ("It ends without a full stop\n\nAnother paragraph.", "It ends without a full stop"),
    ("Use a short name, e.g. one of these. Not more.", "Use a short name, e.g. one of these."),
    ("Does it work with numbers like 3.14 too? Yes.", "Does it work with numbers like 3.14 too?"),
    ("Look at json.dumps for the other way. Then go on.", "Look at json.dumps for the other way."),
    ("What a fine day it is! Really.", "What a fine day it is!"),
    ("Das schöne Wetter hält heute an. Morgen nicht.", "Das schöne Wetter hält heute an."),
    ("Too short here.", None),
    ("", None),
    (" \n ", None),
    (" ".join(["word"] * 46) + ".", None),
    (" ".join(["word"] * 45) + ".", " ".join(["word"] * 45) + "."),
    ("```python\nprint('a word or two or three')\n```", None),
    ("- a list of many words that go on", None),
    ("* a list of many words that go on", None),
    ("| a | table | of | many | words |", None),
    (">>> code that looks like many words here", None),
    ("<div>some words that are in a tag</div>", None),
    ("1. first do this and then do that.", None),
    ("a = b + c * (d / e) - 12345678 ; f[0] = 99", None),
    ("As the second source [2] says, it is so.", None),
    ("These are the rules that hold for all of it:", None),
    ("These are the rules:\n\nOne of them is to be kind.", None),
]


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_the_first_sentence(text: str, expected: str | None) -> None:
    assert first_sentence(text) == expected


@given(
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(st.sampled_from([*WORDS, ".", "\n\n", "[1]", ":", "?"])).map(" ".join)
)
def test_a_first_sentence_is_one_line_that_opens_the_text(text: str) -> None:
    sentence = first_sentence(text)
    if sentence is None:
        return
    assert " ".join(text.split()).startswith(sentence)
    assert 4 <= len(sentence.split()) <= 45
    assert "\n" not in sentence and sentence == sentence.strip()
    assert cited_numbers(sentence) == ()
    assert first_sentence(sentence) == sentence


@given(
    st.lists(
        st.text("abc .?`(){}0", min_size=1, max_size=12).filter(lambda heading: heading.strip() != ""), min_size=1
    ),
    st.integers(0, 99),
)
def test_a_question_names_its_heading(heading_path: list[str], seed: int) -> None:
    question = question_about(heading_path, random.Random(seed))
    heading = heading_path[-1].strip()
    if heading.endswith("?"):
        assert question == heading
    elif "`" in question and "`" not in heading:
        assert heading.split("(")[0].split(" ")[-1] == question.split("`")[1]
    else:
        assert heading in question and question != heading
    assert question_about(heading_path, random.Random(seed)) == question


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("json.dumps(obj, *, skipkeys=False)", "json.dumps"),
        ("class pathlib.Path(*args)", "pathlib.Path"),
        ("async asyncio.sleep(delay, result=None)", "asyncio.sleep"),
        ("os.path", "os.path"),
    ],
)
def test_a_signature_is_asked_about_by_its_name(heading: str, name: str) -> None:
    assert all(f"`{name}`" in question_about(("module", heading), random.Random(seed)) for seed in range(8))


@given(st.text(), st.text())
def test_wordings_that_differ_in_case_and_punctuation_are_one(text: str, other: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
    assert normalised(f"{text}!") == normalised(f"  {text} ") == normalised(text)
    assert normalised(f"{text}\n{other}") == " ".join(filter(None, [normalised(text), normalised(other)]))
