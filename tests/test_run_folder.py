"""A run's folder: what lies in it, that one process at a time works there, and what a full disk does to it."""

from __future__ import annotations

import logging
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfkit.artifact import read_artifact
from hfkit.errors import RequestError, WorkError
from hfkit.recipe import load_recipe
from hfkit.run import Run
from hfkit.stages import STAGES

if TYPE_CHECKING:
    from tests.conftest import Cli, Done, RecipeWriter

ALL = ("index", "data", "train", "evaluate")


def assert_one_message(done: Done, *words: str) -> None:
    """The work failed, and the user reads one sentence of hfkit's and no traceback, not even of the logging."""
    assert done.code == 1, done.err
    assert "Traceback" not in done.err and "Logging error" not in done.err, done.err
    (message,) = [line for line in done.err.splitlines() if line.startswith("hfkit: ")]
    assert all(word in message for word in words), message


def test_what_lies_in_a_finished_run(finished: Path) -> None:
    folder = finished.parent / "runs" / "tiny"
    seen = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert seen == {*ALL, "recipe.yaml", "manifest.json", "logs"}
    assert {path.name for path in folder.iterdir() if path.name.startswith(".")} <= {".lock", ".answers"}
    for name in ALL:
        assert read_artifact(folder / name) is not None
        assert (folder / "logs" / f"{name}.log").is_file()
        # What only resuming needs is gone; kept checkpoints are weights alone.
        assert not [path for path in (folder / name).rglob("*") if path.name.startswith(("checkpoint-", ".checkpoint"))]
    assert (folder / "index" / "index.sqlite").is_file()
    for name in ("examples/train", "examples/test", "sequences/train", "sequences/test"):
        assert (folder / "data" / f"{name}-00000.parquet").is_file()
    assert (folder / "data" / "card.md").is_file() and (folder / "data" / "lengths.png").is_file()
    assert (folder / "train" / "adapter" / "adapter_model.safetensors").is_file()
    assert (folder / "train" / "adapter" / "tokenizer.json").is_file()
    assert (folder / "evaluate" / "predictions" / "grounded_answers.jsonl").is_file()


def test_no_pickle_lies_in_a_finished_run(finished: Path) -> None:
    for path in (finished.parent / "runs").rglob("*"):
        assert path.suffix not in {".bin", ".pt", ".pth", ".pkl", ".pickle", ".npy"}, path
        if path.is_file():
            with path.open("rb") as file:
                assert file.read(2) not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), path


def test_the_resolved_recipe_lies_beside_whatever_it_produced(finished: Path, cli: Cli) -> None:
    folder = finished.parent / "runs" / "tiny"
    recipe = load_recipe(finished)
    for place in (folder, *(folder / name for name in ALL)):
        assert load_recipe(place / "recipe.yaml") == recipe
    done = cli("run", folder / "recipe.yaml", "--json")
    assert done.code == 0, done.err
    assert [stage["made_now"] for stage in done.document["stages"].values()] == [False] * 4


def test_overrides_stand_in_the_resolved_recipe(finished: Path, cli: Cli) -> None:
    assert cli("run", finished, "evaluate.max_new_tokens=3", "rag.search.top_k=2").code == 0
    folder = finished.parent / "runs" / "tiny"
    top, of_evaluate, of_train = (
        load_recipe(f / "recipe.yaml") for f in (folder, folder / "evaluate", folder / "train")
    )
    assert top.evaluate is not None and top.evaluate.max_new_tokens == 3
    assert of_evaluate == top
    # Training was not made again: its recipe is the one that it was made with.
    assert of_train.evaluate is not None and of_train.evaluate.max_new_tokens == 8


def test_a_name_is_a_folder_of_its_own(finished: Path, cli: Cli) -> None:
    assert cli("index", finished, "name=other").code == 0
    assert read_artifact(finished.parent / "runs" / "other" / "index") is not None
    assert not (finished.parent / "runs" / "other" / "train").exists()


def test_libraries_speak_to_the_log_and_not_to_the_user(tiny_recipe: RecipeWriter, cold_cli: Cli) -> None:
    """In a fresh process: libraries have most to say when they are imported."""
    recipe = tiny_recipe()
    done = cold_cli("run", recipe)
    assert done.code == 0, done.err
    ours = re.compile(r"^(index|data|train|evaluate): running$|^  \S")
    assert [line for line in done.err.splitlines() if not ours.match(line)] == []
    assert "Warning" not in done.err and "%|" not in done.err
    log = (recipe.parent / "runs" / "tiny" / "logs" / "train.log").read_text(encoding="utf-8")
    assert "precision: fp32" in log and re.search(r"^\d{4}-\d\d-\d\d .* (INFO|WARNING) ", log)


def test_logging_to_a_stage_s_log_leaves_logging_as_it_was(tiny_recipe: RecipeWriter) -> None:
    run = Run(load_recipe(tiny_recipe()))
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    with pytest.raises(ZeroDivisionError), run.logging_to("data"):
        logging.getLogger("somebody").info("during")
        raise ZeroDivisionError
    logging.getLogger("somebody").warning("after")
    assert (root.level, root.handlers[:]) == before
    log = (run.folder / "logs" / "data.log").read_text(encoding="utf-8")
    assert "somebody: during" in log and "after" not in log


def test_what_has_not_finished_is_asked_for_with_the_way_to_it(tiny_recipe: RecipeWriter) -> None:
    with pytest.raises(WorkError, match=r"train stage has not finished.*hfkit run"):
        Run(load_recipe(tiny_recipe())).artifact("train")


def test_a_workshop_is_kept_on_the_way_to_the_same_artifact_only(tiny_recipe: RecipeWriter) -> None:
    run = Run(load_recipe(tiny_recipe()))
    folder = run.open_workshop(STAGES["train"], "one")
    (folder / "checkpoint").write_text("x", encoding="utf-8")
    assert run.open_workshop(STAGES["train"], "one") == folder and (folder / "checkpoint").exists()
    run.open_workshop(STAGES["train"], "two")
    assert not (folder / "checkpoint").exists()
    # Killed before it could say what it was for: nobody knows what lies there.
    (folder / "checkpoint").write_text("x", encoding="utf-8")
    (folder / ".aim").unlink()
    run.open_workshop(STAGES["train"], "two")
    assert not (folder / "checkpoint").exists()


def test_a_folder_is_locked_against_a_second_run_and_free_after_it(tiny_recipe: RecipeWriter) -> None:
    recipe = load_recipe(tiny_recipe())
    with pytest.raises(ZeroDivisionError), Run(recipe).locked():
        with pytest.raises(RequestError, match=r"runs/tiny: another hfkit process"), Run(recipe).locked():
            pass
        raise ZeroDivisionError
    with Run(recipe).locked():
        pass


def test_two_runs_at_once_the_second_is_told_and_the_first_is_not_disturbed(
    finished: Path, cli: Cli, patiently: Callable[..., None]
) -> None:
    folder = finished.parent / "runs" / "tiny"
    shutil.rmtree(folder)
    first = cli.start("run", finished)
    patiently(lambda: (folder / "index" / "recipe.yaml").exists() or not first.running(), "the first run to begin")
    assert first.running()
    for verb in ("run", "index", "preview"):
        second = cli(verb, finished, "--json")
        assert second.code == 2 and second.out == ""
        assert second.err.strip() == "hfkit: runs/tiny: another hfkit process works in this folder; wait for it"
    # A run of another name has a folder of its own.
    assert cli("index", finished, "name=other").code == 0
    done = first.wait()
    assert done.code == 0, done.err
    assert all(read_artifact(folder / name) is not None for name in ALL)


def test_a_killed_run_leaves_no_lock(finished: Path, cli: Cli, patiently: Callable[..., None]) -> None:
    folder = finished.parent / "runs" / "tiny"
    shutil.rmtree(folder)
    first = cli.start("run", finished)
    patiently(lambda: (folder / "index" / "recipe.yaml").exists() or not first.running(), "the run to begin")
    first.kill()
    first.wait()
    assert cli("index", finished).code == 0


def test_a_file_where_the_folder_should_be_is_one_message(finished: Path, cli: Cli) -> None:
    shutil.rmtree(finished.parent / "runs")
    (finished.parent / "runs").write_text("in the way", encoding="utf-8")
    assert_one_message(cli("run", finished), "runs")


class Disk:
    """A disk of a given size under `runs/`. `fill` leaves `left` bytes on it."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def fill(self, left: int) -> None:
        self.make_room()
        with (self.place / "ballast").open("wb") as file:
            size = max(0, shutil.disk_usage(self.place).free - left)
            os.posix_fallocate(file.fileno(), 0, size)

    def make_room(self) -> None:
        (self.place / "ballast").unlink(missing_ok=True)


@pytest.fixture
def small_disk(workplace: Path) -> Iterator[Disk]:
    """`runs/` on a disk of 8 MiB, for those who may mount one."""
    runs = workplace / "runs"
    runs.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(runs)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    try:
        yield Disk(runs)
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


def test_a_full_disk_is_one_message_and_what_was_finished_is_kept(
    small_disk: Disk, tiny_recipe: RecipeWriter, cli: Cli
) -> None:
    recipe = tiny_recipe()
    folder = small_disk.place / "tiny"
    done_before: set[str] = set()
    # From no room at all to nearly enough: each stage in turn finds the disk full.
    for left in (0, 40_000, 160_000, 280_000, 400_000, 800_000, 1_200_000):
        small_disk.fill(left)
        done = cli("run", recipe)
        whole = {name for name in ALL if (folder / name / "artifact.json").exists()}
        for name in whole:
            assert read_artifact(folder / name) is not None
        assert done_before <= whole, "what was finished is gone"
        done_before = whole
        if done.code == 0:
            break
        assert_one_message(done, "disk", "full")
    assert done_before, "no stage was finished before the disk was full"
    small_disk.make_room()
    done = cli("run", recipe, "--json")
    assert done.code == 0, done.err
    kept = {name for name, stage in done.document["stages"].items() if not stage["made_now"]}
    assert kept == done_before


def test_a_disk_that_fills_while_it_trains_costs_no_finished_stage(
    small_disk: Disk, tiny_recipe: RecipeWriter, cli: Cli
) -> None:
    recipe = tiny_recipe()
    assert cli("data", recipe).code == 0
    small_disk.fill(100_000)
    assert_one_message(cli("run", recipe), "disk", "full")
    folder = small_disk.place / "tiny"
    assert not (folder / "train").exists()
    assert read_artifact(folder / "index") is not None and read_artifact(folder / "data") is not None
    small_disk.make_room()
    assert cli("run", recipe).err.count("nothing changed, kept") == 2


def test_a_file_that_may_not_grow_is_one_message(finished: Path, cli: Cli) -> None:
    """The same where nobody may mount: a limit on the size of files stops the write of the adapter."""
    folder = finished.parent / "runs" / "tiny"
    shutil.rmtree(folder / "train")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    started = cli.start("run", finished)
    resource.prlimit(started.pid, resource.RLIMIT_FSIZE, (20_000, before[1]))
    done = started.wait()
    assert_one_message(done)
    assert not (folder / "train").exists() and read_artifact(folder / "data") is not None
    assert cli("run", finished).code == 0
