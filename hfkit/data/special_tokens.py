"""Text that spells a special token: found, and broken so that it stays text.

Three kinds of tokens stand in a tokenizer beside its ordinary vocabulary, and are matched in text before anything else:

* control tokens: those flagged as special, those that stop a reply, and those that the chat template writes between
  turns, flagged or not. Only the template may write them; content that spells one is broken with a space of no width.
* markup, such as `<think>` and `<tool_call>`, where not flagged as special: words like any other, which people write in
  system prompts and which replies are made of. Content keeps them.
* padding to round numbers and the like: as markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BREAK = "\u200b"
"""Put inside a control token that stands in content: a space of no width."""

_FIXED = frozenset({"role", "type"})
_TAG = re.compile(r"</?[A-Za-z][\w-]*>")


def special_token_texts(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """The tokens that the tokenizer flags as special, in its vocabulary or by a name such as `eos_token`."""
    # Many tokenizers mark most of their special tokens in the vocabulary alone.
    marked = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return frozenset({*marked, *map(str, tokenizer.all_special_tokens)} - {""})


def is_markup(token: str, vocabulary: Collection[str]) -> bool:
    """Whether `token` is one half of a pair such as `<think>` and `</think>`, which encloses text."""
    name = token.removeprefix("</").removeprefix("<")
    return len(name) > 2 and _TAG.fullmatch(token) is not None and {f"<{name}", f"</{name}"} <= set(vocabulary)


class ControlTokens:
    """The tokens that only a template may write."""

    def __init__(self, tokens: Collection[str]) -> None:
        # Longest first, so that a token that begins with another is broken as itself.
        self.tokens = tuple(sorted(tokens, key=lambda token: (-len(token), token)))
        self.every = frozenset(tokens)
        self._pattern = any_of(self.tokens)
        ends = {token[0] for token in self.tokens} | {token[-1] for token in self.tokens}
        self._ends = re.compile(f"[{''.join(map(re.escape, sorted(ends)))}]") if ends else re.compile("(?!)")
        self._inside = "\0".join(token.lower() for token in self.tokens)
        self._longest = max(map(len, self.tokens), default=0)

    def spelled(self, text: str) -> set[str]:
        """The control tokens that stand in `text`."""
        return set(self._pattern.findall(text))

    def broken(self, text: str) -> str:
        """`text` with every control token in it broken."""
        while self._pattern.search(text):
            text = self._pattern.sub(lambda found: found[0][0] + BREAK + found[0][1:], text)
        return text

    def could_join(self, text: str) -> bool:
        """Whether `text`, which spells no control token, might become part of one beside what a template writes."""
        return self._ends.search(text) is not None or (
            0 < len(text) <= self._longest and text.strip().lower() in self._inside
        )

    def harmless(self, text: str) -> str:
        """`text` with a break around every character that could begin or end a control token, tags kept whole.

        Templates look for tags in content, so that what they do with the harmless text is what they do with `text`.
        """
        pieces = []
        end = 0
        for tag in _TAG.finditer(text):
            pieces += [self._apart(text[end : tag.start()]), tag[0]]
            end = tag.end()
        return "".join([*pieces, self._apart(text[end:])])

    def _apart(self, text: str) -> str:
        if 0 < len(text) <= self._longest and text.strip():
            return BREAK + self._ends.sub(rf"{BREAK}\g<0>{BREAK}", text) + BREAK
        return self._ends.sub(rf"{BREAK}\g<0>{BREAK}", text)


def any_of(texts: Collection[str]) -> re.Pattern[str]:
    """A pattern that finds any of `texts`, the longest where several begin at one place, as tokenizers match.

    Written as a tree of what the texts share, since some tokenizers have thousands of added tokens.
    """
    return re.compile(_tree(sorted(set(texts))) if texts else "(?!)")


def shared_start(first: str, second: str) -> str:
    """The longest text that both begin with."""
    for length, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return first[:length]
    return min(first, second, key=len)


def _tree(texts: Sequence[str]) -> str:
    """The pattern for sorted, different texts; an empty one among them makes the rest optional."""
    optional = texts[0] == ""
    branches = []
    for _, group in groupby(texts[optional:], key=lambda text: text[0]):
        together = list(group)
        shared = shared_start(together[0], together[-1])
        rest = [text[len(shared) :] for text in together]
        branches.append(re.escape(shared) + ("" if rest == [""] else _tree(rest)))
    if not optional:
        return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
    return f"(?:{'|'.join(branches)})?"


def texts_in(value: JsonValue) -> list[str]:
    """Every text in plain JSON, the keys of objects among them."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for key, item in value.items() for text in (key, *texts_in(item))]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts_in(item)]
    return []


def changed_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of plain JSON in which every text is changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        # The words that templates look for (`"role": "user"`, `"type": "string"`) and plain keys stay.
        return {
            key if key.isidentifier() else change(key): item
            if key in _FIXED and isinstance(item, str) and item.isalpha()
            else changed_texts(item, change)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [changed_texts(item, change) for item in value]
    return value
