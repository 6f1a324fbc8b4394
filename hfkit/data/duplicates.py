"""Rows that say what an earlier row said: word for word, or nearly so."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

from pydantic import JsonValue

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
from hfkit.data.words import words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic.main import IncEx
    from rensa import RMinHash  # type: ignore[import-untyped]

# Hash functions of a signature, about: the least number at which short rows are found as surely as long ones.
_HASHES = 128
# With how many of a hundred pairs of just the wanted similarity the signatures must meet; those above it meet surer.
_RECALL = 0.995
_SEED = 20_240_917
_SHINGLE = 3
_BLOCK = 2048
# So many candidates are checked at once rather than looked up in one more index.
_FEW = 32


# A call's id is made up anew for each row.
_CALL_IDS: Mapping[str, IncEx | bool] = {
    "__all__": {"tool_call_id": True, "tool_calls": {"__all__": {"id"}}},
}
_NOT_SAID: Mapping[str, IncEx | bool] = {
    "id": True,
    "document": True,
    "metadata": True,
    "grounding": True,
    **dict.fromkeys(("messages", "prompt", "completion", "chosen", "rejected"), _CALL_IDS),
}


def content_key(example: Example) -> int:
    """A 64-bit key of all that `example` says; two examples that say the same have the same key.

    The same means: equal texts, roles, calls, tools, labels and marks for training, up to the form in which Unicode
    writes a letter and up to runs of white space. Where a row stands, its document, metadata and the ids of calls are
    not part of it. Among ten million different rows, two share a key with a probability of 3 in a million.
    """
    said = example.model_dump(mode="json", exclude=_NOT_SAID)
    text = json.dumps(_normalised(said), ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(blake2b(text.encode("ascii"), digest_size=8).digest(), "big")


def _normalised(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        composed = value if value.isascii() else unicodedata.normalize("NFC", value)
        return " ".join(composed.split())
    if isinstance(value, dict):
        return {key: _normalised(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_normalised(inner) for inner in value]
    return value


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A row's likeness to an earlier one.

    Attributes:
        of: the id of the earlier row, which stays.
        similarity: of the parts of the two (what is asked, what is answered), the likeness of the least alike: the
            share of word triples that both have, of all that either has.
    """

    of: str
    similarity: float


_Parts: TypeAlias = "tuple[NDArray[np.uint32], ...]"


class NearDuplicates:
    """Finds rows whose words are almost those of an earlier row.

    Rows are compared part by part: two questions about one paragraph are no duplicates because of the paragraph that
    both quote, nor two replies because of a long system prompt. Candidates come from MinHash signatures; each is then
    checked against the word triples themselves, so that no pair below `similarity` is ever reported. Of the pairs above
    it, a very few may be missed. The result depends on the rows and their order alone.

    Memory: about 4 bytes a word triple and 4 KiB a row kept.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._rows_a_band = _rows_a_band(similarity)
        self._hashes = _HASHES - _HASHES % self._rows_a_band
        self._indexes: dict[tuple[str, int], _PartIndex] = {}
        self._ids: list[str] = []
        self._parts: list[_Parts] = []

    def add(self, examples: Iterable[Example]) -> Iterator[NearDuplicate | None]:
        """For each example, the earlier row that it nearly repeats, or None: then it stays, and later ones are compared
        with it. Examples are read ahead in blocks."""
        block: list[Example] = []
        for example in examples:
            block.append(example)
            if len(block) == _BLOCK:
                yield from self._add_block(block)
                block = []
        yield from self._add_block(block)

    def _add_block(self, examples: Sequence[Example]) -> Iterator[NearDuplicate | None]:
        from rensa import RMinHash

        rows = [[_shingles(part) for part in _parts(example)] for example in examples]
        # An empty part is like another empty one: it needs a signature too.
        signed = iter(RMinHash.from_token_sets([texts or [""] for row in rows for texts in row], self._hashes, _SEED))
        for example, row in zip(examples, rows, strict=True):
            signatures = [next(signed) for _ in row]
            parts = tuple(_hashed(texts) for texts in row)
            found = None
            if any(row):
                found = self._nearest(parts, self._candidates(example.kind, signatures))
                if found is None:
                    for number, signature in enumerate(signatures):
                        self._index(example.kind, number).lsh.insert(len(self._ids), signature)
                    self._ids.append(example.id)
                    self._parts.append(parts)
            yield found

    def _candidates(self, kind: str, signatures: Sequence[RMinHash]) -> list[int]:
        """The rows kept that may be alike in all parts.

        Some parts tell little, such as one instruction before every text, or a reply that is one of two words. The part
        that has told rows apart best so far is asked first, and the others only while many candidates are left.
        """
        order = sorted(range(len(signatures)), key=lambda number: self._index(kind, number).found_a_query)
        left: set[int] | None = None
        for number in order:
            found = self._index(kind, number).query(signatures[number])
            left = set(found) if left is None else left.intersection(found)
            if len(left) <= _FEW:
                break
        return sorted(left or ())

    def _index(self, kind: str, number: int) -> _PartIndex:
        index = self._indexes.get((kind, number))
        if index is None:
            index = _PartIndex(self._similarity, self._hashes, self._hashes // self._rows_a_band)
            self._indexes[kind, number] = index
        return index

    def _nearest(self, parts: _Parts, candidates: Sequence[int]) -> NearDuplicate | None:
        """The most similar candidate, the earliest of them where several are."""
        best: NearDuplicate | None = None
        for number in candidates:
            alike = _likeness(parts, self._parts[number])
            if alike >= self._similarity and (best is None or alike > best.similarity):
                best = NearDuplicate(of=self._ids[number], similarity=alike)
        return best


class _PartIndex:
    """The signatures of one part of all rows kept, and how many of them a query has found on average."""

    def __init__(self, similarity: float, hashes: int, bands: int) -> None:
        from rensa import RMinHashLSH

        self.lsh = RMinHashLSH(similarity, hashes, bands)
        self._queries = 0
        self._found = 0

    @property
    def found_a_query(self) -> float:
        return self._found / self._queries if self._queries else 0.0

    def query(self, signature: RMinHash) -> list[int]:
        found: list[int] = self.lsh.query(signature)
        self._queries += 1
        self._found += len(found)
        return found


def _rows_a_band(similarity: float) -> int:
    """How many hashes must agree at once for two rows to become candidates: as many as the recall allows, because each
    more keeps candidates away that would be checked in vain."""
    best = 1
    for rows in range(2, 33):
        if 1 - (1 - similarity**rows) ** (_HASHES // rows) >= _RECALL:
            best = rows
    return best


def _parts(example: Example) -> tuple[str, ...]:
    """What has to be alike for two examples to be near duplicates, each by itself. System prompts are left out."""
    match example:
        case Conversation():
            replies = "\n".join(_said(turn) for turn in example.messages if turn.role == "assistant")
            if example.grounding is not None:
                return (example.grounding.question, replies)
            asked = (turn for turn in example.messages if turn.role in ("user", "tool"))
            return ("\n".join(turn.content for turn in asked), replies)
        case PlainText():
            return (example.text,)
        case Preference():
            return (_of_turns(example.prompt), _of_turns(example.chosen), _of_turns(example.rejected))
        case RatedReply():
            return (_of_turns(example.prompt), _of_turns(example.completion), str(example.wanted))
        case LabelledText():
            return (example.text, example.second_text or "", f"label {example.label}")
        case TextPair():
            return (example.first, example.second, "" if example.score is None else f"score {example.score}")
        case RetrievalExample():
            return (example.query, "\n".join(example.positives), "\n".join(example.negatives))


def _of_turns(turns: Sequence[Turn]) -> str:
    return "\n".join(_said(turn) for turn in turns if turn.role not in ("system", "developer"))


def _said(turn: Turn) -> str:
    calls = (json.dumps(call.function.model_dump(mode="json"), sort_keys=True) for call in turn.tool_calls)
    return "\n".join((turn.reasoning_content or "", turn.content, *calls))


def _shingles(text: str) -> list[str]:
    """The word triples of `text`; of a shorter text, all its words as one."""
    words = words_of(text)
    if len(words) <= _SHINGLE:
        whole = " ".join(words) or text.strip()
        return [whole] if whole else []
    return list({f"{a} {b} {c}" for a, b, c in zip(words, words[1:], words[2:], strict=False)})


def _hashed(shingles: Sequence[str]) -> NDArray[np.uint32]:
    """Sorted 32-bit hashes. Of two rows with a thousand triples each, two different ones share a hash in one of four
    thousand cases, and then move the likeness by a thousandth."""
    import numpy as np
    from xxhash import xxh32_intdigest

    hashes = (xxh32_intdigest(text.encode()) for text in shingles)
    return np.unique(np.fromiter(hashes, dtype=np.uint32, count=len(shingles)))


def _likeness(one: _Parts, other: _Parts) -> float:
    import numpy as np

    least = 1.0
    for mine, yours in zip(one, other, strict=True):
        if not len(mine) and not len(yours):
            continue
        shared = len(np.intersect1d(mine, yours, assume_unique=True))
        least = min(least, shared / (len(mine) + len(yours) - shared))
    return least
