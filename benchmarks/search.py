"""Search at 10 thousand, 100 thousand and 1 million chunks of 384 dimensions: time, recall, size, memory.

    python benchmarks/search.py [--quick] [--json]

Chunks are synthetic: their vectors lie in clusters, their texts are 60 words by Zipf's law, a fifth of them of their
cluster's own. The database is filled through the store's own functions, in one transaction a million, and the derived
files are built as every sync builds them. Each size is then searched in a process of its own, which has neither built
nor read anything before: hybrid search by queries of eight words and a vector near a chunk's, which costs no embedding.
Recall is against comparing with every vector. Filtered search is hybrid search of a tenth of the documents: once with a
filter that was not asked before (first), once with one that was (again). `--quick` leaves out the million.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from report import Goal, Result, report

from rag.chunking import Chunk, ChunkSettings
from rag.codes import encode
from rag.corpus import Document, Section
from rag.embedder import Progress, Vectors
from rag.index import Index
from rag.index_files import DATABASE
from rag.layout import IndexSettings
from rag.search import SearchSettings
from rag.store import Store

DIMENSION = 384
SIZES = (10_000, 100_000, 1_000_000)
CHUNKS_A_DOCUMENT = 50
WORDS_A_CHUNK = 60
WORDS_A_QUERY = 8
VOCABULARY = 200_000
QUERIES = 300
WARM_UP = 20
SHELVES = 10
FIRST_FILTERS = 50

Numbers = npt.NDArray[np.int64]


class Synthetic:
    """A corpus of `size` chunks that is the same whenever it is asked for."""

    def __init__(self, size: int) -> None:
        random = np.random.default_rng(size)
        self.size, self.clusters = size, max(64, int(size**0.5))
        self.centres = _unit(random.standard_normal((self.clusters, DIMENSION), dtype=np.float32))
        self.cluster = random.integers(0, self.clusters, size)
        shares = 1 / np.arange(1, VOCABULARY + 1) ** 1.05
        self._cumulated = np.cumsum(shares / shares.sum())
        self.vocabulary = [_word(number) for number in range(VOCABULARY)]

    def blocks(self, texts: bool = True) -> Iterator[tuple[int, Vectors, list[str]]]:
        """(number of the first chunk, vectors, texts if wanted), some thousands at a time."""
        for first in range(0, self.size, 10_000):
            random = np.random.default_rng([self.size, first])
            cluster = self.cluster[first : first + 10_000]
            yield first, self._near(self.centres[cluster], random), self._texts(cluster, random) if texts else []

    def queries(self) -> tuple[list[str], Vectors]:
        """Texts, and vectors near chunks that are there."""
        random = np.random.default_rng([self.size, 1, 1])
        texts: list[str] = []
        rows = []
        for _, vectors, chunks in self.blocks():
            for at in random.choice(len(chunks), max(1, (QUERIES + WARM_UP) * len(chunks) // self.size), replace=False):
                texts.append(" ".join(random.choice(chunks[at].split(), WORDS_A_QUERY, replace=False)))
                rows.append(vectors[at])
        return texts, _unit(np.array(rows) + 0.02 * random.standard_normal((len(rows), DIMENSION), dtype=np.float32))

    def _near(self, centres: Vectors, random: np.random.Generator) -> Vectors:
        return _unit(centres + 0.06 * random.standard_normal(centres.shape, dtype=np.float32))

    def _texts(self, cluster: Numbers, random: np.random.Generator) -> list[str]:
        drawn = np.searchsorted(self._cumulated, random.random((len(cluster), WORDS_A_CHUNK)))
        # Each cluster has a hundred words of its own from the middle of the vocabulary.
        own = 1000 + (cluster[:, None] * 97 + random.integers(0, 100, drawn.shape)) % (VOCABULARY - 2000)
        numbers = np.where(random.random(drawn.shape) < 0.2, own, drawn.clip(max=VOCABULARY - 1))
        return [" ".join([self.vocabulary[number] for number in row]) for row in numbers.tolist()]


class StoredQueries:
    """An embedder that has embedded these queries already."""

    name, revision, dimension, max_tokens, query_prompt, passage_prompt = "synthetic", "1", DIMENSION, 512, "", ""

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        self._known = dict(zip(texts, vectors, strict=True))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode_passages(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        raise NotImplementedError("the chunks come with their vectors")

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return np.array([self._known[text] for text in texts], dtype=np.float32).reshape(len(texts), DIMENSION)


def fill(folder: Path, corpus: Synthetic) -> None:
    """The database alone; opening the index makes the files that are derived from it."""
    nothing = StoredQueries((), np.zeros((0, DIMENSION), dtype=np.float32))
    store = Store.create_or_open(folder / DATABASE, nothing, ChunkSettings(128, 0), IndexSettings(), 10)
    with store.database.transaction():
        for first, vectors, texts in corpus.blocks():
            for at in range(0, len(texts), CHUNKS_A_DOCUMENT):
                some = texts[at : at + CHUNKS_A_DOCUMENT]
                id = f"{first + at:09}"
                chunks, start = [], 0
                for position, text in enumerate(some):
                    chunks.append(Chunk(id, position, (), start, start + len(text), text, WORDS_A_CHUNK))
                    start += len(text) + 1
                text = "\n".join(some)
                number = (first + at) // CHUNKS_A_DOCUMENT
                metadata: dict[str, str | int | float | bool] = {"shelf": number % SHELVES, "number": number}
                document = Document(id, id, text, (Section((), 0, len(text)),), metadata=metadata)
                store.insert_document(document, chunks, encode(vectors[at : at + CHUNKS_A_DOCUMENT], store.storage))
        store.next_generation()
    store.database.settle()
    store.database.close()


def measure(folder: Path) -> dict[str, object]:
    """What a process finds that opens the index for the first time."""
    texts, vectors = _queries_in(folder)
    embedder = StoredQueries(texts, vectors)
    started = time.perf_counter()
    index = Index.open(folder, embedder)
    opened = time.perf_counter()
    index.search(texts[0])
    answered = time.perf_counter()
    seconds: dict[str, list[float]] = {}
    for mode in ("hybrid", "dense", "lexical"):
        settings = SearchSettings(mode=mode, top_k=10)  # type: ignore[arg-type]
        for query in texts[:WARM_UP]:
            index.search(query, settings)
        seconds[mode] = []
        for query in texts[WARM_UP:]:
            began = time.perf_counter()
            index.search(query, settings)
            seconds[mode].append(time.perf_counter() - began)
    again: dict[str, int] = {"shelf": 3}
    for name, queries in (("filtered, first", texts[WARM_UP:][:FIRST_FILTERS]), ("filtered, again", texts[WARM_UP:])):
        seconds[name] = []
        index.search(queries[0], SearchSettings(top_k=10, filter=again))
        for number, query in enumerate(queries, start=1):
            new = {**again, "number": {"gte": -number}}  # true of all
            settings = SearchSettings(top_k=10, filter=new if name == "filtered, first" else again)
            began = time.perf_counter()
            index.search(query, settings)
            seconds[name].append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    found = index.search_many(texts[WARM_UP:], SearchSettings("dense", 10))
    numbers = [[int(hit.chunk.document_id) + hit.chunk.position for hit in hits] for hits in found]
    index.close()
    return {
        "open": opened - started,
        "first": answered - opened,
        "seconds": seconds,
        "found": numbers,
        "peak": peak,
    }


def one_size(size: int) -> list[Result]:
    corpus = Synthetic(size)
    with tempfile.TemporaryDirectory(prefix="search-benchmark-") as place:
        folder = Path(place) / "index"
        started = time.perf_counter()
        fill(folder, corpus)
        filled = time.perf_counter()
        texts, vectors = corpus.queries()
        np.save(folder / "queries.npy", vectors)
        (folder / "queries.json").write_text(json.dumps(texts), encoding="utf-8")
        Index.open(folder, StoredQueries(texts, vectors)).close()
        built = time.perf_counter()
        command = [sys.executable, __file__, "--measure", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured = json.loads(done.stdout.splitlines()[-1])
        nearest = exact_neighbours(corpus, vectors[WARM_UP:], 10)
        shared = [len(set(mine) & set(best)) / 10 for mine, best in zip(measured["found"], nearest, strict=True)]
        sizes = {kind: _bytes_of(folder, kind) / size for kind in ("*.sqlite", "vectors-*", "lexical-*")}
    name = f"{size:,} chunks"
    results = [
        Result(f"{name}: filling the database", filled - started, "s"),
        Result(f"{name}: building the derived files", built - filled, "s"),
        Result(f"{name}: cold open", measured["open"], "s"),
        Result(f"{name}: first hybrid search", measured["first"], "s"),
        Result(f"{name}: recall@10 against exact search", statistics.mean(shared), "", len(shared)),
        Result(f"{name}: database", sizes["*.sqlite"], "bytes a chunk"),
        Result(f"{name}: vectors file", sizes["vectors-*"], "bytes a vector"),
        Result(f"{name}: postings file", sizes["lexical-*"], "bytes a chunk"),
        Result(f"{name}: peak memory of the searching process", measured["peak"], "MiB"),
    ]
    for mode, seconds in measured["seconds"].items():
        for percentile in (50, 99):
            value = 1000 * float(np.percentile(seconds, percentile))
            results.append(Result(f"{name}: {mode} p{percentile}", value, "ms", len(seconds)))
    return results


def exact_neighbours(corpus: Synthetic, queries: Vectors, limit: int) -> list[list[int]]:
    """The numbers of the nearest chunks, by comparing with all."""
    best = np.full((len(queries), 0), 0.0, dtype=np.float32)
    numbers = np.zeros((len(queries), 0), dtype=np.int64)
    for first, vectors, _ in corpus.blocks(texts=False):
        best = np.hstack([best, queries @ vectors.T])
        numbers = np.hstack([numbers, np.tile(np.arange(first, first + len(vectors)), (len(queries), 1))])
        kept = np.argpartition(-best, limit - 1, axis=1)[:, :limit]
        best, numbers = np.take_along_axis(best, kept, 1), np.take_along_axis(numbers, kept, 1)
    return numbers.tolist()


def _queries_in(folder: Path) -> tuple[list[str], Vectors]:
    return json.loads((folder / "queries.json").read_text(encoding="utf-8")), np.load(folder / "queries.npy")


def _bytes_of(folder: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))


def _unit(rows: npt.NDArray[np.float32]) -> Vectors:
    unit: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _word(number: int) -> str:
    """A word of its own for each number, of three to five syllables, which stemming does not make equal to another."""
    syllables = ""
    for _ in range(4):
        number, digit = divmod(number, 40)
        syllables += "bdfgklmnprtvzhjq"[digit % 16] + "aou"[digit % 3]
    return f"{syllables}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the million; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    parser.add_argument("--sizes", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure))))
        return
    sizes = arguments.sizes or (SIZES[:-1] if arguments.quick else SIZES)
    results = [result for size in sizes for result in one_size(size)]
    goals = _goals({result.name: result.value for result in results}, max(sizes))
    keep = not arguments.quick and not arguments.sizes
    report("search", results, goals, as_json=arguments.json, keep=keep)


def _goals(measured: dict[str, float], largest: int) -> list[Goal]:
    """Of every size the recall; of the largest the time."""
    recalls = {name: value for name, value in measured.items() if "recall" in name}
    goals = [Goal(name, ">= 0.97", value, value >= 0.97) for name, value in recalls.items()]
    fastest = measured[f"{largest:,} chunks: hybrid p50"]
    opening = measured[f"{largest:,} chunks: cold open"]
    goals.append(Goal(f"hybrid p50 at {largest:,} chunks", "< 10 ms", fastest, fastest < 10))
    goals.append(Goal(f"cold open at {largest:,} chunks", "< 1 s", opening, opening < 1))
    return goals


if __name__ == "__main__":
    main()
