"""LoRA and QLoRA of a model with the shape of Llama 3 8B on one GPU: tokens a second, share of the peak, memory.

    python benchmarks/train_gpu.py [--tiny] [--json]

The train stage itself, over packs of 4,096 tokens; weights are random, since speed and memory do not depend on them.
FLOPs are those that the work needs, recomputation and padding not among them: a token takes four for each frozen weight
(forward, and backward to its input), six for each adapter's, 6 · width · row for attention in each layer, and for each
trained token four for each number of the output table. The peak is the dense bfloat16 one of the maker's data sheet
where the GPU is known, and is measured as well, with a product of square matrices. Memory is what PyTorch allocated at
most, against the plan of `hfkit check` less its CUDA context. `--tiny` runs a tiny shape anywhere, as a smoke test.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from own_process import in_a_process
from report import Goal, Result, report
from training_sides import Run, in_training_order, recipe_with, with_hfkit, write_prepared

from hfkit.memory.checking import MemoryReport, devices_of, report_memory
from hfkit.memory.shape import ModelShape, shape_of
from hfkit.recipe import AdapterSection
from hfkit.training.collation import TrainingRow

GIBIBYTE = 2**30
CAPACITY = 4096
ROWS_A_STEP = 32
# Dense bfloat16 FLOP/s by the maker's data sheets.
DATA_SHEETS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}


@dataclass(frozen=True)
class OnGpu:
    run: Run
    allocated: int


def write_model(folder: Path, tiny: bool) -> None:
    """A random model of the shape, and a tokenizer of a few words, which nothing but loading needs."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    sizes = (128, 256, 2, 4, 2, 600) if tiny else (4096, 14336, 32, 32, 8, 128256)
    hidden, intermediate, layers, heads, shared, vocabulary = sizes
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    words = {"<s>": 0, "</s>": 1, "<pad>": 2}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>").save_pretrained(folder)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def random_rows(steps: int, tiny: bool) -> list[TrainingRow]:
    """Rows of 256 to 2,048 tokens, the last quarter of each trained."""
    choose = random.Random(0)
    shrink = 32 if tiny else 1
    lengths = [choose.randint(256, 2048) // shrink for _ in range(steps * ROWS_A_STEP)]
    return [
        {"input_ids": [choose.randrange(3, 500) for _ in range(length)], "spans": [length * 3 // 4, length]}
        for length in lengths
    ]


def on_gpu(model: str, rows: list[TrainingRow], sections: dict[str, dict[str, object]]) -> OnGpu:
    run = with_hfkit(model, rows, 2, sections)
    return OnGpu(run, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else run.peak_bytes)


def needed_flops(shape: ModelShape, rows: list[TrainingRow]) -> float:
    tokens = sum(len(row["input_ids"]) for row in rows)
    squares = sum(len(row["input_ids"]) ** 2 for row in rows)
    trained = sum(sum(row["spans"][1::2]) - sum(row["spans"][::2]) for row in rows)
    weights = 4 * shape.linear_parameters + 6 * shape.adapter_parameters(AdapterSection())
    attention = 6 * shape.attention_width * len(shape.layers)
    return tokens * weights + squares * attention + 4 * trained * shape.vocabulary * shape.hidden


def measured_peak() -> float:
    """FLOP/s of a product of large matrices in bfloat16; 0 where there is no GPU."""
    if not torch.cuda.is_available():
        return 0.0
    size = 8192
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        left @ right
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, on any machine; keeps no result")
    parser.add_argument("--json", action="store_true", help="print the document alone")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        raise SystemExit("this needs a GPU; --tiny runs a tiny shape anywhere")
    rows = random_rows(3 if arguments.tiny else 8, arguments.tiny)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    sheet = next((peak for known, peak in DATA_SHEETS.items() if known in name), 0.0)
    results = [Result("peak of a large product in bfloat16", measured_peak() / 1e12, "TFLOP/s", 15)]
    goals = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_model(folder, arguments.tiny)
        write_prepared(rows, Path(temporary) / "data")
        for way, quantization in (("LoRA", None), ("QLoRA", "nf4")):
            sections: dict[str, dict[str, object]] = {
                "model": {"quantization": quantization},
                "data": {"max_length": CAPACITY // (32 if arguments.tiny else 1), "packing": True},
                "train": {
                    "batch_size": ROWS_A_STEP,
                    "micro_batch_size": "auto" if arguments.tiny else ROWS_A_STEP // 8,
                },
            }
            done: OnGpu = in_a_process(on_gpu, str(folder), rows, sections)  # type: ignore[assignment, arg-type]
            told = report_memory(
                recipe_with(str(folder), sections), Path(temporary) / "data", devices_of(None, None, None)
            )
            assert told is not None
            timed = in_training_order(rows, ROWS_A_STEP)[2 * ROWS_A_STEP :]
            flops = needed_flops(_shape(folder), timed) / done.run.seconds
            results += [
                Result(f"{way}, training in {done.run.precision}", done.run.speed, "tokens/s"),
                Result(f"{way}, what the work needs", flops / 1e12, "TFLOP/s"),
                Result(f"{way}, memory at most", done.allocated / GIBIBYTE, "GiB"),
                Result(f"{way}, memory planned", _planned(told) / GIBIBYTE, "GiB"),
            ]
            plan = _planned(told) / done.allocated
            goals.append(Goal(f"{way}, plan", "within 15%", plan, abs(plan - 1) <= 0.15))
            if sheet:
                results.append(Result(f"{way}, share of the dense bfloat16 peak", flops / sheet, "of 1"))
                if way == "LoRA":
                    goals.append(Goal("LoRA, share of the peak", ">= 0.45", flops / sheet, flops / sheet >= 0.45))
    report("train-gpu", results, goals, as_json=arguments.json, keep=not arguments.tiny)


def _shape(folder: Path) -> ModelShape:
    from transformers import AutoConfig

    return shape_of(AutoConfig.from_pretrained(folder))


def _planned(told: MemoryReport) -> int:
    """Of tensors alone where there is a GPU: PyTorch's count leaves its own context and reserve out."""
    return told.plan.total - (told.plan.framework if told.devices.kind == "gpu" else 0)


if __name__ == "__main__":
    main()
