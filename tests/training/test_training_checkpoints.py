"""Which checkpoint of an interrupted run is trusted, and how one comes to be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.errors import WorkError
from hfkit.training.checkpoints import (
    MANIFEST,
    PARTIAL,
    STATE,
    newest_whole_checkpoint,
    read_state,
    seal_checkpoint,
    set_aside_after,
)
from hfkit.training.state import TrainingState

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "sub/file")


def write_checkpoint(folder: Path, step: int) -> Path:
    partial = folder / PARTIAL / f"checkpoint-{step}"
    for name in FILES:
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_bytes(f"{name} of {step}".encode() * 100)
    return seal_checkpoint(partial, folder, step, TrainingState(tokens=step))


class Said(list[str]):
    def __call__(self, text: str) -> None:
        self.append(text)


def test_the_newest_is_taken_and_knows_its_state(tmp_path: Path) -> None:
    assert newest_whole_checkpoint(tmp_path / "none", Said()) is None
    assert newest_whole_checkpoint(tmp_path, Said()) is None
    for step in (9, 10, 100):
        assert write_checkpoint(tmp_path, step) == tmp_path / f"checkpoint-{step}"
        said = Said()
        newest = newest_whole_checkpoint(tmp_path, said)
        assert newest == tmp_path / f"checkpoint-{step}" and not said
        assert read_state(newest).tokens == step


def test_the_newest_and_the_one_before_it_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 10, 12):
        write_checkpoint(tmp_path, step)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-10", "checkpoint-12"}


@pytest.mark.parametrize("name", [*FILES, STATE, MANIFEST])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "a flipped bit", "zeroes"])
def test_a_damaged_one_is_named_and_the_one_before_it_taken(tmp_path: Path, name: str, damage: str) -> None:
    older = write_checkpoint(tmp_path, 10)
    file = write_checkpoint(tmp_path, 20) / name
    content = file.read_bytes()
    file.unlink()
    if damage == "empty":
        file.write_bytes(b"")
    elif damage == "cut off":
        file.write_bytes(content[:-3])
    elif damage == "a flipped bit":
        file.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])
    elif damage == "zeroes":
        file.write_bytes(bytes(len(content)))
    said = Said()
    assert newest_whole_checkpoint(tmp_path, said) == older
    (line,) = said
    assert "checkpoint-20 is damaged" in line and "the one before it is looked at" in line
    assert name in line or (name == MANIFEST and "is not what was written" in line)
    shutil.rmtree(older)
    assert newest_whole_checkpoint(tmp_path, Said()) is None


def test_one_under_another_ones_name_is_not_taken(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 20).rename(tmp_path / "checkpoint-30")
    said = Said()
    assert newest_whole_checkpoint(tmp_path, said) is None
    assert said == ["  checkpoint-30 is damaged (checkpoint.json is that of step 20); no whole checkpoint is left"]


def test_damaged_ones_are_not_taken_for_the_newest_while_the_run_goes_on(tmp_path: Path) -> None:
    for step in (10, 18, 20):
        write_checkpoint(tmp_path, step)
    for step in (18, 20):
        (tmp_path / f"checkpoint-{step}" / FILES[0]).write_bytes(b"")
    set_aside_after(tmp_path, 0)
    for step in (2, 4, 6):
        write_checkpoint(tmp_path, step)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}
    assert newest_whole_checkpoint(tmp_path, Said()) == tmp_path / "checkpoint-6"


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-mine").mkdir()
    with pytest.raises(WorkError, match="checkpoint-mine: not a checkpoint"):
        newest_whole_checkpoint(tmp_path, Said())


def test_all_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    flush, rename = os.fsync, Path.rename

    def recorded_flush(descriptor: int) -> None:
        events.append(str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)))
        flush(descriptor)

    def recorded_rename(path: Path, target: Path) -> Path:
        events.append(f"{path.relative_to(tmp_path)} -> {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recorded_flush)
    monkeypatch.setattr(Path, "rename", recorded_rename)
    write_checkpoint(tmp_path, 20)
    inside = f"{PARTIAL}/checkpoint-20"
    at = events.index(f"{inside} -> checkpoint-20")
    assert {f"{inside}/{name}" for name in (*FILES, STATE, MANIFEST)} | {inside, f"{inside}/sub"} == set(events[:at])
    assert events[at + 1 :] == ["."]


@given(
    state=st.builds(
        TrainingState,
        seconds=st.floats(0, 1e9),
        tokens=st.integers(0, 10**15),
        recent_losses=st.lists(st.floats(-1e9, 1e9), max_size=60),
        window_loss=st.floats(-1e9, 1e9),
        best_value=st.none() | st.floats(-1e9, 1e9),
        best_step=st.none() | st.integers(0, 10**9),
    )
)
@settings(deadline=None)
def test_a_state_is_read_as_it_was_written_to_the_last_bit(state: TrainingState) -> None:
    assert TrainingState.model_validate_json(state.model_dump_json()) == state
