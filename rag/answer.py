"""The grounded answer: numbered passages and a question in, a quoted and cited answer or a plain refusal out.

The prompt below is the one contract between retrieval and training: examples are synthesised with it, models are scored
with it, and the app asks with it. Change a word here and every reader has to be trained again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

from rag.search import Hit

ABSTENTION = "The documents do not say."

INSTRUCTION = (
    "Answer the question from the numbered passages alone. "
    "Quote the passage that answers and cite it, like [2]. "
    f"If no passage answers, say: {ABSTENTION}"
)

_CITATION = re.compile(r"\[(\d{1,3})\]")

# Wordings that models which were never trained on ABSTENTION use for the same thing. The list is generous on purpose:
# it may only ever help an untrained reader in a comparison.
_ABSTENTIONS = (
    "documents do not say",
    "documents don't say",
    "passages do not say",
    "passages don't say",
    "no passage answers",
    "not mentioned in the",
    "not in the documents",
    "cannot be answered from",
)


class Message(TypedDict):
    """One turn of a chat, as chat templates take it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str


@dataclass(frozen=True, slots=True)
class Passage:
    """What the reader sees of a chunk: where it stands (outermost heading first) and what it says."""

    heading_path: tuple[str, ...]
    text: str


class Reader(Protocol):
    """A model that answers: messages in, pieces of text out as they are made."""

    def stream(self, messages: Sequence[Message]) -> Iterator[str]: ...


@dataclass(frozen=True, slots=True)
class GroundedAnswer:
    """A whole answer.

    `citations` holds the numbers that the text cites and that exist, in order of first use, counted from 1 into `hits`;
    `unknown_citations` those that point at no passage. `abstained` is True where the reader said that the documents do
    not say.
    """

    text: str
    hits: tuple[Hit, ...]
    citations: tuple[int, ...]
    unknown_citations: tuple[int, ...]
    abstained: bool


def grounded_messages(question: str, passages: Sequence[Passage]) -> list[Message]:
    """The prompt for `question` over `passages`, numbered from 1 in the order given."""
    numbered = "\n\n".join(
        f"[{number}] {' > '.join(passage.heading_path)}\n{passage.text.strip()}"
        for number, passage in enumerate(passages, start=1)
    )
    return [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": f"{numbered}\n\nQuestion: {question.strip()}"},
    ]


def cited_answer(quote: str, number: int) -> str:
    """What a reader is trained to say where passage `number` answers."""
    return f"{quote.strip()} [{number}]"


def cited_numbers(text: str) -> tuple[int, ...]:
    """The passage numbers that `text` cites, each once, in order of first use."""
    return tuple(dict.fromkeys(int(number) for number in _CITATION.findall(text)))


def without_citations(text: str) -> str:
    """`text` with its citation marks taken out, for comparing wordings."""
    return " ".join(_CITATION.sub(" ", text).split())


def is_abstention(text: str) -> bool:
    """Whether `text` says that the documents do not answer."""
    lowered = " ".join(text.lower().replace("\u2019", "'").split())
    return any(phrase in lowered for phrase in _ABSTENTIONS)


def passage_of(hit: Hit) -> Passage:
    return Passage(heading_path=hit.chunk.heading_path, text=hit.text)


def finish_answer(text: str, hits: Sequence[Hit]) -> GroundedAnswer:
    """What a finished reader said, with its citations checked against the passages it was given."""
    cited = cited_numbers(text)
    return GroundedAnswer(
        text=text.strip(),
        hits=tuple(hits),
        citations=tuple(number for number in cited if 1 <= number <= len(hits)),
        unknown_citations=tuple(number for number in cited if not 1 <= number <= len(hits)),
        abstained=is_abstention(text),
    )


def answer(question: str, hits: Sequence[Hit], reader: Reader) -> GroundedAnswer:
    """Ask `reader` and wait for the whole answer. With nothing retrieved there is nothing to ask: it abstains."""
    if not hits:
        return finish_answer(ABSTENTION, hits)
    messages = grounded_messages(question, [passage_of(hit) for hit in hits])
    return finish_answer("".join(reader.stream(messages)), hits)
