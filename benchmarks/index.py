"""Indexing side by side: this project's index against LangChain's usual pipeline, on one corpus with one model.

    python benchmarks/index.py [FOLDER] [--runs N] [--quick] [--json]

FOLDER is in BEIR's layout, by default ../shared/data/scifact. Either side runs in processes of its own on two cores,
taking turns; medians of three runs, or of as many as `--runs` says (`--quick`: 500 documents, once, and keeps no
result). Times run from the corpus's file to a whole index on the disk; loading the model and a warm-up come before.

LangChain's side is `HuggingFaceEmbeddings` and `FAISS.from_documents` at their defaults, a document an abstract, then
`save_local`; it needs `pip install hfkit[bench]`. The class comes from langchain-huggingface where that is installed,
else from langchain-community: both make the same call. This side is the chunk settings of `recipes/scifact.yaml`: every
token is embedded, while LangChain's side reads of each abstract what the model's limit leaves.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from beir_sample import changed, corpus_rows, write_corpus, write_sample
from report import Goal, Result, report

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "scifact.yaml"
FOLDER = ROOT.parent / "shared" / "data" / "scifact"
CORES = 2
DEPTH = 10
MODEL = "all-minilm-l6-v2"
PEERS = ("langchain-huggingface", "langchain-community", "langchain-core")

Figures = dict[str, Any]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ours(folder: Path, place: Path) -> Figures:
    """Index `folder` from nothing, unchanged, and with 1% of it changed; then its dense nDCG@10."""
    from hfkit.models.embedded import MODELS, fetch
    from hfkit.quiet import quiet_libraries
    from hfkit.recipe import load_recipe
    from rag import ChunkSettings, Index, SearchSettings, SentenceTransformerEmbedder, load_corpus
    from rag.measure import rank_documents
    from rag.metrics import mean_scores, score_rankings
    from rag.qrels import read_judged_queries

    with quiet_libraries():
        embedder = SentenceTransformerEmbedder.load(fetch(MODELS[MODEL]))
    rows = corpus_rows(folder)
    embedder.encode_passages([row["text"][:800] for row in rows[:64]])
    recipe = load_recipe(RECIPE)
    assert recipe.rag is not None
    settings = ChunkSettings(**recipe.rag.chunk.model_dump())

    def sync(corpus: Path) -> None:
        with Index.create_or_open(place / "index", embedder, settings) as index:
            index.sync(load_corpus([f"beir:{corpus}"]))

    working = place / "corpus"
    write_corpus(working, rows)
    first = timed(lambda: sync(working))
    unchanged = statistics.median(timed(lambda: sync(working)) for _ in range(3))
    judged = read_judged_queries(folder, "test")
    with Index.open(place / "index", embedder) as index:
        tokens = [chunk.tokens for chunk in index.chunks()]
        ranked = rank_documents(index, judged, SearchSettings(mode="dense"), DEPTH)
    ndcg = mean_scores(score_rankings(ranked, judged.relevant, [DEPTH]))[f"ndcg@{DEPTH}"]
    write_corpus(working, changed(rows, 0.01))
    revised = timed(lambda: sync(working))
    return {
        "documents": len(rows),
        "first": first,
        "unchanged": unchanged,
        "revised": revised,
        "ndcg": ndcg,
        "tokens": sum(tokens),
        "chunks": len(tokens),
        "flops": sum(encoder_flops(fetch(MODELS[MODEL]), count) for count in tokens),
        "precision": embedder.precision_reason,
    }


def langchain(folder: Path, place: Path) -> Figures:
    """The same corpus through HuggingFaceEmbeddings and FAISS, at their defaults; then its nDCG@10."""
    import warnings

    warnings.simplefilter("ignore")  # langchain-community says at every import that it is no longer developed
    from langchain_community.vectorstores import FAISS
    from langchain_core.documents import Document

    from hfkit.models.embedded import MODELS, fetch
    from hfkit.quiet import quiet_libraries
    from rag import SentenceTransformerEmbedder
    from rag.metrics import mean_scores, score_rankings
    from rag.qrels import read_judged_queries

    try:
        from langchain_huggingface import HuggingFaceEmbeddings
    except ImportError:
        from langchain_community.embeddings import HuggingFaceEmbeddings

    with quiet_libraries():
        embeddings = HuggingFaceEmbeddings(model_name=str(fetch(MODELS[MODEL])))
    rows = corpus_rows(folder)
    embeddings.embed_documents([row["text"][:800] for row in rows[:64]])
    working = place / "corpus"
    write_corpus(working, rows)
    found: list[FAISS] = []

    def index() -> None:
        documents = [
            Document(page_content=f"{row['title']} {row['text']}", metadata={"id": row["_id"]})
            for row in corpus_rows(working)
        ]
        store = FAISS.from_documents(documents, embeddings)
        store.save_local(str(place / "index"))
        found.append(store)

    first = timed(index)
    judged = read_judged_queries(folder, "test")
    ranked = {
        id: [document.metadata["id"] for document in found[0].similarity_search(text, k=DEPTH)]
        for id, text in judged.queries.items()
    }
    ndcg = mean_scores(score_rankings(ranked, judged.relevant, [DEPTH]))[f"ndcg@{DEPTH}"]
    embedder = SentenceTransformerEmbedder.load(fetch(MODELS[MODEL]))
    whole = embedder.count_tokens([f"{row['title']} {row['text']}" for row in rows])
    tokens = [min(count, embedder.max_tokens) for count in whole]
    return {
        "documents": len(rows),
        "first": first,
        "ndcg": ndcg,
        "tokens": sum(tokens),
        "flops": sum(encoder_flops(fetch(MODELS[MODEL]), count) for count in tokens),
        "peak_gibibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def matmul(folder: Path, place: Path) -> Figures:
    """The machine's matmul peak in GFLOP/s: the best of three sizes, each the best of five. bfloat16 is measured where
    the hardware computes in it: emulated, one product of the largest size takes minutes."""
    import torch

    from rag.embedder import choose_precision

    peaks = {}
    formats = {"float32": torch.float32} | ({"bfloat16": torch.bfloat16} if choose_precision("auto")[0] else {})
    for name, dtype in formats.items():
        best = 0.0
        for size in (1024, 2048, 4096):
            left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
            seconds = min(timed(lambda left=left, right=right: left @ right) for _ in range(5))
            best = max(best, 2 * size**3 / seconds / 1e9)
        peaks[name] = best
    return peaks


def encoder_flops(model: Path, tokens: int) -> float:
    """Floating-point operations of a BERT encoder on one text: the four projections, the two feed-forward layers, and
    the two products of attention; two operations a multiplication."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    return float(layers * (8 * hidden**2 * tokens + 4 * hidden * inner * tokens + 4 * hidden * tokens**2))


SIDES: dict[str, Callable[[Path, Path], Figures]] = {"ours": ours, "langchain": langchain, "matmul": matmul}


def in_a_process(side: str, folder: Path) -> Figures:
    """One side in a process of its own, on CORES cores, with caches of its own."""
    threads = {name: str(CORES) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [sys.executable, __file__, str(folder), "--side", side, "--place", place],
            env=os.environ | threads | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
            stdout=subprocess.PIPE,
            text=True,
        )
    if done.returncode:
        raise SystemExit(f"the side {side} ended with exit code {done.returncode}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_side(side: str, folder: Path, place: Path) -> None:
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, available[:CORES])
    figures = SIDES[side](folder, place)
    figures.setdefault("peak_gibibytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="a folder in BEIR's layout")
    parser.add_argument("--runs", type=int, default=3, help="how often each side runs (default: 3)")
    parser.add_argument("--quick", action="store_true", help="500 documents, once; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    parser.add_argument("--side", choices=sorted(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run_side(arguments.side, arguments.folder, arguments.place)
        return
    runs = 1 if arguments.quick else arguments.runs
    figures: dict[str, list[Figures]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder.resolve()
        if arguments.quick:
            folder = write_sample(folder, Path(name) / "sample", documents=500)
        for _ in range(runs):
            for side in SIDES:
                figures[side].append(in_a_process(side, folder))
    results, goals = judged(figures, runs)
    report("index", results, goals, as_json=arguments.json, keep=not arguments.quick)


def judged(figures: dict[str, list[Figures]], runs: int) -> tuple[list[Result], list[Goal]]:
    def median(side: str, key: str) -> float:
        return statistics.median(one[key] for one in figures[side])

    mine, theirs = median("ours", "first"), median("langchain", "first")
    documents = figures["ours"][0]["documents"]
    dtype = "bfloat16" if figures["ours"][0]["precision"].startswith("bfloat16") else "float32"
    speed = figures["ours"][0]["flops"] / mine / 1e9
    faster, apart = theirs / mine, median("ours", "ndcg") - median("langchain", "ndcg")
    unchanged, revised = median("ours", "unchanged") / mine, median("ours", "revised") / mine
    share = speed / median("matmul", dtype)
    tokens, their_tokens = (figures[side][0]["tokens"] for side in ("ours", "langchain"))
    their_speed = figures["langchain"][0]["flops"] / theirs / 1e9
    # Were this side's arithmetic all that is done, at the peak of its format, on the very tokens that LangChain reads.
    most = median("matmul", dtype) / their_speed
    peers = [f"{peer} {found}" for peer in PEERS if (found := installed(peer))]
    results = [
        Result("this index, from nothing", documents / mine, "documents/s", runs),
        Result(f"LangChain ({', '.join(peers)}), from nothing", documents / theirs, "documents/s", runs),
        Result("this index against LangChain", faster, "times", runs),
        Result("this index, from nothing", mine, "s", runs),
        Result("LangChain, from nothing", theirs, "s", runs),
        Result("this index, unchanged", median("ours", "unchanged"), "s", runs),
        Result("this index, 1% changed", median("ours", "revised"), "s", runs),
        Result("this index, chunks", figures["ours"][0]["chunks"], "chunks"),
        Result("this index, tokens embedded", tokens, "tokens"),
        Result("LangChain, tokens embedded", their_tokens, "tokens"),
        Result("this index, tokens a second", tokens / mine, "tokens/s", runs),
        Result("LangChain, tokens a second", their_tokens / theirs, "tokens/s", runs),
        Result("tokens a second against LangChain's", tokens / mine / (their_tokens / theirs), "times", runs),
        Result("this index, nDCG@10, dense", median("ours", "ndcg"), "of 1", runs),
        Result("LangChain, nDCG@10", median("langchain", "ndcg"), "of 1", runs),
        Result("this index, peak memory", median("ours", "peak_gibibytes"), "GiB", runs),
        Result("LangChain, peak memory", median("langchain", "peak_gibibytes"), "GiB", runs),
        *(
            Result(f"matmul peak, {name}", median("matmul", name), "GFLOP/s", runs)
            for name in ("float32", "bfloat16")
            if name in figures["matmul"][0]
        ),
        Result("this index, from nothing, arithmetic of the encoder", speed, f"GFLOP/s in {dtype}", runs),
        Result(f"this index, share of the {dtype} matmul peak", share, "of 1", runs),
        Result("LangChain, share of the float32 matmul peak", their_speed / median("matmul", "float32"), "of 1", runs),
        Result(f"the most that the {dtype} peak allows on LangChain's tokens", most, "times", runs),
    ]
    goals = [
        Goal("documents per second", ">= 4 times LangChain's", faster, faster >= 4),
        Goal("nDCG@10", "within 0.005 of LangChain's", apart, abs(apart) <= 0.005),
        Goal("unchanged corpus", "< 2% of the first time", unchanged, unchanged < 0.02),
        Goal("1% changed", "< 5% of the first time", revised, revised < 0.05),
    ]
    return results, goals


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
