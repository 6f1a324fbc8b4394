"""What the tests of training share: made-up rows, and the train stage over them in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from hfkit.training.collation import TrainingRow
    from hfkit.training.result import TrainResult
    from tests.conftest import RecipeWriter


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[TrainingRow]]:
    """`make_rows(10, seed=1)`: rows of random tokens below 500, of many lengths, each with `turns` trained spans."""
    import random

    def make(
        count: int, seed: int = 0, longest_prompt: int = 30, longest_reply: int = 9, turns: int = 1
    ) -> list[TrainingRow]:
        choose = random.Random(seed)
        rows: list[TrainingRow] = []
        for _ in range(count):
            borders = [0]
            for _ in range(turns):
                borders += [borders[-1] + choose.randint(1, longest_prompt)]
                borders += [borders[-1] + choose.randint(1, longest_reply)]
            ids = [choose.randrange(3, 500) for _ in range(borders[-1])]
            rows.append({"input_ids": ids, "spans": borders[1:]})
        return rows

    return make


@pytest.fixture(scope="session")
def tiny_family() -> Callable[..., PreTrainedModel]:
    """`tiny_family("gemma2", sliding_window=8)`: a random model of that architecture, in float32, 500 tokens wide."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def build(family: str, **settings: object) -> PreTrainedModel:
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            family,
            **{
                "vocab_size": 500,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "max_position_embeddings": 512,
                # Larger than is usual, so that what a token sees weighs in its loss.
                "initializer_range": 0.2,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                **settings,
            },
        )
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return model.eval()

    return build


@dataclass(frozen=True)
class Trained:
    """What the train stage left."""

    folder: Path
    result: TrainResult

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return read_weights(self.folder)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All of metrics.jsonl."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Of metrics.jsonl, the lines of training."""
        return [line for line in self.lines if line["split"] == "train"]


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter that a train stage left in `folder`, or all of the weights."""
    from safetensors.torch import load_file

    adapter = folder / "adapter" / "adapter_model.safetensors"
    return load_file(adapter if adapter.is_file() else folder / "model" / "model.safetensors")


@pytest.fixture
def write_prepared(workplace: Path) -> Callable[[Sequence[TrainingRow]], Path]:
    """Rows as a data stage leaves them; the folder."""

    def write(rows: Sequence[TrainingRow]) -> Path:
        import shutil

        import pyarrow as pa
        import pyarrow.parquet as pq

        from hfkit.data.conversation import Conversation, Turn
        from hfkit.data.prepared import EXAMPLES, ShardWriter, example_batch, example_schema

        folder = workplace / "prepared"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "sequences").mkdir(parents=True)
        schema = pa.schema(
            [
                ("row", pa.string()),
                ("input_ids", pa.list_(pa.int32())),
                ("spans", pa.list_(pa.int32())),
                ("length", pa.int32()),
                ("trained", pa.int32()),
            ]
        )
        sequences = [
            {
                "row": f"rows.jsonl:{number}",
                **row,
                "length": len(row["input_ids"]),
                "trained": sum(row["spans"][1::2]) - sum(row["spans"][::2]),
            }
            for number, row in enumerate(rows, start=1)
        ]
        pq.write_table(pa.Table.from_pylist(sequences, schema=schema), folder / "sequences" / "train-00000.parquet")
        # Three rows a document. What they say does not matter to what is trained.
        examples = [
            Conversation(
                id=f"rows.jsonl:{number}",
                document=f"document-{(number - 1) // 3}",
                messages=(Turn(role="user", content=f"Question {number}?"), Turn(role="assistant", content="A bee.")),
            )
            for number in range(1, len(rows) + 1)
        ]
        with ShardWriter(folder / EXAMPLES, "train", example_schema()) as shards:
            shards.write(example_batch(examples))
        return folder

    return write


@pytest.fixture
def train_on(
    workplace: Path, tiny_recipe: RecipeWriter, write_prepared: Callable[[Sequence[TrainingRow]], Path]
) -> Callable[..., Trained]:
    """`train_on(rows, train={"epochs": 2}, model={…})` runs the train stage alone, in a folder of its own or in one
    where an earlier run was broken off."""
    count = 0

    def run(rows: Sequence[TrainingRow], seed: int = 7, continued: Path | None = None, **sections: object) -> Trained:
        from hfkit.progress import Progress
        from hfkit.recipe import load_recipe
        from hfkit.stage import StageContext
        from hfkit.training.sft import train

        nonlocal count
        count += 1
        folder = continued or workplace / f"trained-{count}"
        folder.mkdir(exist_ok=True)
        # Tracking costs a process of its own; it has tests of its own.
        recipe = load_recipe(tiny_recipe(seed=seed, **{"track": [], **sections}))
        context = StageContext(recipe, folder, {"data": write_prepared(rows)}, Progress(quiet=True))
        return Trained(folder, train(context))

    return run


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Path], dict[str, torch.Tensor]]:
    """The weights that a train stage left in a folder."""
    return read_weights
