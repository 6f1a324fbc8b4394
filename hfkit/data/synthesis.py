"""Writes grounded training examples from the chunks of an index.

A question, several retrieved passages of which one or none answers it, and an answer that quotes what answers and cites
it, or says plainly that the documents do not say. No model writes anything: the question comes from a section's
heading, the answer is the first sentence of that section, so every answer is true to its document by construction.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from hfkit.data.conversation import Conversation, Grounding, Turn
from hfkit.recipe.data import SynthesizeSection
from rag.answer import ABSTENTION, Passage, cited_answer, grounded_messages, is_abstention
from rag.chunking import Chunk

Retrieve = Callable[[Sequence[str], int, Collection[str]], list[list[Chunk]]]
"""Questions, how many chunks each, and the documents to look in; the chunks found, best first."""

# Characters that are looked at: the search for a full stop takes quadratic time where there is none.
_LONGEST_SENTENCE = 2000
_SENTENCE = re.compile(r"(.+?[.!?])(?=\s|$)", re.DOTALL)
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|approx|resp)\.$")
_SIGNATURE = re.compile(r"^(?:class |async )?(?P<name>[A-Za-z_][\w.]*\.\w+)(?:\(.*)?$", re.DOTALL)

_ABOUT_CODE = (
    "What does `{name}` do?",
    "What is `{name}` for?",
    "What do the documents say about `{name}`?",
    "Explain `{name}` in one sentence.",
)
_ABOUT_TOPIC = (
    "What do the documents say about {name}?",
    "What should I know about {name}?",
    "Tell me about {name}.",
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question that `chunk` answers with `quote`, a sentence that stands in it word for word but for line breaks."""

    text: str
    quote: str
    chunk: Chunk


def first_sentence(text: str) -> str | None:
    """The first sentence of `text` on one line, where it is fit to be an answer: 4 to 45 words of prose, else None."""
    paragraph = text.strip().split("\n\n", 1)[0]
    if paragraph.lstrip().startswith(("```", "~~~", "|", "- ", "* ", "+ ", ">>>", "<", "#", "1.")):
        return None
    flat = " ".join(paragraph[:_LONGEST_SENTENCE].split())
    end = 0
    for match in _SENTENCE.finditer(flat):
        end = match.end()
        if not _ABBREVIATION.search(flat[:end]):
            break
    sentence = flat[:end] if end else flat
    letters = sum(character.isalpha() or character.isspace() for character in sentence)
    if not 4 <= len(sentence.split()) <= 45 or letters < 0.7 * len(sentence):
        return None
    # A quote that looks like a citation, or points outside itself, could not be told from the answer's own marks.
    if re.search(r"\[\d+\]", sentence) or sentence.endswith(":"):
        return None
    return sentence


def question_about(heading_path: Sequence[str], choose: random.Random) -> str:
    """The question that a section under `heading_path` (outermost first) answers."""
    heading = heading_path[-1].strip()
    if heading.endswith("?"):
        return heading
    signature = _SIGNATURE.match(heading)
    if signature:
        return choose.choice(_ABOUT_CODE).format(name=signature["name"])
    return choose.choice(_ABOUT_TOPIC).format(name=heading)


def questions_from(chunks: Iterable[Chunk], settings: SynthesizeSection, seed: int, seen: set[str]) -> list[Question]:
    """The questions to ask of `chunks`, at most `settings.questions` a document and `settings.rows` in all.

    Only the chunk that opens a section is asked about, and a wording, be it a question's or an answer's, is used once:
    two documents that say the same cannot stand on two sides of a split. `seen` holds the wordings used so far, by
    other sources too, and grows by those used now.
    """
    choose = random.Random(seed)
    taken: set[str] = set()
    opened: set[tuple[str, tuple[str, ...]]] = set()
    by_document: dict[str, list[Question]] = {}
    for chunk in sorted(chunks, key=lambda chunk: (chunk.document_id, chunk.position)):
        section = (chunk.document_id, chunk.heading_path)
        if section in opened or not chunk.heading_path or not _wanted(chunk.document_id, settings.documents):
            continue
        opened.add(section)
        quote = first_sentence(chunk.text)
        # A quote that reads like a refusal would be scored as one.
        if quote is None or is_abstention(quote):
            continue
        question = question_about(chunk.heading_path, choose)
        keys = {normalised(question), normalised(quote)}
        if not keys.isdisjoint(seen | taken):
            continue
        taken |= keys
        by_document.setdefault(chunk.document_id, []).append(Question(question, quote, chunk))
    questions = []
    for of_document in by_document.values():
        questions += choose.sample(of_document, min(settings.questions, len(of_document)))
    if settings.rows is not None and settings.rows < len(questions):
        questions = choose.sample(questions, settings.rows)
    seen |= {normalised(text) for question in questions for text in (question.text, question.quote)}
    return sorted(questions, key=lambda question: (question.chunk.document_id, question.chunk.position))


def write_examples(
    questions: Sequence[Question],
    retrieve: Retrieve,
    documents: Collection[str],
    settings: SynthesizeSection,
    seed: int,
) -> list[Conversation]:
    """One conversation a question. Passages are retrieved from `documents` alone, so that a training row never shows a
    test document.

    A passage beside the gold one that holds the same sentence would make the citation ambiguous: it is passed over. The
    gold passage stands at any place with equal chance, so that a reader cannot learn to cite by position.
    """
    choose = random.Random(seed)
    spare = settings.passages + 4
    found = retrieve([question.text for question in questions], spare, documents)
    rows = []
    for number, (question, candidates) in enumerate(zip(questions, found, strict=True)):
        answerable = choose.random() >= settings.unanswerable
        others = [chunk for chunk in candidates if not _answers(chunk, question)]
        passages = others[: settings.passages - answerable]
        if answerable:
            passages.append(question.chunk)
        choose.shuffle(passages)
        gold = passages.index(question.chunk) + 1 if answerable else None
        prompt = grounded_messages(question.text, [Passage(chunk.heading_path, chunk.text) for chunk in passages])
        reply = ABSTENTION if gold is None else cited_answer(question.quote, gold)
        turns = [Turn(role=message["role"], content=message["content"]) for message in prompt]
        rows.append(
            Conversation(
                id=f"{question.chunk.document_id}#{question.chunk.position}-{number}",
                document=question.chunk.document_id,
                messages=(*turns, Turn(role="assistant", content=reply)),
                grounding=Grounding(question=question.text, gold=gold),
            )
        )
    return rows


def normalised(text: str) -> str:
    """Lower case, letters and digits alone, single spaces: two wordings that agree in this are one."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _answers(chunk: Chunk, question: Question) -> bool:
    same_section = (chunk.document_id, chunk.heading_path) == (question.chunk.document_id, question.chunk.heading_path)
    return same_section or normalised(question.quote) in normalised(chunk.text)


def _wanted(document: str, globs: Sequence[str] | None) -> bool:
    return globs is None or any(fnmatchcase(document, glob) for glob in globs)
