"""Words and texts of examples: what duplicates and contamination are counted in."""

from __future__ import annotations

import re

# Scripts that are written without spaces between words: each of their characters counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
# Letters, digits and every sign but those that only punctuate a sentence: 2 + 2 and 2 - 2 are two questions.
_SIGN = re.compile(r"[^\W_]+|[^\s.,;:!?'\"\u2018-\u201f\u2026]")


def words_of(text: str) -> list[str]:
    """The words of `text` in lower case, without punctuation."""
    lowered = text.lower()
    return _ASCII_WORD.findall(lowered) if lowered.isascii() else _WORD.findall(lowered)


def wording(text: str) -> str:
    """What `text` says: two texts of one wording differ at most in case, spaces and the punctuation of sentences."""
    signs = _SIGN.findall(text.casefold())
    return " ".join(signs) if signs else text.strip()
