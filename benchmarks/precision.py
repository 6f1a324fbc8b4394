"""bfloat16 against float32 on this machine: embedding and training with the quickstart's models.

    python benchmarks/precision.py [--quick] [--json]

Both precisions take turns in one process, after a warm-up; medians of the runs. Quality: the cosine between the two
precisions' embeddings of a text, and the loss of the same training batch. Needs the embedded models in the cache.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from report import Goal, Result, report

from hfkit.models.embedded import MODELS, fetch
from hfkit.models.loading import load_model
from hfkit.models.tuned import with_new_adapter
from hfkit.quiet import quiet_libraries
from hfkit.recipe import AdapterSection, ModelSection
from hfkit.training.collation import CollateTrainedPositions, TrainingRow
from hfkit.training.loss import trained_token_loss
from rag import SentenceTransformerEmbedder, load_corpus
from rag.embedder import Vectors

DOCS = Path(__file__).resolve().parent.parent / "docs"
PRECISIONS = ("fp32", "bf16")


def interleaved(runs: int, work: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each piece of work, taking turns; one turn of each first that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(runs + 1):
        for name, piece in work.items():
            started = time.perf_counter()
            piece()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def embedding(runs: int, texts: list[str]) -> tuple[list[Result], float, float]:
    folder = fetch(MODELS["all-minilm-l6-v2"])
    with quiet_libraries():
        embedders = {p: SentenceTransformerEmbedder.load(folder, precision=p) for p in PRECISIONS}
    vectors: dict[str, Vectors] = {}

    def encode(name: str) -> None:
        vectors[name] = embedders[name].encode_passages(texts)

    seconds = interleaved(runs, {name: lambda name=name: encode(name) for name in embedders})
    cosine = float(np.mean(np.sum(vectors["fp32"] * vectors["bf16"], axis=1)))
    results = [Result(f"embedding, {name}", len(texts) / s, "texts/s", runs) for name, s in seconds.items()]
    return results, seconds["fp32"] / seconds["bf16"], cosine


def training(runs: int) -> tuple[list[Result], float, float]:
    base = fetch(MODELS["smollm2-135m-instruct"])
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (4, 256), generator=random).tolist()
    rows: list[list[TrainingRow]] = [[{"input_ids": row, "spans": [232, 256]}] for row in ids]
    batch = CollateTrainedPositions(pad_id=0, layout="padded")(rows)
    labels = batch.pop("labels")
    del batch["shift_labels"]
    losses: dict[str, float] = {}
    models = {}
    for name in PRECISIONS:
        settings = ModelSection.model_validate({"base": str(base), "precision": name})
        torch.manual_seed(0)
        model, _ = load_model(settings)
        models[name] = with_new_adapter(model, AdapterSection()).train()

    def step(name: str) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name == "bf16"):
            loss = trained_token_loss(models[name](**batch), labels)
        loss.backward()
        models[name].zero_grad()
        losses[name] = loss.item()

    seconds = interleaved(runs, {name: lambda name=name: step(name) for name in models})
    results = [Result(f"training, {name}", 4 * 256 / s, "tokens/s", runs) for name, s in seconds.items()]
    return results, seconds["fp32"] / seconds["bf16"], abs(losses["fp32"] - losses["bf16"]) / losses["fp32"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts and runs; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    arguments = parser.parse_args()
    texts = [d.text[s.start : s.end][:800] for d in load_corpus([str(DOCS)]).documents for s in d.sections]
    embedded, faster_embedding, cosine = embedding(2 if arguments.quick else 5, texts[: 32 if arguments.quick else 192])
    trained, faster_training, loss = training(2 if arguments.quick else 5)
    ratios = [
        Result("embedding, bf16 against fp32", faster_embedding, "times"),
        Result("training, bf16 against fp32", faster_training, "times"),
        Result("embedding, mean cosine of the two", cosine, ""),
        Result("training, relative difference of the loss", loss, ""),
    ]
    goals = [
        Goal("embedding faster", ">= 2 times", faster_embedding, faster_embedding >= 2),
        Goal("training faster", ">= 2 times", faster_training, faster_training >= 2),
        Goal("same embeddings", "mean cosine >= 0.999", cosine, cosine >= 0.999),
        Goal("same loss", "within 1%", loss, loss <= 0.01),
    ]
    report("precision", [*embedded, *trained, *ratios], goals, as_json=arguments.json, keep=not arguments.quick)


if __name__ == "__main__":
    main()
