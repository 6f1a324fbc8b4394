"""Training that is killed, and started again: it ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from hfkit.failures import explain
from hfkit.training.callbacks import WatchSteps

if TYPE_CHECKING:
    from transformers import TrainerState

    from hfkit.training.collation import TrainingRow
    from tests.conftest import Cli, RecipeWriter, Started
    from tests.training.conftest import Trained

WeightsOf = Callable[[Path], dict[str, torch.Tensor]]

# What differs from one run to the next, whatever is done.
TIMES = {"seconds", "tokens_per_second", "memory_bytes"}

# Everything that a run keeps in mind is in play: dropout, validation, replies, the best so far, patience, the guard.
SECTIONS: dict[str, Any] = {
    "model": {"adapter": {"rank": 4, "alpha": 8, "dropout": 0.3}},
    "train": {
        "epochs": 40,
        "max_steps": 39,
        "batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 3e-3,
        "weight_decay": 0.01,
        "save_steps": 3,
        "keep_checkpoints": 2,
        "log_steps": 2,
        "validation": {
            "share": 4,
            "steps": 7,
            "metrics": ["loss", "token_f1"],
            "samples": 1,
            "max_new_tokens": 4,
        },
        "best": "loss",
        "patience": 6,
    },
    "evaluate": None,
}


def outcome(folder: Path, weights_of: WeightsOf) -> dict[str, Any]:
    """All that a finished train stage leaves, without times."""
    kept = {path.name: weights_of(path) for path in sorted((folder / "checkpoints").iterdir())}
    result = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))["result"]
    return {
        "weights": {"result": weights_of(folder), **kept},
        "metrics": [
            {name: value for name, value in json.loads(line).items() if name not in TIMES}
            for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ],
        "samples": (folder / "samples.jsonl").read_text(encoding="utf-8"),
        "result": {name: value for name, value in result.items() if name != "continued_from_step"},
    }


def assert_same_outcome(expected: dict[str, Any], found: dict[str, Any]) -> None:
    assert found["weights"].keys() == expected["weights"].keys()
    for place, weights in expected["weights"].items():
        assert weights.keys() == found["weights"][place].keys()
        different = [name for name in weights if not torch.equal(weights[name], found["weights"][place][name])]
        assert not different, f"{place}: {different}"
    assert found["metrics"] == expected["metrics"]
    assert found["samples"] == expected["samples"]
    assert found["result"] == expected["result"]


class Moments:
    """Chooses when to kill: somewhere in training, inside the writing of a checkpoint, or while the process starts."""

    def __init__(self, workshop: Path, seed: int) -> None:
        self.workshop, self.choose = workshop, random.Random(seed)
        self.inside_a_save = 0

    def wait(self, started: Started) -> None:
        """Returns when the moment has come, or the process has ended."""
        kind = self.choose.choices(["training", "save", "start"], weights=[5, 4, 1])[0]
        if kind == "start":
            self._until(started, (self.workshop.parent / "recipe.yaml").exists)
            time.sleep(self.choose.uniform(0.0, 0.5))
            return
        self._until(started, lambda: self._lines() > 0)
        if kind == "save":
            self._until(started, self._saving)
            # What the writing of a checkpoint takes here; it may be over before the signal arrives.
            time.sleep(self.choose.uniform(0.0, 0.02))
            self.inside_a_save += self._saving()
        else:
            until = self._lines() + self.choose.randint(0, 4)
            self._until(started, lambda: self._lines() >= until)
            time.sleep(self.choose.uniform(0.0, 0.2))

    def _until(self, started: Started, true: Callable[[], bool]) -> None:
        while not true() and started.running():
            time.sleep(0.002)

    def _saving(self) -> bool:
        return any((self.workshop / ".checkpoints" / ".partial").glob("checkpoint-*"))

    def _lines(self) -> int:
        try:
            return (self.workshop / "metrics.jsonl").read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0


KILLS = 22


# A machine that does much else takes its time over the two dozen processes of this test.
@pytest.mark.timeout(1800)
def test_a_run_killed_at_random_moments_leaves_what_an_uninterrupted_one_leaves(
    cli: Cli, tiny_recipe: RecipeWriter, workplace: Path, weights_of: WeightsOf
) -> None:
    whole = cli("train", tiny_recipe("whole.yaml", name="whole", **SECTIONS))
    assert whole.code == 0, whole.err
    expected = outcome(workplace / "runs" / "whole" / "train", weights_of)
    assert expected["result"]["validation_rows"] >= 4 and expected["result"]["best_step"] is not None

    kills = run = inside_a_save = continued = 0
    while kills < KILLS:
        run += 1
        name = f"killed-{run}"
        recipe = tiny_recipe(f"{name}.yaml", name=name, **SECTIONS)
        moments = Moments(workplace / "runs" / name / ".train.partial", seed=run)
        while True:
            started = cli.start("train", recipe)
            moments.wait(started)
            if started.running():
                started.kill()
            done = started.wait()
            if done.code == 0:
                break
            assert done.code == -9, done.err
            kills += 1
            continued += "continuing from step" in done.err
            assert "damaged" not in done.err, "a kill leaves whole checkpoints or none"
            assert not (workplace / "runs" / name / "train").exists()
            if kills >= KILLS:
                done = cli("train", recipe)
                assert done.code == 0, done.err
                break
        inside_a_save += moments.inside_a_save
        assert_same_outcome(expected, outcome(workplace / "runs" / name / "train", weights_of))
    print(f"{kills} kills in {run} runs, {inside_a_save} inside a save, {continued} of processes that had gone on")
    assert inside_a_save >= 2 and continued >= 5


# No room for a checkpoint.


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """`small_files(1000)`: from now on no file may become larger than that, as on a disk that is full."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.pt", "tokenizer.json"])
def test_a_checkpoint_that_finds_no_room_leaves_the_one_before_it(
    train_on: Callable[..., Trained],
    make_rows: Callable[..., list[TrainingRow]],
    small_files: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    workplace: Path,
    file: str,
) -> None:
    """The first file that is too large is the weights, the optimiser's state, or one of the weights that are kept."""
    rows = make_rows(24)
    sections: dict[str, Any] = {
        "model": {"adapter": {"rank": 4, "alpha": 8, "dropout": 0.3}},
        "train": {"epochs": 2, "batch_size": 4, "save_steps": 2},
    }
    whole = train_on(rows, **sections)
    folder = workplace / "no-room"
    unlimited = resource_limit()

    def shrink(self: object, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        if state.global_step == 5:
            saved = folder / ".checkpoints" / "checkpoint-4" / file
            like = saved if saved.exists() else whole.folder / "adapter" / file
            small_files(like.stat().st_size - 1)

    with monkeypatch.context() as patch:
        patch.setattr(WatchSteps, "on_step_end", shrink)
        with pytest.raises(Exception) as caught:
            train_on(rows, continued=folder, **sections)
    small_files(unlimited)
    explanation = explain(caught.value)
    assert explanation.exit_code == 1 and "limit on the size of files" in explanation.text
    assert sorted(path.name for path in (folder / ".checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-4"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-2", "step-4"]
    done = train_on(rows, continued=folder, **sections)
    assert done.result.continued_from_step == 4
    assert all(torch.equal(weight, done.weights[name]) for name, weight in whole.weights.items())


def resource_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_FSIZE)[0]
