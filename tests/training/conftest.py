"""What the tests of training share: made-up rows, and the train stage over them in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from hfkit.training.collation import TrainingRow
    from hfkit.training.sft import TrainResult
    from tests.conftest import RecipeWriter


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., list[TrainingRow]]:
    """`make_rows(10, seed=1)`: rows of random tokens below 500, of many lengths, with prompts from one token on."""
    import random

    def make(count: int, seed: int = 0, longest_prompt: int = 30, longest_reply: int = 9) -> list[TrainingRow]:
        choose = random.Random(seed)
        rows: list[TrainingRow] = []
        for _ in range(count):
            prompt, reply = choose.randint(1, longest_prompt), choose.randint(1, longest_reply)
            ids = [choose.randrange(3, 500) for _ in range(prompt + reply)]
            rows.append({"input_ids": ids, "prompt_length": prompt})
        return rows

    return make


@dataclass(frozen=True)
class Trained:
    """What the train stage left."""

    folder: Path
    result: TrainResult

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return read_weights(self.folder)

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The adapter that a train stage left in `folder`, or all of the weights."""
    from safetensors.torch import load_file

    adapter = folder / "adapter" / "adapter_model.safetensors"
    return load_file(adapter if adapter.is_file() else folder / "model" / "model.safetensors")


@pytest.fixture
def write_prepared(workplace: Path) -> Callable[[Sequence[TrainingRow]], Path]:
    """Rows as a data stage leaves them; the folder."""

    def write(rows: Sequence[TrainingRow]) -> Path:
        from hfkit.data.conversation import Turn
        from hfkit.data.prepared import TRAIN, PreparedRow, write_rows

        folder = workplace / "prepared"
        folder.mkdir(exist_ok=True)
        turns = (Turn(role="user", content="?"), Turn(role="assistant", content="!"))
        prepared = [
            PreparedRow(
                id=f"rows.jsonl:{number}",
                document=f"rows.jsonl:{number}",
                messages=turns,
                grounding=None,
                input_ids=tuple(row["input_ids"]),
                prompt_length=row["prompt_length"],
                length=len(row["input_ids"]),
            )
            for number, row in enumerate(rows, start=1)
        ]
        write_rows(prepared, folder / TRAIN)
        return folder

    return write


@pytest.fixture
def train_on(
    workplace: Path, tiny_recipe: RecipeWriter, write_prepared: Callable[[Sequence[TrainingRow]], Path]
) -> Callable[..., Trained]:
    """`train_on(rows, train={"epochs": 2}, model={…})` runs the train stage alone, in a folder of its own."""
    count = 0

    def run(rows: Sequence[TrainingRow], seed: int = 7, **sections: object) -> Trained:
        from hfkit.progress import Progress
        from hfkit.recipe import load_recipe
        from hfkit.stage import StageContext
        from hfkit.training.sft import train

        nonlocal count
        count += 1
        folder = workplace / f"trained-{count}"
        folder.mkdir()
        recipe = load_recipe(tiny_recipe(seed=seed, **sections))
        context = StageContext(recipe, folder, {"data": write_prepared(rows)}, Progress(quiet=True))
        return Trained(folder, train(context))

    return run


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Path], dict[str, torch.Tensor]]:
    """The weights that a train stage left in a folder."""
    return read_weights
