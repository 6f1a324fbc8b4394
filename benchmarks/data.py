"""Preparing conversations for training: hfkit against TRL's SFTTrainer on the same rows, tokenizer and machine.

    python benchmarks/data.py [--quick] [--json] [--xquad FILE]

Rows: questions over paragraphs of XQuAD (English), each made unique, so that no duplicate is dropped. Each preparation
is a process of its own, started warm (libraries imported, tokenizer loaded before the clock): from the JSONL file to
tokens and masks on disk. TRL runs at its defaults, which for a prompt and a completion train the completion alone, once
in one process and once with `dataset_num_proc=2`. Peak memory is that of the whole tree of processes. Beside them
stands what nobody gets below who uses this tokenizer: the time that it takes, on all cores, for the same texts in
memory, with nothing read, rendered, masked, checked or written.
Needs the extra `bench` and the embedded model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from own_process import PeakMemory, in_a_process
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


def tokenising_alone(folder: str) -> tuple[float, int, int]:
    """(seconds, peak bytes, tokens) of the tokenizer's own batch call on the texts of all rows, without a template."""
    from hfkit.models.loading import load_tokenizer
    from hfkit.recipe import ModelSection

    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    backend = load_tokenizer(ModelSection(base=MODEL)).backend_tokenizer
    with Path(folder, "rows.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [row["prompt"][0]["content"] + row["completion"][0]["content"] for row in rows]
    with PeakMemory() as memory:
        started = time.perf_counter()
        tokens = 0
        for first in range(0, len(texts), 500):
            encoded = backend.encode_batch_fast(texts[first : first + 500], add_special_tokens=False)
            tokens += sum(len(encoding.ids) for encoding in encoded)
        seconds = time.perf_counter() - started
    return seconds, memory.peak, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    parser.add_argument("--xquad", type=Path, default=XQUAD, help="xquad.en.json")
    arguments = parser.parse_args()
    rows = 4_000 if arguments.quick else 100_000
    results: list[Result] = []
    goals: list[Goal] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_conversations(arguments.xquad, rows, folder / "rows.jsonl")
        measured = {
            "hfkit": in_a_process(with_hfkit, name),
            "TRL": in_a_process(with_trl, name, None),
            "TRL, two processes": in_a_process(with_trl, name, 2),
            "tokenising alone": in_a_process(tokenising_alone, name),
        }
        for who, (seconds, peak, tokens) in measured.items():
            results.append(Result(f"{who}: {rows:,} conversations", rows / seconds, "rows/s"))
            results.append(Result(f"{who}: tokens prepared", tokens, "tokens"))
            results.append(Result(f"{who}: peak memory", peak / MEBIBYTE, "MiB"))
        for peer in ("TRL", "TRL, two processes"):
            faster = measured[peer][0] / measured["hfkit"][0]
            results.append(Result(f"hfkit against {peer}", faster, "times as fast"))
            most = measured[peer][0] / measured["tokenising alone"][0]
            results.append(Result(f"tokenising alone against {peer}", most, "times as fast"))
            if peer == "TRL":
                goals.append(Goal("faster than TRL", ">= 8 times", faster, faster >= 8))
    report("data", results, goals, as_json=arguments.json, keep=not arguments.quick)


if __name__ == "__main__":
    main()
