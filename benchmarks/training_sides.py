"""One training run of hfkit or of TRL's SFTTrainer, over the same rows in the same order, and what it cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfkit.progress import Progress, Update
from hfkit.training.collation import TrainingRow

if TYPE_CHECKING:
    from hfkit.recipe import Recipe

MODEL = "embedded:smollm2-135m-instruct"
ROWS_A_STEP = 8
SEED = 7


@dataclass(frozen=True)
class Run:
    """What a run did: `losses` of its optimiser steps, in nats a trained token; `tokens` those of its rows, without
    padding, in the steps that were timed; `peak_bytes` the most that its process ever held, as the kernel counts it."""

    losses: list[float]
    tokens: int
    seconds: float
    peak_bytes: int
    precision: str

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


class StepClock(Progress):
    """When each optimiser step was done, taken from the train stage's own reports."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.done_at: dict[int, float] = {}

    @contextmanager
    def bar(self, label: str) -> Iterator[Update]:
        yield lambda done, total: self.done_at.setdefault(done, time.perf_counter()) and None


def with_hfkit(model: str, rows: list[TrainingRow], warm_up: int, sections: dict[str, dict[str, object]]) -> Run:
    """The train stage over prepared `rows`. Steps up to `warm_up` are not timed.

    Args:
        sections: keys of the recipe that differ from the benchmark's own.
    """
    from hfkit.stage import StageContext
    from hfkit.training.sft import train

    recipe = recipe_with(model, sections)
    assert recipe.train is not None
    clock = StepClock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_prepared(rows, folder / "data")
        (folder / "train").mkdir()
        result = train(StageContext(recipe, folder / "train", {"data": folder / "data"}, clock))
        losses = _logged_losses(folder / "train" / "metrics.jsonl")
    order = in_training_order(rows, recipe.train.batch_size)
    timed = order[warm_up * recipe.train.batch_size :]
    tokens = sum(len(row["input_ids"]) for row in timed)
    return Run(
        losses, tokens, clock.done_at[result.steps] - clock.done_at[warm_up], peak_of_this_process(), result.precision
    )


def recipe_with(model: str, sections: dict[str, dict[str, object]]) -> Recipe:
    """The benchmark's recipe, with some keys changed."""
    from hfkit.recipe import Recipe

    settings: dict[str, dict[str, object]] = {
        "model": {"base": model, "adapter": {"rank": 16, "alpha": 32}},
        "data": {"sources": [{"path": "rows.jsonl"}], "max_length": 1024},
        "train": {"batch_size": ROWS_A_STEP, "learning_rate": 5e-4, "log_steps": 1, "save_steps": 1_000_000},
    }
    for section, keys in sections.items():
        settings[section] = {**settings[section], **keys}
    return Recipe.model_validate({"name": "bench", "seed": SEED, **settings})


def with_trl(model: str, rows: list[TrainingRow], warm_up: int, rows_at_once: int, precision: str) -> Run:
    """SFTTrainer over the same rows in the order in which hfkit takes them, which is grouped by length.

    It is given tokens and completion masks, so that nothing is prepared anew; the loss is on the completion alone; no
    gradient checkpointing, which would cost it speed. It is not packed: without FlashAttention rows would see each
    other.
    """
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    from hfkit.models.loading import load_model, load_tokenizer
    from hfkit.models.tuned import with_new_adapter
    from hfkit.quiet import quiet_libraries
    from hfkit.recipe import AdapterSection, ModelSection

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.done_at: dict[int, float] = {}

        def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
            self.done_at[state.global_step] = time.perf_counter()  # type: ignore[attr-defined]

    settings = ModelSection.model_validate({"base": model, "precision": precision})
    set_seed(SEED)
    order = in_training_order(rows, ROWS_A_STEP)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        base, _ = load_model(settings)
        tuned = with_new_adapter(base, AdapterSection(rank=16, alpha=32))
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=rows_at_once,
            gradient_accumulation_steps=ROWS_A_STEP // rows_at_once,
            train_sampling_strategy="sequential",
            completion_only_loss=True,
            packing=False,
            max_length=None,
            activation_checkpointing=False,
            bf16=precision == "bf16",
            learning_rate=5e-4,
            lr_scheduler_type="linear",
            warmup_steps=0.05,
            weight_decay=0.0,
            max_grad_norm=1.0,
            num_train_epochs=1,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=True,
            seed=SEED,
        )
        trainer = SFTTrainer(
            model=tuned,
            args=arguments,
            train_dataset=Dataset.from_list([_masked(row) for row in order]),
            processing_class=load_tokenizer(settings),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = sum(len(row["input_ids"]) for row in order[warm_up * ROWS_A_STEP :])
    seconds = clock.done_at[trainer.state.global_step] - clock.done_at[warm_up]
    return Run(losses, tokens, seconds, peak_of_this_process(), precision)


def in_training_order(rows: list[TrainingRow], rows_a_step: int) -> list[TrainingRow]:
    """The rows as hfkit's first epoch takes them: those of a step about equally long, the steps shuffled."""
    from hfkit.training.sampling import length_grouped_order

    lengths = [len(row["input_ids"]) for row in rows]
    return [rows[number] for number in length_grouped_order(lengths, rows_a_step, SEED, 0)]


def write_prepared(rows: Sequence[TrainingRow], folder: Path) -> None:
    """Rows as a data stage leaves them."""
    import pyarrow as pa

    from hfkit.data.prepared import SEQUENCES, ShardWriter, sequence_schema

    sequences = [
        {
            "row": f"rows.jsonl:{number}",
            **row,
            "length": len(row["input_ids"]),
            "trained": sum(row["spans"][1::2]) - sum(row["spans"][::2]),
        }
        for number, row in enumerate(rows, start=1)
    ]
    with ShardWriter(folder / SEQUENCES, "train", sequence_schema()) as writer:
        writer.write(pa.RecordBatch.from_pylist(sequences, schema=sequence_schema()))


def peak_of_this_process() -> int:
    """The most that this process ever held in memory, in bytes; Linux alone tells it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status names no peak of memory")


def _masked(row: TrainingRow) -> dict[str, list[int]]:
    mask = [0] * len(row["input_ids"])
    for start, end in zip(row["spans"][::2], row["spans"][1::2], strict=True):
        mask[start:end] = [1] * (end - start)
    return {"input_ids": row["input_ids"], "completion_mask": mask}


def _logged_losses(metrics: Path) -> list[float]:
    import json

    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return [float(line["loss"]) for line in lines if "loss" in line]
