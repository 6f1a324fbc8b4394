"""Texts to tokens, many at once: what stands between added tokens is tokenised once for all texts that share it.

A fast tokenizer first splits a text at its added tokens and then treats every stretch between them by itself: where a
stretch stands matters only in whether it opens the text. So a stretch that follows an added token has the tokens that
it has after any added token, and a conversation's prompts and replies, which repeat each other, are tokenised once.
Tokenizers for which that does not hold (tokens that swallow the spaces beside them, tokenizers written in Python) get
every text whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfkit.data.special_tokens import any_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Tokens of stretches that are kept for later texts: some 100 MB.
_REMEMBERED = 2_000_000

# Texts whose tokens must be the same both ways before the fast way is taken.
_SAMPLES = (
    "{0}user\nHello there, 12345 + 67!{1}\n{0}assistant\nÀ bientôt 🙂 x\u0301{1}\n",
    "Begin {0} middle {1}end ",
    " {0}{1} {0} \n\n{1}\t\n",
    "{1}▁a  b{0}don't\r\n  I've{1} ",
)


class Tokens:
    """Tokenises texts that hold all the special tokens they are to have; the tokenizer adds none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, whole: bool = False) -> None:
        self._tokenizer = tokenizer
        self._backend: Tokenizer | None = None
        self._known: dict[tuple[bool, str], list[int]] = {}
        self._remembered = 0
        added = tokenizer.added_tokens_decoder
        # Tokens that are matched only after normalisation stay inside the stretches.
        exact = {token.content: number for number, token in added.items() if not token.normalized and token.content}
        self._numbers = exact
        self._split = re.compile(f"({any_of(exact).pattern})")
        plain = not any(token.lstrip or token.rstrip or token.single_word for token in added.values())
        if not whole and plain and exact:
            self._anchor = next(iter(exact))
            self._backend = _backend_of(tokenizer)
            samples = [sample.format(first, second) for sample in _SAMPLES for first, second in _pairs(list(exact))]
            if self._backend is not None and self.encode_many(samples) != self._encode_whole(samples):
                self._backend = None
            self._known.clear()

    @property
    def splits(self) -> bool:
        """Whether texts are tokenised stretch by stretch."""
        return self._backend is not None

    def encode(self, text: str) -> list[int]:
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of every text."""
        if self._backend is None:
            return self._encode_whole(texts)
        split = self._split.split
        # Stretch, added token, stretch, …, stretch.
        pieces = [split(text) for text in texts]
        self._learn(self._backend, pieces)
        known, numbers = self._known, self._numbers
        encoded = []
        for parts in pieces:
            ids: list[int] = []
            for position, part in enumerate(parts):
                if position % 2:
                    ids.append(numbers[part])
                elif part:
                    ids += known[position == 0, part]
            encoded.append(ids)
        return encoded

    def _learn(self, backend: Tokenizer, pieces: Sequence[Sequence[str]]) -> None:
        if self._remembered > _REMEMBERED:
            self._known.clear()
            self._remembered = 0
        known = self._known
        wanted = {
            (place == 0, part): None
            for parts in pieces
            for place, part in enumerate(parts)
            if place % 2 == 0 and part and (place == 0, part) not in known
        }
        if not wanted:
            return
        _without_additions(backend)
        inputs = [part if opens else self._anchor + part for opens, part in wanted]
        for (opens, part), encoding in zip(
            wanted, backend.encode_batch_fast(inputs, add_special_tokens=False), strict=True
        ):
            ids = known[opens, part] = encoding.ids if opens else encoding.ids[1:]
            self._remembered += len(ids)

    def _encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        unique = list(dict.fromkeys(texts))
        if not unique:
            return []
        ids: list[list[int]] = self._tokenizer(unique, add_special_tokens=False)["input_ids"]
        known = dict(zip(unique, ids, strict=True))
        return [list(known[text]) for text in texts]


def _backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    from transformers import PreTrainedTokenizerFast

    return tokenizer.backend_tokenizer if isinstance(tokenizer, PreTrainedTokenizerFast) else None


def _without_additions(backend: Tokenizer) -> None:
    """Padding, truncation and the like are settings that other calls leave behind."""
    if backend.padding is not None:
        backend.no_padding()
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.encode_special_tokens:
        backend.encode_special_tokens = False


def _pairs(tokens: Sequence[str]) -> list[tuple[str, str]]:
    return [(tokens[0], tokens[-1]), (tokens[-1], tokens[len(tokens) // 2])]
