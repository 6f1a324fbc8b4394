"""trackio in the run's folder: each point once, whatever happened, and nothing anywhere else."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfkit.artifact import record_files
from hfkit.recipe import load_recipe
from hfkit.training.collation import TrainingRow
from hfkit.training.tracking import TrackioTracker

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter
    from tests.training.conftest import Trained

MakeRows = Callable[..., list[TrainingRow]]


def points(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """What trackio has of the one run in `folder`."""
    (database,) = folder.glob("*.db")
    connection = sqlite3.connect(f"file:{database}?immutable=1", uri=True)
    found = connection.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    connection.close()
    return [(step, json.loads(metrics)) for step, metrics in found]


@pytest.fixture
def home(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that is empty; and an environment that would send the run's numbers away."""
    monkeypatch.setenv("HOME", str(workplace / "home"))
    monkeypatch.setenv("HF_HOME", str(workplace / "home" / "hf"))
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/space")
    (workplace / "home").mkdir()
    return workplace / "home"


def test_a_run_that_was_killed_has_each_point_once_and_writes_to_its_folder_alone(
    cli: Cli, tiny_recipe: RecipeWriter, workplace: Path, home: Path, patiently: Callable[..., None]
) -> None:
    environment = {"HOME": str(home), "HF_HOME": str(home / "hf"), "TRACKIO_SPACE_ID": "somebody/space"}
    validation = {"share": 2, "steps": 3, "samples": 0}
    train = {"epochs": 4, "save_steps": 4, "validation": validation}
    recipe = tiny_recipe(evaluate=None, track=["trackio"], train=train)
    folder = workplace / "runs" / "tiny" / "train"
    checkpoint = folder.with_name(".train.partial") / ".checkpoints" / "checkpoint-4"
    started = cli.start("train", recipe, env=environment)
    patiently(lambda: checkpoint.exists() or not started.running(), "a checkpoint")
    started.kill()
    assert started.wait().code == -9
    done = cli("train", recipe, env=environment)
    assert done.code == 0 and "continuing from step" in done.err and "trackio" not in done.err, done.err
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    tracked = points(folder / "trackio")
    assert [step for step, _ in tracked] == [line["step"] for line in lines]
    for (_, numbers), line in zip(tracked, lines, strict=True):
        assert numbers[f"{line['split']}/loss"] == line["loss"]
    assert [path.suffix for path in (folder / "trackio").iterdir()] == [".db"]
    assert list(home.rglob("*")) == []


def test_who_looks_at_the_record_does_not_damage_the_artifact(tmp_path: Path) -> None:
    (tmp_path / "trackio").mkdir()
    (tmp_path / "trackio" / "run.db").write_bytes(b"1")
    (tmp_path / "metrics.jsonl").write_bytes(b"2")
    assert [record.path for record in record_files(tmp_path)] == ["metrics.jsonl"]


def test_a_tracker_that_fails_is_said_and_left(
    tiny_recipe: RecipeWriter, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    (workplace / "trackio").write_text("a file where its folder should be")
    tracker = TrackioTracker(load_recipe(tiny_recipe()), workplace / "trackio", said.append)
    for step in range(1, 200):
        tracker.log(step, {"train/loss": 1.0})
    tracker.finish()
    (line,) = said
    assert "trackio did not keep its record" in line and "metrics.jsonl has all of it" in line


def test_a_recipe_can_do_without(train_on: Callable[..., Trained], make_rows: MakeRows) -> None:
    assert not (train_on(make_rows(4), track=[]).folder / "trackio").exists()
