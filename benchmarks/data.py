"""Preparing conversations for training: hfkit against TRL's SFTTrainer on the same rows, tokenizer and machine.

    python benchmarks/data.py [--quick] [--json] [--xquad FILE]

Rows: questions over paragraphs of XQuAD (English), each made unique, so that no duplicate is dropped. Each preparation
is a process of its own, started warm (libraries imported, tokenizer loaded before the clock): from the JSONL file to
tokens and masks on disk. TRL runs at its defaults, which for a prompt and a completion train the completion alone, once
in one process and once with `dataset_num_proc=2`. Peak memory is that of the
whole tree of processes. The last part lands five million rows of CSV and of SQL as Parquet.
Needs the extra `bench` and the embedded model.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import random
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from report import Goal, Result, report

XQUAD = Path(__file__).resolve().parents[2] / "shared" / "data" / "xquad.en.json"
MODEL = "embedded:smollm2-135m-instruct"
MEBIBYTE = 2**20


def write_conversations(xquad: Path, rows: int, path: Path) -> None:
    """Two turns a row, about 230 tokens."""
    asked = [
        (paragraph["context"], qa["question"], qa["answers"][0]["text"])
        for article in json.loads(xquad.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            context, question, answer = asked[number % len(asked)]
            row = {
                "prompt": [{"role": "user", "content": f"{context}\n\nQuestion {number}: {question}"}],
                "completion": [{"role": "assistant", "content": f"{answer} ({number})"}],
            }
            file.write(json.dumps(row) + "\n")


class PeakMemory:
    """The largest sum of resident memory of this process and its children while the block runs, in bytes."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = self._now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        process = psutil.Process()
        total = 0
        for one in (process, *process.children(recursive=True)):
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total


def with_hfkit(folder: str) -> tuple[float, int, int]:
    """(seconds, peak bytes, tokens) of the data stage."""
    from hfkit.data import prepare as prepare_module
    from hfkit.models.loading import load_tokenizer
    from hfkit.progress import Progress
    from hfkit.recipe import Recipe
    from hfkit.stage import StageContext

    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "model": {"base": MODEL},
            "data": {"sources": [{"path": f"{folder}/rows.jsonl"}], "splits": {"test": 1}},
        }
    )
    assert recipe.model is not None
    load_tokenizer(recipe.model)
    place = Path(folder) / "hfkit"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    with PeakMemory() as memory:
        started = time.perf_counter()
        result = prepare_module.prepare(StageContext(recipe, place, {}, Progress(quiet=True)))
        seconds = time.perf_counter() - started
    return seconds, memory.peak, result.train.tokens + result.test.tokens


def with_trl(folder: str, processes: int | None) -> tuple[float, int, int]:
    """(seconds, peak bytes, tokens) of SFTTrainer's preparation; its model is a stand-in of one tiny layer."""
    from datasets import load_dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    from hfkit.models.loading import load_tokenizer
    from hfkit.recipe import ModelSection

    tokenizer = load_tokenizer(ModelSection(base=MODEL))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    arguments = SFTConfig(
        output_dir=f"{folder}/trl",
        dataset_num_proc=processes,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    with PeakMemory() as memory:
        started = time.perf_counter()
        cache = f"{folder}/cache-{processes}"
        rows = load_dataset("json", data_files=f"{folder}/rows.jsonl", split="train", cache_dir=cache)
        trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        seconds = time.perf_counter() - started
    assert trainer.train_dataset is not None
    return seconds, memory.peak, sum(len(ids) for ids in trainer.train_dataset["input_ids"])


def land(path: str, kind: str) -> tuple[float, int, int]:
    """(seconds, peak bytes, rows) of landing a source of many rows."""
    from hfkit.data.landing import Strata, land_source
    from hfkit.data.ledger import Ledger
    from hfkit.recipe import DataSection

    source = (
        {"path": path} if kind == "csv" else {"sql": "SELECT prompt, completion FROM rows", "url": f"sqlite:///{path}"}
    )
    data = DataSection.model_validate({"sources": [source]})
    (only,) = data.sources
    with PeakMemory() as memory:
        started = time.perf_counter()
        landed = land_source(
            only,  # type: ignore[arg-type]
            0,
            Path(f"{path}.landed"),
            splits=data.splits,
            quality=data.quality,
            strata=Strata(),
            allow_code=False,
            ledger=Ledger(),
        )
        seconds = time.perf_counter() - started
    return seconds, memory.peak, len(landed.keys)


def in_a_process(work: Callable[..., tuple[float, int, int]], *arguments: object) -> tuple[float, int, int]:
    # Not a daemon: the preparation starts processes of its own.
    start = multiprocessing.get_context("spawn")
    ours, theirs = start.Pipe(duplex=False)
    process = start.Process(target=_answer, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    result: tuple[float, int, int] = ours.recv()
    process.join()
    return result


def _answer(connection: object, work: Callable[..., tuple[float, int, int]], arguments: tuple[object, ...]) -> None:
    connection.send(work(*arguments))  # type: ignore[attr-defined]


def write_many(folder: Path, rows: int) -> tuple[Path, Path]:
    """The same rows as CSV and as an SQLite table."""
    words = [f"word{number}" for number in range(2000)]
    choose = random.Random(7)
    table, database = folder / "many.csv", folder / "many.db"
    with table.open("w", newline="", encoding="utf-8") as file, sqlite3.connect(database) as connection:
        writer = csv.writer(file)
        writer.writerow(("prompt", "completion"))
        connection.execute("CREATE TABLE rows (prompt TEXT, completion TEXT)")
        for start in range(0, rows, 10_000):
            part = [
                (f"{number} {' '.join(choose.choices(words, k=8))}", " ".join(choose.choices(words, k=8)))
                for number in range(start, min(rows, start + 10_000))
            ]
            writer.writerows(part)
            connection.executemany("INSERT INTO rows VALUES (?, ?)", part)
    return table, database


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    parser.add_argument("--xquad", type=Path, default=XQUAD, help="xquad.en.json")
    arguments = parser.parse_args()
    rows = 4_000 if arguments.quick else 100_000
    many = 100_000 if arguments.quick else 5_000_000
    results: list[Result] = []
    goals: list[Goal] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_conversations(arguments.xquad, rows, folder / "rows.jsonl")
        measured = {
            "hfkit": in_a_process(with_hfkit, name),
            "TRL": in_a_process(with_trl, name, None),
            "TRL, two processes": in_a_process(with_trl, name, 2),
        }
        for who, (seconds, peak, tokens) in measured.items():
            results.append(Result(f"{who}: {rows:,} conversations", rows / seconds, "rows/s"))
            results.append(Result(f"{who}: tokens prepared", tokens, "tokens"))
            results.append(Result(f"{who}: peak memory", peak / MEBIBYTE, "MiB"))
        for peer in ("TRL", "TRL, two processes"):
            faster = measured[peer][0] / measured["hfkit"][0]
            results.append(Result(f"hfkit against {peer}", faster, "times as fast"))
            if peer == "TRL":
                goals.append(Goal("faster than TRL", ">= 8 times", faster, faster >= 8))
        for kind, path in zip(("csv", "sql"), write_many(folder, many), strict=True):
            seconds, peak, landed = in_a_process(land, str(path), kind)
            results.append(Result(f"landing {landed:,} rows of {kind}", landed / seconds, "rows/s"))
            results.append(Result(f"landing {landed:,} rows of {kind}: peak memory", peak / MEBIBYTE, "MiB"))
            goals.append(Goal(f"memory of landing {kind}", "< 1536 MiB", peak / MEBIBYTE, peak < 1536 * MEBIBYTE))
            path.unlink()
            shutil.rmtree(f"{path}.landed")
    report("data", results, goals, as_json=arguments.json, keep=not arguments.quick)


if __name__ == "__main__":
    main()
