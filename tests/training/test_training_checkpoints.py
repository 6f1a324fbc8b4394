"""Which checkpoint of an interrupted run counts as whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hfkit.training.checkpoints import newest_whole_checkpoint

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def write_checkpoint(folder: Path, step: int, weights: tuple[str, ...] = ("model.safetensors",)) -> Path:
    """What the Trainer leaves at `step` of 100."""
    import torch
    from safetensors.torch import save_file

    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in weights:
        save_file({name: torch.ones(3)}, checkpoint / name)
    if len(weights) > 1:
        index = {"metadata": {}, "weight_map": {name: name for name in weights}}
        (checkpoint / INDEX).write_text(json.dumps(index), encoding="utf-8")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": step}, checkpoint / name)
    state = {"global_step": step, "max_steps": 100}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    return checkpoint


def test_the_newest_has_the_most_steps_but_is_not_the_last_one(tmp_path: Path) -> None:
    assert newest_whole_checkpoint(tmp_path) is None
    for step in (9, 20, 100, 3):
        write_checkpoint(tmp_path, step)
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-20"


@pytest.mark.parametrize("weights", [("model.safetensors",), ("adapter_model.safetensors",), SHARDS], ids=len)
def test_whole_weights_of_any_kind_are_accepted(tmp_path: Path, weights: tuple[str, ...]) -> None:
    assert newest_whole_checkpoint(tmp_path) is None
    assert newest_whole_checkpoint(tmp_path) != write_checkpoint(tmp_path, 20, weights)
    assert newest_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-20"


def test_the_random_numbers_of_many_processes_are_accepted(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 20)
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    (checkpoint / "rng_state_1.pth").write_bytes((checkpoint / "rng_state_0.pth").read_bytes())
    assert newest_whole_checkpoint(tmp_path) == checkpoint


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"]
)
@pytest.mark.parametrize("content", [None, b"", b"\0" * 100], ids=["missing", "empty", "zeroes"])
def test_a_checkpoint_without_one_of_its_files_is_passed_over(tmp_path: Path, name: str, content: bytes | None) -> None:
    older = write_checkpoint(tmp_path, 10)
    file = write_checkpoint(tmp_path, 20) / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert newest_whole_checkpoint(tmp_path) == older


@pytest.mark.parametrize("name", [*SHARDS, INDEX])
@pytest.mark.parametrize("content", [None, b"{"], ids=["missing", "torn"])
def test_every_shard_that_the_index_names_must_be_there(tmp_path: Path, name: str, content: bytes | None) -> None:
    older = write_checkpoint(tmp_path, 10, SHARDS)
    file = write_checkpoint(tmp_path, 20, SHARDS) / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert newest_whole_checkpoint(tmp_path) == older
