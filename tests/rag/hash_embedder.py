"""A deterministic embedder without weights, and corpora from a dict."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rag.documents import Corpus, Document
from rag.markdown import parse_markdown
from rag.readers.text import parse_text

Vectors = npt.NDArray[np.float32]


class HashEmbedder:
    """Each word has a random direction that its hash picks; a text is the sum of its words. One token a word, and two
    for the ends."""

    def __init__(
        self, name: str = "hash", revision: str = "1", dimension: int = 48, max_tokens: int = 512, prompt: str = ""
    ) -> None:
        self.name, self.revision, self.dimension, self.max_tokens = name, revision, dimension, max_tokens
        self.query_prompt, self.passage_prompt = prompt, prompt
        self.read: list[str] = []  # every passage that was encoded
        self.counted: list[str] = []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        self.counted += texts
        return [2 + len(text.split()) for text in texts]

    def encode_passages(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> Vectors:
        self.read += texts
        rows = self._rows(texts)
        if progress is not None:
            progress(len(texts), len(texts))
        return rows

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._rows(texts)

    def _rows(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                seed = int.from_bytes(hashlib.sha256(word.encode("utf-8")).digest()[:8], "big")
                row += np.random.default_rng(seed).standard_normal(self.dimension).astype(np.float32)
            row /= np.linalg.norm(row)
        return rows


def make_corpus(texts: dict[str, str]) -> Corpus:
    """Document id -> text; ids that end in .md are Markdown."""
    parsed: list[Document] = []
    for id, text in texts.items():
        parsed.append(parse_markdown(id, text) if id.endswith(".md") else parse_text(id, text))
    return Corpus(tuple(parsed))
