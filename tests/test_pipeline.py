"""Which stages run again, and what is left when one of them is stopped.

Two kinds of tests. Those with `toy_stages` keep what every stage reads and needs and replace its work by a file that
says what it came from, so that hundreds of runs cost little. The others run the tiny models in processes of their own.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import hfkit.run
from hfkit.artifact import read_artifact
from hfkit.environment import describe_environment
from hfkit.errors import UnknownOnHubError, WorkError
from hfkit.pipeline import Compared, StageOutcome, compare_with_finished, run_stages
from hfkit.progress import Progress
from hfkit.recipe import load_recipe
from hfkit.stage import PartialResult, StageContext, StageName
from hfkit.stages import STAGES, wanted_stages

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter, Started

ALL: tuple[StageName, ...] = ("index", "data", "train", "evaluate")
AFTER_INDEX = ("data", "train", "evaluate")


class Toy(PartialResult):
    made: int


class Toys:
    """`failing` is the stage that fails half-way; `missing` is what the index has to do without."""

    def __init__(self) -> None:
        self.failing: StageName | None = None
        self.missing: tuple[str, ...] = ()
        self.made = 0

    def work(self, context: StageContext) -> Toy:
        name: StageName = context.folder.name.strip(".").removesuffix(".partial")  # type: ignore[assignment]
        self.made += 1
        came_from = {
            "reads": dict(STAGES[name].reads(context.recipe)),
            "needs": {need: (folder / "result.json").read_text() for need, folder in context.upstream.items()},
        }
        # In two pieces, with the fall between them: what is half-written must not be taken for whole.
        path = context.folder / "result.json"
        text = json.dumps(came_from, sort_keys=True)
        path.write_text(text[: len(text) // 2])
        if self.failing == name:
            raise WorkError(f"{name} fell over")
        path.write_text(text)
        return Toy(made=self.made, missing=self.missing if name == "index" else ())


@contextmanager
def toys_in_place() -> Iterator[Toys]:
    """What surrounds a stage and costs more than a toy's work is left out: collecting the garbage of the libraries that
    other tests have imported, and asking git and the installed packages for the manifest."""
    toys = Toys()
    described = describe_environment()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        for name, stage in tuple(STAGES.items()):
            patch.setitem(STAGES, name, replace(stage, run=toys.work))  # type: ignore[arg-type]
        patch.setattr(hfkit.pipeline, "describe_environment", lambda code: described)
        yield toys
    gc.unfreeze()


@pytest.fixture
def toy_stages() -> Iterator[Toys]:
    with toys_in_place() as toys:
        yield toys


def run(recipe: Path, *overrides: str) -> dict[StageName, StageOutcome]:
    loaded = load_recipe(recipe, overrides)
    return run_stages(loaded, wanted_stages(loaded), Progress(quiet=True))


def would_be_made(recipe: Path, *overrides: str) -> Compared:
    loaded = load_recipe(recipe, overrides)
    return compare_with_finished(loaded, wanted_stages(loaded))


def made_now(outcomes: Mapping[StageName, StageOutcome]) -> tuple[StageName, ...]:
    return tuple(name for name, outcome in outcomes.items() if outcome.made_now)


def run_folder(recipe: Path) -> Path:
    return recipe.parent / "runs" / "tiny"


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("name=tiny", ()),
        ("app={title: Another}", ()),
        ("train.log_steps=3", ()),
        ("train.save_steps=7", ()),
        ("train.keep_checkpoints=1", ()),
        ("train.divergence_guard=false", ()),
        ("train.micro_batch_size=2", ()),
        ("track=[trackio]", ()),
        ("rag.search.top_k=2", ()),
        ("evaluate.max_new_tokens=9", ("evaluate",)),
        ("evaluate.batch_size=3", ()),
        ("evaluate.gates=[tuned.token_f1 >= 0.0]", ("evaluate",)),
        ("train.epochs=3", ("train", "evaluate")),
        ("train.learning_rate=0.002", ("train", "evaluate")),
        ("train.schedule=cosine", ("train", "evaluate")),
        ("train.warmup=0.5", ("train", "evaluate")),
        ("train.max_grad_norm=2.0", ("train", "evaluate")),
        ("train.weight_decay=0.1", ("train", "evaluate")),
        ("train.max_steps=3", ("train", "evaluate")),
        ("train.max_minutes=9.5", ("train", "evaluate")),
        ("train.validation={}", ("train", "evaluate")),
        ("train.batch_size=2", ("train", "evaluate")),
        ("model.adapter.rank=8", ("train", "evaluate")),
        ("model.adapter.targets=[q_proj]", ("train", "evaluate")),
        ("seed=8", AFTER_INDEX),
        ("data.max_length=900", AFTER_INDEX),
        ("data.splits.test=0.3", AFTER_INDEX),
        ("data.sources.0.synthesize.questions=2", AFTER_INDEX),
        ("rag.search.mode=lexical", AFTER_INDEX),
        ("rag.chunk.tokens=80", ALL),
        ("rag.documents=[docs/bees.md, docs/ferns.md]", ALL),
    ],
)
def test_what_a_changed_key_makes_again(
    tiny_recipe: RecipeWriter, toy_stages: Toys, override: str, again: tuple[StageName, ...]
) -> None:
    recipe = tiny_recipe()
    assert made_now(run(recipe)) == ALL
    compared = would_be_made(recipe, override)
    assert (tuple(compared.changed), compared.unknown) == (again, ())
    assert made_now(run(recipe, override)) == again
    assert made_now(run(recipe, override)) == ()


def test_what_a_changed_document_makes_again(tiny_recipe: RecipeWriter, toy_stages: Toys, documents: Path) -> None:
    recipe = tiny_recipe()
    run(recipe)
    bees = documents / "bees.md"
    text = bees.read_text(encoding="utf-8")
    os.utime(bees, (1, 1))
    assert made_now(run(recipe)) == (), "a file that was only touched says the same"
    (documents / "picture.png").write_bytes(b"\x89PNG")
    assert made_now(run(recipe)) == (), "a file that nobody reads is no input"
    bees.write_text(text + "More about bees.\n", encoding="utf-8")
    assert made_now(run(recipe)) == ALL
    bees.unlink()
    assert made_now(run(recipe)) == ALL
    bees.write_text(text, encoding="utf-8")
    assert made_now(run(recipe)) == ALL


def test_what_could_not_be_read_is_looked_for_at_every_run_until_it_can(
    tiny_recipe: RecipeWriter, toy_stages: Toys, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe()
    toy_stages.missing = ("https://docs.example.org/a", "b.pdf")
    assert made_now(run(recipe)) == ALL
    for _ in range(2):
        assert would_be_made(recipe).changed == {}, "what could not be read need not be there now"
        assert made_now(run(recipe)) == ("index",), "what depends on it came from what there was"
    toy_stages.failing = "index"
    with pytest.raises(WorkError):
        run(recipe)
    toy_stages.failing = None
    assert made_now(run(recipe)) == ("index",)
    toy_stages.missing = ("b.pdf",)
    assert made_now(run(recipe)) == ALL, "it holds one more"
    toy_stages.missing = ()
    loaded = load_recipe(recipe)
    capfd.readouterr()
    assert made_now(run_stages(loaded, wanted_stages(loaded), Progress())) == ALL
    assert "index: b.pdf could not be read last time, and is looked for again" in capfd.readouterr().err
    assert made_now(run(recipe)) == ()


def test_what_a_changed_file_of_conversations_makes_again(tiny_recipe: RecipeWriter, toy_stages: Toys) -> None:
    rows = Path("rows.jsonl")
    rows.write_text("{}\n", encoding="utf-8")
    recipe = tiny_recipe(rag=None, evaluate=None, data={"sources": [{"path": "rows.jsonl"}]})
    assert made_now(run(recipe)) == ("data", "train")
    os.utime(rows, (1, 1))
    assert made_now(run(recipe)) == ()
    rows.write_text("{} \n", encoding="utf-8")
    assert made_now(run(recipe)) == ("data", "train")


def test_what_a_changed_chat_template_makes_again(tiny_recipe: RecipeWriter, toy_stages: Toys) -> None:
    Path("chat.jinja").write_text("one", encoding="utf-8")
    recipe = tiny_recipe(model={"chat_template": "chat.jinja"})
    assert made_now(run(recipe)) == ALL
    Path("chat.jinja").write_text("two", encoding="utf-8")
    assert made_now(run(recipe)) == AFTER_INDEX


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_local_model_whose_files_changed_is_another_model(
    tiny_recipe: RecipeWriter, toy_stages: Toys, tiny_model: Path, file: str
) -> None:
    folder = Path("my-model").absolute()
    shutil.copytree(tiny_model, folder)
    recipe = tiny_recipe(model={"base": str(folder)})
    run(recipe)
    assert made_now(run(recipe)) == ()
    change(folder / file)
    again = made_now(run(recipe))
    assert again[-2:] == ("train", "evaluate") and "index" not in again


def test_a_local_embedder_whose_files_changed_is_another_embedder(
    tiny_recipe: RecipeWriter, toy_stages: Toys, tiny_embedder: Path
) -> None:
    folder = Path("my-embedder").absolute()
    shutil.copytree(tiny_embedder, folder)
    recipe = tiny_recipe(rag={"embedder": str(folder)})
    run(recipe)
    assert made_now(run(recipe)) == ()
    change(folder / "model.safetensors")
    assert made_now(run(recipe)) == ALL


def change(path: Path) -> None:
    """Another byte at the end, and a later time of change."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000))


@pytest.mark.parametrize("failing", ALL)
def test_a_stage_that_fails_keeps_those_before_it_and_leaves_no_marker(
    tiny_recipe: RecipeWriter, toy_stages: Toys, failing: StageName
) -> None:
    recipe = tiny_recipe()
    toy_stages.failing = failing
    with pytest.raises(WorkError, match=failing):
        run(recipe)
    position = ALL.index(failing)
    for name in ALL:
        assert (run_folder(recipe) / name / "artifact.json").exists() == (ALL.index(name) < position)
    toy_stages.failing = None
    assert made_now(run(recipe)) == ALL[position:]


@pytest.mark.parametrize("name", AFTER_INDEX)
def test_a_stage_that_fails_leaves_its_older_artifact_untouched(
    tiny_recipe: RecipeWriter, toy_stages: Toys, name: StageName
) -> None:
    recipe = tiny_recipe()
    run(recipe)
    before = read_artifact(run_folder(recipe) / name)
    toy_stages.failing = name
    with pytest.raises(WorkError):
        run(recipe, "seed=8", "evaluate.batch_size=3", "train.epochs=3")
    assert read_artifact(run_folder(recipe) / name) == before
    # Taken back, the recipe is the one that this artifact came from.
    toy_stages.failing = None
    assert name not in made_now(run(recipe))


def test_an_index_that_fails_over_an_older_one_does_not_count_as_whole(
    tiny_recipe: RecipeWriter, toy_stages: Toys
) -> None:
    """It changes its folder in place: from the first change on the older marker would be a lie."""
    recipe = tiny_recipe()
    run(recipe)
    toy_stages.failing = "index"
    with pytest.raises(WorkError):
        run(recipe, "rag.chunk.tokens=80")
    assert read_artifact(run_folder(recipe) / "index") is None


@pytest.mark.parametrize("wanted", ALL)
def test_one_stage_brings_up_what_it_needs_and_nothing_else(
    tiny_recipe: RecipeWriter, toy_stages: Toys, wanted: StageName
) -> None:
    outcomes = run_stages(load_recipe(tiny_recipe()), (wanted,), Progress(quiet=True))
    assert tuple(outcomes) == ALL[: ALL.index(wanted) + 1]


def test_a_raised_version_makes_a_stage_again(tiny_recipe: RecipeWriter, toy_stages: Toys) -> None:
    recipe = tiny_recipe()
    run(recipe)
    # Undone before the toys are taken away; the other way round, a toy would stay for the tests that follow.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, "train", replace(STAGES["train"], version=STAGES["train"].version + 1))  # type: ignore[arg-type]
        assert made_now(run(recipe)) == ("train", "evaluate")


def test_what_would_be_made_again_names_the_inputs_that_changed(tiny_recipe: RecipeWriter, toy_stages: Toys) -> None:
    recipe = tiny_recipe()
    run(recipe)
    changed = would_be_made(recipe, "train.epochs=3", "model.adapter.rank=8", "evaluate.max_new_tokens=9").changed
    assert changed == {"train": ("model.adapter", "train.epochs"), "evaluate": ("evaluate.max_new_tokens",)}
    assert would_be_made(recipe, "train.epochs=3").changed == {"train": ("train.epochs",), "evaluate": ()}
    (run_folder(recipe) / "data" / "artifact.json").unlink()
    with pytest.raises(WorkError, match="the data stage has not finished"):
        would_be_made(recipe)


def test_a_model_of_the_hub_that_nobody_can_ask_for_is_not_taken_for_another(
    tiny_recipe: RecipeWriter, toy_stages: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit_is(commit: str | None) -> None:
        monkeypatch.setattr("hfkit.models.identity._commit", lambda reference, revision: commit)

    recipe = tiny_recipe(model={"base": "ada/reader"})
    commit_is("a" * 40)
    run(recipe)
    assert would_be_made(recipe) == Compared({}, ())
    commit_is(None)
    assert would_be_made(recipe) == Compared({}, ("data", "evaluate"))
    changed = would_be_made(recipe, "train.epochs=3")
    assert (changed.changed, changed.unknown) == ({"train": ("train.epochs",), "evaluate": ()}, ("data",))
    commit_is("b" * 40)
    assert tuple(would_be_made(recipe).changed) == made_now(run(recipe)) == AFTER_INDEX


def test_a_dataset_of_the_hub_that_nobody_can_ask_for_is_not_taken_for_another(
    tiny_recipe: RecipeWriter, toy_stages: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit_is(commit: str | None) -> None:
        monkeypatch.setattr("hfkit.data.sources.hub_identity", lambda source: {"hub": source.hub, "commit": commit})

    def refuse(source: object) -> None:
        raise UnknownOnHubError("hub: ada/rows: no network")

    recipe = tiny_recipe(rag=None, evaluate=None, data={"sources": [{"hub": "ada/rows"}]})
    commit_is("a" * 40)
    run(recipe)
    commit_is(None)
    assert would_be_made(recipe) == Compared({}, ("data",))
    assert would_be_made(recipe, "data.max_length=900").changed == {"data": ("data.max_length",), "train": ()}
    monkeypatch.setattr("hfkit.data.sources.hub_identity", refuse)
    assert would_be_made(recipe, "train.epochs=3") == Compared({"train": ("train.epochs",)}, ("data",))


@pytest.mark.parametrize("made_anew", [False, True])
@pytest.mark.parametrize(
    ("gone", "again"), [("", ALL), (".train.partial", ("train", "evaluate")), ("data", AFTER_INDEX)]
)
def test_a_folder_that_goes_while_a_stage_works_is_named(
    tiny_recipe: RecipeWriter, toy_stages: Toys, gone: str, again: tuple[StageName, ...], made_anew: bool
) -> None:
    recipe = tiny_recipe()

    def work(context: StageContext) -> Toy:
        shutil.rmtree(run_folder(recipe) / gone)
        if not made_anew:
            return toy_stages.work(context)
        context.folder.mkdir(parents=True, exist_ok=True)
        return Toy(made=0)

    said = re.escape(f"{Path('runs') / 'tiny' / gone}: was deleted or moved while the train stage worked with it; run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, "train", replace(STAGES["train"], run=work))  # type: ignore[arg-type]
        with pytest.raises(WorkError, match=f"^{said}"):
            run(recipe)
    assert made_now(run(recipe)) == again


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a truncated file": lambda folder: (folder / "result.json").write_bytes((folder / "result.json").read_bytes()[:-3]),
    "a flipped byte": lambda folder: change(folder / "result.json"),
    "a missing file": lambda folder: (folder / "result.json").unlink(),
    "a marker of garbage": lambda folder: (folder / "artifact.json").write_text("{garbage"),
    "an empty marker": lambda folder: (folder / "artifact.json").write_text(""),
    "a missing marker": lambda folder: (folder / "artifact.json").unlink(),
    "a missing folder": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_a_damaged_artifact_is_said_once_and_made_again(
    tiny_recipe: RecipeWriter, toy_stages: Toys, name: StageName, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe()
    run(recipe)
    whole = contents(run_folder(recipe))
    DAMAGES[damage](run_folder(recipe) / name)
    loaded = load_recipe(recipe)
    outcomes = run_stages(loaded, wanted_stages(loaded), Progress())
    # The same inputs give the same artifact, so nothing that came from it need be made again.
    assert made_now(outcomes) == (name,)
    assert contents(run_folder(recipe)) == whole
    told = [line for line in capsys.readouterr().err.splitlines() if "run again" in line]
    assert len(told) == (0 if damage in ("a missing marker", "a missing folder") else 1)
    assert all(line.startswith(f"{name}: ") for line in told)
    assert made_now(run(recipe)) == ()


EDITS = st.sampled_from(
    [
        "evaluate.max_new_tokens=9",
        "evaluate.batch_size=3",
        "train.epochs=3",
        "train.log_steps=4",
        "model.adapter.rank=8",
        "data.max_length=900",
        "seed=8",
        "rag.chunk.tokens=80",
        "rag.search.top_k=1",
        "write ferns.md",
        "remove bees.md",
    ]
)


@given(
    steps=st.lists(st.tuples(st.lists(EDITS, max_size=3), st.sampled_from([None, *ALL])), min_size=1, max_size=5),
    last=st.lists(EDITS, max_size=3),
)
@settings(deadline=None, max_examples=12)
def test_after_any_history_a_run_is_what_a_fresh_one_would_be(
    steps: list[tuple[list[str], StageName | None]], last: list[str]
) -> None:
    """Edits, failures half-way, edits taken back: what lies there at the end depends on the last recipe alone."""
    with tempfile.TemporaryDirectory() as place, toys_in_place() as toys, working_in(Path(place)):
        recipe = Path("tiny.yaml")
        recipe.write_text(yaml.safe_dump(PLAIN_RECIPE), encoding="utf-8")
        for edits, failing in steps:
            toys.failing = failing
            try:
                run(recipe, *edited(edits))
            except WorkError:
                assert failing is not None
        toys.failing = None
        overrides = edited(last)
        outcomes = run(recipe, *overrides)
        assert made_now(run(recipe, *overrides)) == ()
        lived = contents(Path("runs/tiny"))
        fingerprints = {name: outcome.artifact.fingerprint for name, outcome in outcomes.items()}
        shutil.rmtree("runs")
        fresh = run(recipe, *overrides)
        assert contents(Path("runs/tiny")) == lived
        assert {name: outcome.artifact.fingerprint for name, outcome in fresh.items()} == fingerprints


PLAIN_RECIPE = {
    "name": "tiny",
    "model": {"base": "somebody/model"},
    "rag": {"documents": ["docs/"], "embedder": "somebody/embedder"},
    "data": {"sources": [{"synthesize": {}}]},
    "train": {},
    "evaluate": {"tasks": ["grounded_answers"]},
}


def edited(edits: list[str]) -> list[str]:
    """Does the edits of documents, gives those of the recipe. Each state of the documents is written from scratch."""
    shutil.rmtree("docs", ignore_errors=True)
    Path("docs").mkdir()
    for name in ("bees.md", "ferns.md"):
        if f"remove {name}" not in edits:
            Path("docs", name).write_text(f"# {name}{' again' * (f'write {name}' in edits)}\n", encoding="utf-8")
    return [edit for edit in edits if "=" in edit]


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def contents(folder: Path) -> dict[str, str]:
    return {name: (folder / name / "result.json").read_text(encoding="utf-8") for name in ALL}


# From here on the tiny models, in processes of their own.


def outcome(recipe: Path) -> dict[str, Any]:
    """What a finished run came to, without what may differ: times, places, and the index's history."""
    folder = run_folder(recipe)
    weights = (folder / "train" / "adapter" / "adapter_model.safetensors").read_bytes()
    result = json.loads((folder / "train" / "artifact.json").read_text(encoding="utf-8"))["result"]
    return {
        "weights": weights,
        "loss": result["loss"],
        "steps": result["steps"],
        "rows": [path.read_bytes() for path in sorted((folder / "data").glob("*/*.parquet"))],
        "predictions": (folder / "evaluate" / "predictions" / "grounded_answers.jsonl").read_text(encoding="utf-8"),
        "evaluation": json.loads((folder / "evaluate" / "artifact.json").read_text(encoding="utf-8"))["result"],
        "fingerprints": {name: read_whole(folder / name).fingerprint for name in ALL},
        "metrics": [
            (line["step"], line["loss"])
            for line in map(json.loads, (folder / "train" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        ],
    }


def read_whole(folder: Path) -> Any:
    artifact = read_artifact(folder)
    assert artifact is not None, f"{folder} is not finished"
    return artifact


def assert_nothing_torn_looks_whole(recipe: Path) -> None:
    """Wherever a marker lies, hidden folders included, all that it names is there as it was written."""
    for marker in run_folder(recipe).rglob("artifact.json"):
        read_artifact(marker.parent)
    for name in AFTER_INDEX:
        folder = run_folder(recipe) / name
        assert folder.exists() == (folder / "artifact.json").exists()


def test_a_finished_recipe_run_again_does_nothing_and_says_so(finished: Path, cli: Cli) -> None:
    folder = run_folder(finished)
    before = {path: path.stat().st_mtime_ns for name in ALL for path in (folder / name).rglob("*") if path.is_file()}
    done = cli("run", finished)
    assert done.code == 0
    assert done.err.splitlines() == [f"{name}: nothing changed, kept" for name in ALL]
    assert "Nothing to do" in done.out
    after = {path: path.stat().st_mtime_ns for name in ALL for path in (folder / name).rglob("*") if path.is_file()}
    assert after == before


def test_evaluate_settings_run_evaluate_alone(finished: Path, cli: Cli) -> None:
    before = outcome(finished)
    done = cli("run", finished, "evaluate.max_new_tokens=4", "--json")
    assert done.code == 0, done.err
    assert [name for name, stage in done.document["stages"].items() if stage["made_now"]] == ["evaluate"]
    after = outcome(finished)
    assert after["weights"] == before["weights"] and after["predictions"] != before["predictions"]


def test_a_changed_document_is_the_only_one_embedded_again(finished: Path, cli: Cli, documents: Path) -> None:
    ferns = documents / "ferns.md"
    ferns.write_text(ferns.read_text(encoding="utf-8").replace("summer sun", "winter sun"), encoding="utf-8")
    done = cli("run", finished, "--json")
    assert done.code == 0, done.err
    stages = done.document["stages"]
    assert [name for name, stage in stages.items() if stage["made_now"]] == list(ALL)
    index = stages["index"]["result"]
    assert (index["added"], index["changed"], index["removed"], index["unchanged"]) == (0, 1, 0, 7)
    # Three sections, of which one says something new.
    assert index["embedded"] == 1 and index["generation"] == 2 and index["chunks"] == 24
    ferns.unlink()
    index = cli("index", finished, "--json").document["stages"]["index"]["result"]
    assert (index["removed"], index["unchanged"], index["embedded"], index["chunks"]) == (1, 7, 0, 21)


def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(
    tiny_recipe: RecipeWriter, cli: Cli, finished: Path
) -> None:
    """Killed again and again, anywhere between the first file and the last."""
    expected = outcome(finished)
    shutil.rmtree(run_folder(finished))
    choose = random.Random(20)
    for _ in range(7):
        started = cli.start("run", finished)
        time.sleep(choose.uniform(0.05, 1.6))
        started.kill(signal.SIGKILL)
        started.wait()
        assert_nothing_torn_looks_whole(finished)
    done = cli("run", finished)
    assert done.code == 0, done.err
    assert outcome(finished) == expected
    assert cli("run", finished).err.count("nothing changed, kept") == 4


@pytest.mark.parametrize("name", ALL)
def test_a_stage_killed_at_work_is_made_again(
    finished: Path, cli: Cli, name: StageName, patiently: Callable[..., None]
) -> None:
    expected = outcome(finished)
    folder = run_folder(finished)
    shutil.rmtree(folder / name)
    workshop = folder / name if name == "index" else folder / f".{name}.partial"
    started = cli.start("run", finished)
    patiently(lambda: (workshop / "recipe.yaml").exists() or not started.running(), "the stage to begin")
    started.kill(signal.SIGKILL)
    assert started.wait().code == -signal.SIGKILL, "it was over before it could be killed"
    assert_nothing_torn_looks_whole(finished)
    assert not (folder / name / "artifact.json").exists()
    done = cli("run", finished, "--json")
    assert done.code == 0, done.err
    assert [stage for stage, said in done.document["stages"].items() if said["made_now"]] == [name]
    assert outcome(finished) == expected


def written(state: Path) -> bool:
    """Whether the file is there to its end: it exists a moment before it has any content."""
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def in_training(cli: Cli, recipe: Path, patiently: Callable[..., None], checkpoint: int) -> Started:
    """A run that has written the checkpoint of that step and trains on."""
    started = cli.start("run", recipe)
    state = run_folder(recipe) / ".train.partial" / ".checkpoints" / f"checkpoint-{checkpoint}" / "trainer_state.json"
    patiently(lambda: written(state) or not started.running(), "a checkpoint")
    assert started.running(), started.wait().err
    return started


@pytest.mark.parametrize("step", [2, 8], ids=["in the first epoch", "in the second epoch"])
def test_training_killed_after_a_checkpoint_goes_on_from_it(
    finished: Path, cli: Cli, patiently: Callable[..., None], step: int
) -> None:
    expected = outcome(finished)
    shutil.rmtree(run_folder(finished) / "train")
    started = in_training(cli, finished, patiently, step)
    started.kill(signal.SIGKILL)
    started.wait()
    assert not (run_folder(finished) / "train").exists()
    # It may have come further than it was waited for; the test is about this step.
    for checkpoint in (run_folder(finished) / ".train.partial" / ".checkpoints").glob("checkpoint-*"):
        if int(checkpoint.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(checkpoint)
    done = cli("run", finished, "--json")
    assert done.code == 0, done.err
    assert done.document["stages"]["train"]["result"]["continued_from_step"] == step
    assert f"continuing from step {step}" in done.err
    # And it did go on from there: from the start it would come to the same weights.
    assert next(line for line in done.err.splitlines() if "training: " in line).startswith(f"  training: {step} of 10")
    assert outcome(finished) == expected


def test_a_checkpoint_that_was_cut_off_is_passed_over(finished: Path, cli: Cli, patiently: Callable[..., None]) -> None:
    expected = outcome(finished)
    shutil.rmtree(run_folder(finished) / "train")
    started = in_training(cli, finished, patiently, 4)
    started.kill(signal.SIGKILL)
    started.wait()
    checkpoints = run_folder(finished) / ".train.partial" / ".checkpoints"
    steps = sorted(int(path.name.removeprefix("checkpoint-")) for path in checkpoints.glob("checkpoint-*"))
    newest = checkpoints / f"checkpoint-{steps[-1]}" / "trainer_state.json"
    if newest.exists():
        newest.write_bytes(newest.read_bytes()[:-10])
    done = cli("run", finished, "--json")
    assert done.code == 0, done.err
    assert done.document["stages"]["train"]["result"]["continued_from_step"] == steps[-2]
    assert outcome(finished) == expected


def test_a_checkpoint_of_another_recipe_is_not_continued_from(
    finished: Path, cli: Cli, patiently: Callable[..., None]
) -> None:
    expected = outcome(finished)
    shutil.rmtree(run_folder(finished) / "train")
    started = in_training(cli, finished, patiently, 4)
    started.kill(signal.SIGKILL)
    started.wait()
    # Another rate, then the first one again: neither may go on from what the other left.
    done = cli("train", finished, "train.learning_rate=0.01", "--json")
    assert done.document["stages"]["train"]["result"]["continued_from_step"] == 0
    done = cli("run", finished, "--json")
    assert done.document["stages"]["train"]["result"]["continued_from_step"] == 0
    assert outcome(finished) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_says_one_thing_and_keeps_what_is_finished(
    finished: Path, cli: Cli, patiently: Callable[..., None], number: signal.Signals
) -> None:
    expected = outcome(finished)
    shutil.rmtree(run_folder(finished))
    started = in_training(cli, finished, patiently, 2)
    started.kill(number)
    done = started.wait()
    assert done.code == 1
    assert "Traceback" not in done.err and done.out == ""
    (last,) = [line for line in done.err.splitlines() if line.startswith("hfkit: ")]
    assert "interrupted" in last and last == done.err.splitlines()[-1]
    assert_nothing_torn_looks_whole(finished)
    assert read_whole(run_folder(finished) / "index") and read_whole(run_folder(finished) / "data")
    done = cli("run", finished, "--json")
    assert done.code == 0, done.err
    assert [name for name, stage in done.document["stages"].items() if stage["made_now"]] == ["train", "evaluate"]
    assert done.document["stages"]["train"]["result"]["continued_from_step"] >= 2
    assert outcome(finished) == expected


@pytest.mark.slow
def test_a_cold_process_is_interrupted_like_a_warm_one(
    finished: Path, cold_cli: Cli, cli: Cli, patiently: Callable[..., None]
) -> None:
    """The same once through `python -m hfkit` itself: SIGTERM while it trains."""
    expected = outcome(finished)
    shutil.rmtree(run_folder(finished) / "train")
    started = in_training(cold_cli, finished, patiently, 2)
    started.kill(signal.SIGTERM)
    done = started.wait()
    assert done.code == 1 and "Traceback" not in done.err and "interrupted" in done.err.splitlines()[-1]
    done = cli("run", finished, "--json")
    assert done.code == 0, done.err
    assert done.document["stages"]["train"]["result"]["continued_from_step"] >= 2
    assert outcome(finished) == expected


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("index", "index.sqlite"),
        ("data", "sequences/train-00000.parquet"),
        ("train", "adapter/adapter_model.safetensors"),
        ("evaluate", "predictions/grounded_answers.jsonl"),
    ],
)
def test_a_corrupt_file_of_a_real_artifact_is_said_and_made_again(
    finished: Path, cli: Cli, name: StageName, file: str
) -> None:
    expected = outcome(finished)
    path = run_folder(finished) / name / file
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 255 for byte in content[middle : middle + 64])
    path.write_bytes(bytes(content))
    done = cli("run", finished)
    assert done.code == 0, done.err
    (told,) = [line for line in done.err.splitlines() if "damaged" in line and line.startswith(f"{name}: ")]
    assert file in told and "Traceback" not in done.err
    assert outcome(finished) == expected
