"""Test rows of which training shows the question or the answer.

What test rows ask and answer is held as hashes of word sequences; training rows stream past and are looked at once, so
that time grows with the words of training and memory with the words of the test rows alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import repeat

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
from hfkit.data.words import wording, words_of
from rag.answer import ABSTENTION, without_citations

# Words that a text must have to be looked for inside of others. Labels, names and figures are the same everywhere; a
# grounded answer quotes a document, so that fewer words tell more.
_LONG = 8
_GROUNDED = 4
_QUESTION = 3

# A sequence is looked for by its first words: by all of them up to _EXACT, else by as many as the largest of these.
_EXACT = 8
_ANCHORS = (32, 16, 8)

_WRAP = 1 << 64
_BASE = 0x9DDFEA08EB382D69
_BLOCK_WORDS = 100_000


class Contamination:
    """Finds the test rows of which training shows the question or the answer.

        contamination = Contamination(test_examples)
        contamination.look_at(train_examples)      # as often as there are chunks of them
        contamination.found                        # {0: "its question stands in chats.jsonl:17"}

    A test row is found where

    - all that comes before its reply is what comes before the reply of a training row (of texts and pairs: the whole
      text, or both), in the same words and signs; system prompts aside;
    - its question, where it is asked over numbered passages, stands anywhere in a training row;
    - its answer of 8 words or more (4 where it quotes a passage; never a refusal) stands anywhere in a training row.

    Sequences are compared by 64-bit hashes of all their words. That one of a billion comparisons is wrong has a
    probability of one in ten billion.
    """

    def __init__(self, test: Iterable[Example]) -> None:
        self.found: dict[int, str] = {}
        self._prompts: dict[bytes, list[int]] = {}
        sequences = _Sequences()
        for number, example in enumerate(test):
            prompt = _prompt_key(example)
            if prompt is not None:
                self._prompts.setdefault(prompt, []).append(number)
            for what, text, least in _sought(example):
                words = words_of(text)
                if len(words) >= least:
                    sequences.add(words, number, what)
        self._finder = sequences.finder()

    def look_at(self, train: Iterable[Example]) -> None:
        """Look for all test rows in these training rows."""
        texts: list[list[str]] = []
        ids: list[str] = []
        words = 0
        for example in train:
            prompt = _prompt_key(example)
            if prompt is not None:
                for number in self._prompts.get(prompt, ()):
                    self.found.setdefault(number, f"its prompt is that of {example.id}")
            for text in every_text(example):
                texts.append(words_of(text))
                ids.append(example.id)
                words += len(texts[-1])
            if words >= _BLOCK_WORDS:
                self._look_in(texts, ids)
                texts, ids, words = [], [], 0
        self._look_in(texts, ids)

    def _look_in(self, texts: Sequence[Sequence[str]], ids: Sequence[str]) -> None:
        for text, number, what in self._finder.inside(texts):
            self.found.setdefault(number, f"its {what} stands in {ids[text]}")


def _prompt_key(example: Example) -> bytes | None:
    prompt = _prompt(example)
    return None if prompt is None else blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _prompt(example: Example) -> str | None:
    """All that a model is shown before it is to reply, as one text; None where there is no such."""
    match example:
        case Conversation():
            # The passages beside a grounded question differ from row to row; the question itself is what counts.
            return None if example.grounding is not None else _said(example.messages[:-1])
        case Preference() | RatedReply():
            return _said(example.prompt)
        case PlainText() | LabelledText():
            second = example.second_text if isinstance(example, LabelledText) else None
            return f"text\n{wording(example.text)}" + ("" if second is None else f"\n{wording(second)}")
        case TextPair():
            return f"pair\n{wording(example.first)}\n{wording(example.second)}"
        case RetrievalExample():
            return f"query\n{wording(example.query)}"


def _said(turns: Sequence[Turn]) -> str | None:
    said = [turn for turn in turns if turn.role not in ("system", "developer")]
    if not said:
        return None
    return "\n".join(f"{turn.role}\n{wording(turn.content)}" for turn in said)


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


class _Sequences:
    """Word sequences of test rows, found wherever they stand in other texts.

    Every word that a sequence holds has a 64-bit number, every other word none, which counts as zero. The hash of a
    sequence x is the sum of x[i] * BASE**i modulo 2**64; from running sums over a text, that of any stretch of it comes
    by one subtraction and one multiplication.
    """

    def __init__(self) -> None:
        self._word_ids: dict[str, int] = {}
        # By the number of words in the anchor, its hash, and the number of words in all: the whole hash, and whose it
        # is.
        self._anchors: dict[int, dict[int, dict[int, dict[int, list[tuple[int, str]]]]]] = {}

    def add(self, words: Sequence[str], row: int, what: str) -> None:
        whole = anchored = 0
        anchor = _anchor_length(len(words))
        for position, word in enumerate(words):
            number = _number(self._word_ids.setdefault(word, len(self._word_ids) + 1))
            whole = (whole + number * pow(_BASE, position, _WRAP)) % _WRAP
            if position == anchor - 1:
                anchored = whole
        lengths = self._anchors.setdefault(anchor, {}).setdefault(anchored, {})
        lengths.setdefault(len(words), {}).setdefault(whole, []).append((row, what))

    def finder(self) -> _Finder:
        return _Finder(self._word_ids, self._anchors)


class _Finder:
    """Looks for the sequences of _Sequences in texts, many texts at a time."""

    def __init__(
        self, word_ids: dict[str, int], anchors: dict[int, dict[int, dict[int, dict[int, list[tuple[int, str]]]]]]
    ) -> None:
        import numpy as np

        self._word_ids = word_ids
        self._anchors = anchors
        self._sorted = {length: np.array(sorted(hashes), dtype=np.uint64) for length, hashes in anchors.items()}
        self._numbers = np.array([0, *(_number(id) for id in range(1, len(word_ids) + 1))], dtype=np.uint64)
        self._powers = np.ones(0, dtype=np.uint64)
        self._inverses = np.ones(0, dtype=np.uint64)

    def inside(self, texts: Iterable[Sequence[str]]) -> Iterator[tuple[int, int, str]]:
        """(number of the text, row, what) for every sequence that stands in a text, each as often as it does."""
        import numpy as np

        ids: list[int] = []
        ends: list[int] = []
        for words in texts:
            ids += map(self._word_ids.get, words, repeat(0))
            # A word that no sequence holds keeps one text from running into the next.
            ids.append(0)
            ends.append(len(ids))
        self._grow(len(ids))
        numbers = self._numbers[np.array(ids, dtype=np.int64)] * self._powers[: len(ids)]
        sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(numbers, dtype=np.uint64)])
        for length, anchors in self._anchors.items():
            if length > len(ids):
                continue
            windows = (sums[length:] - sums[:-length]) * self._inverses[: len(sums) - length]
            wanted = self._sorted[length]
            places = np.searchsorted(wanted, windows)
            places[places == len(wanted)] = 0
            for start in np.flatnonzero(wanted[places] == windows).tolist():
                for whole_length, wholes in anchors[int(windows[start])].items():
                    if start + whole_length >= len(sums):
                        continue
                    stretch = (int(sums[start + whole_length]) - int(sums[start])) * int(self._inverses[start]) % _WRAP
                    for row, what in wholes.get(stretch, ()):
                        yield bisect_right(ends, start), row, what

    def _grow(self, length: int) -> None:
        """Have the powers of the base, and their inverses, for texts of `length` words."""
        import numpy as np

        if length <= len(self._powers):
            return
        self._powers = np.cumprod(np.array([1, *[_BASE] * (length - 1)], dtype=np.uint64), dtype=np.uint64)
        inverse = pow(_BASE, -1, _WRAP)
        self._inverses = np.cumprod(np.array([1, *[inverse] * (length - 1)], dtype=np.uint64), dtype=np.uint64)


def _anchor_length(length: int) -> int:
    return length if length <= _EXACT else next(anchor for anchor in _ANCHORS if anchor <= length)


def _number(id: int) -> int:
    """A 64-bit number for a word's id that looks random, the same in every run (splitmix64)."""
    mixed = id * 0x9E3779B97F4A7C15 % _WRAP
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 % _WRAP
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % _WRAP
    return mixed ^ mixed >> 31
