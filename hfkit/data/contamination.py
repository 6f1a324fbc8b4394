"""Test rows of which training shows the question or the answer.

What test rows ask and answer is held as hashes of word sequences, some 40 bytes for each; training rows stream past and
are looked at once, so that time grows with the words of training and memory with the number of test rows alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

from hfkit.data.conversation import Conversation, Turn
from hfkit.data.examples import (
    Example,
    LabelledText,
    PlainText,
    Preference,
    RatedReply,
    RetrievalExample,
    TextPair,
)
from hfkit.data.texts import every_text
from hfkit.data.word_sequences import HashTable, WordSequences
from hfkit.data.words import wording, words_of
from rag.answer import ABSTENTION, without_citations

# Words that a text must have to be looked for inside of others. Labels, names and figures are the same everywhere; a
# grounded answer quotes a document, so that fewer words tell more.
_LONG = 8
_GROUNDED = 4
_QUESTION = 3

# What a sequence is to its row.
_WHAT = ("question", "answer", "text", "chosen reply", "reply")

_BLOCK_WORDS = 100_000


class Contamination:
    """Finds the test rows of which training shows the question or the answer.

        contamination = Contamination(test_examples)
        contamination.look_at(train_examples)      # as often as there are chunks of them
        contamination.found                        # {0: "its question stands in chats.jsonl:17"}

    A test row is found where

    - all that comes before one of its trained replies is what comes before a trained reply of a training row (of texts
      and pairs: the whole text, or both), in the same words and signs; system prompts aside;
    - its question, where it is asked over numbered passages, stands anywhere in a training row;
    - its answer of 8 words or more (4 where it quotes a passage; never a refusal) stands anywhere in a training row.

    Prompts and sequences are compared by 64-bit hashes. That one of a billion comparisons is wrong has a probability of
    one in ten billion.
    """

    def __init__(self, test: Iterable[Example]) -> None:
        self.found: dict[int, str] = {}
        prompts, asked_in = array("Q"), array("Q")
        sequences = WordSequences()
        for number, example in enumerate(test):
            for key in _prompt_keys(example):
                prompts.append(key)
                asked_in.append(number)
            for what, text, least in _sought(example):
                words = words_of(text)
                if len(words) >= least:
                    sequences.add(words, number * len(_WHAT) + _WHAT.index(what))
        self._prompts = HashTable(prompts, asked_in)
        self._finder = sequences.finder()

    def look_at(self, train: Iterable[Example]) -> dict[int, str]:
        """Look for all test rows in these training rows; those that had not been found before."""
        new: dict[int, str] = {}
        block = _Block()
        for example in train:
            block.add(example)
            if block.words >= _BLOCK_WORDS:
                self._look_in(block, new)
                block = _Block()
        self._look_in(block, new)
        return new

    def _look_in(self, block: _Block, new: dict[int, str]) -> None:
        for place, number in self._prompts.look_up(block.prompts):
            self._found(number, f"its prompt is that of {block.asked_in[place]}", new)
        for text, value in self._finder.inside(block.texts):
            number, what = divmod(value, len(_WHAT))
            self._found(number, f"its {_WHAT[what]} stands in {block.ids[text]}", new)

    def _found(self, number: int, why: str, new: dict[int, str]) -> None:
        if number not in self.found:
            self.found[number] = new[number] = why


class _Block:
    """Training rows that are looked at together. `asked_in` and `ids` say whose the prompts and the texts are."""

    def __init__(self) -> None:
        self.prompts = array("Q")
        self.asked_in: list[str] = []
        self.texts: list[list[str]] = []
        self.ids: list[str] = []
        self.words = 0

    def add(self, example: Example) -> None:
        for key in _prompt_keys(example):
            self.prompts.append(key)
            self.asked_in.append(example.id)
        for text in every_text(example):
            self.texts.append(words_of(text))
            self.ids.append(example.id)
            self.words += len(self.texts[-1])


def _prompt_keys(example: Example) -> Iterator[int]:
    """A hash of all that a model is shown before it is to reply, for each reply that it is trained on."""
    match example:
        case Conversation():
            # The passages beside a grounded question differ from row to row; the question itself is what counts.
            if example.grounding is None:
                yield from _asked((), example.messages)
        case Preference():
            yield from _asked(example.prompt, example.chosen)
            yield from _asked(example.prompt, example.rejected)
        case RatedReply():
            yield from _asked(example.prompt, example.completion)
        case PlainText() | LabelledText():
            second = example.second_text if isinstance(example, LabelledText) else None
            yield _hashed(f"text\n{wording(example.text)}" + ("" if second is None else f"\n{wording(second)}"))
        case TextPair():
            yield _hashed(f"pair\n{wording(example.first)}\n{wording(example.second)}")
        case RetrievalExample():
            yield _hashed(f"query\n{wording(example.query)}")


def _asked(before: Sequence[Turn], replies: Sequence[Turn]) -> Iterator[int]:
    """A hash of all that comes before each trained turn of `replies`."""
    said = blake2b(digest_size=8)
    nothing = True
    for number, turn in enumerate((*before, *replies)):
        if number >= len(before) and turn.is_trained and not nothing:
            yield int.from_bytes(said.digest(), "big")
        if turn.role not in ("system", "developer"):
            said.update(f"{turn.role}\n{wording(turn.content)}\n".encode("utf-8", "surrogatepass"))
            nothing = False


def _hashed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _sought(example: Example) -> Iterator[tuple[str, str, int]]:
    """What must not stand in training: what it is, its text, and how many words it must have to be looked for."""
    match example:
        case Conversation():
            answer = without_citations(example.messages[-1].content)
            if example.grounding is not None:
                yield "question", example.grounding.question, _QUESTION
                if answer != ABSTENTION:
                    yield "answer", answer, _GROUNDED
            elif answer != ABSTENTION:
                yield "answer", answer, _LONG
        case PlainText():
            yield "text", example.text, _LONG
        case LabelledText():
            if example.second_text is None:
                yield "text", example.text, _LONG
        case Preference():
            yield "chosen reply", example.chosen[-1].content, _LONG
        case RatedReply():
            yield "reply", example.completion[-1].content, _LONG
        case TextPair() | RetrievalExample():
            # Passages are shared by many questions, and sentences by many pairs.
            return
