"""Syncs an index back and forth between two corpora until it is killed: `python -m tests.rag.sync_for_ever FOLDER`."""

from __future__ import annotations

import sys

from rag.chunking import ChunkSettings
from rag.documents import Corpus
from rag.index import Index
from tests.rag.hash_embedder import HashEmbedder, make_corpus

SETTINGS = ChunkSettings(24, 4)


def corpus(kind: int) -> Corpus:
    """Two corpora that share no text; a third of the documents are in one alone."""
    return make_corpus(
        {
            f"{'both' if number % 3 else kind}-{number}.txt": f"Corpus {kind} says word{number * 7 + kind}. " * 6
            for number in range(24)
        }
    )


def main(folder: str) -> None:
    with Index.create_or_open(folder, HashEmbedder(), SETTINGS) as index:
        print("open", flush=True)
        while True:
            index.sync(corpus(index.generation % 2))
            print(index.generation, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
