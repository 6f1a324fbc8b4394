"""`hfkit reproduce`: the same bits on the same machine, what differs where they are not, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from hfkit.artifact import FileRecord, ModelRecord, file_sha256
from hfkit.environment import Code, describe_environment
from hfkit.manifest import Manifest
from hfkit.recipe import load_recipe
from hfkit.reproducing.comparison import ScorePair, compare_weights
from hfkit.reproducing.differences import Made, differences
from hfkit.reproducing.origin import find_origin
from hfkit.reproducing.reproduce import MARK, _Mark, _require_free
from hfkit.reproducing.trust import wants

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = "adapter/adapter_model.safetensors"


def manifest_of(run: Path) -> Manifest:
    return Manifest.model_validate_json((run / "manifest.json").read_text(encoding="utf-8"))


def rewrite(path: Path, **keys: Any) -> None:
    written = yaml.safe_load(path.read_text(encoding="utf-8")) | keys
    path.write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")


def differing(document: Any) -> list[str]:
    """What differs, but for the code: somebody may work on it while the tests run."""
    return [found["what"] for found in document["differences"] if found["what"] != "the code of hfkit"]


def test_on_the_same_machine_it_comes_out_bit_for_bit(finished: Path, cli: Cli) -> None:
    run, again = finished.parent / "runs" / "tiny", finished.parent / "runs" / "tiny-again"
    before = (run / "manifest.json").read_bytes()
    done = cli("reproduce", "runs/tiny", "--json")
    assert done.code == 0, done.err
    found = done.document
    assert (found["same"], found["made_now"], found["same_data"], differing(found)) == (True, True, True, [])
    digest = file_sha256(run / "train" / WEIGHTS)
    assert file_sha256(again / "train" / WEIGHTS) == digest
    assert found["weights"]["files"] == {WEIGHTS: [digest, digest]}
    assert found["weights"]["same_bits"] and found["weights"]["largest_difference"] is None
    assert {pair["what"] for pair in found["scores"]} >= {
        "grounded_answers: token_f1 of base",
        "grounded_answers: token_f1 of tuned",
    }
    assert all(pair["there"] == pair["here"] for pair in found["scores"])
    # The old run is as it was; a second time nothing is left to do, and that is said.
    assert (run / "manifest.json").read_bytes() == before
    second = cli("reproduce", "runs/tiny")
    assert second.code == 0, second.err
    assert "it was made again before" in second.out
    assert second.out.endswith("reproduced\n")


def test_what_comes_out_otherwise_is_said_and_by_how_much(finished: Path, cli: Cli) -> None:
    """As after a manifest was mixed up with another recipe."""
    rewrite(finished.parent / "runs" / "tiny" / "recipe.yaml", seed=8)
    done = cli("reproduce", "runs/tiny", "--json", "--to", "other")
    assert done.code == 1, done.err
    found = done.document
    assert differing(found) == ["what goes in as seed"]
    (seed,) = (difference for difference in found["differences"] if difference["what"] == "what goes in as seed")
    assert seed["stages"] == ["data", "train", "evaluate"]
    assert (found["same"], found["same_data"], found["weights"]["same_bits"]) == (False, False, False)
    assert found["weights"]["largest_difference"] > 0
    assert "lora" in found["weights"]["at"]
    assert "runs/tiny did not come out the same (what differed: " in done.err
    assert len(done.err.splitlines()[-1]) < 400


def test_what_differs_is_said_before_anything_is_run(finished: Path, cli: Cli) -> None:
    run = finished.parent / "runs" / "tiny"
    written = json.loads((run / "manifest.json").read_text())
    train = written["stages"]["train"]
    train["environment"]["versions"]["torch"] = "1.0"
    train["environment"]["hardware"]["processor"] = "another processor"
    train["environment"]["code"] |= {"commit": "f" * 40, "content": "0" * 64}
    train["result"]["threads"] = 3
    train["result"]["processes"] = 2
    train["models"]["base"]["files"]["model.safetensors"] = "1" * 64
    (run / "manifest.json").write_text(json.dumps(written))
    (finished.parent / "docs" / "bees.md").write_text("# Bees\n\nBees fly.\n")
    done = cli("reproduce", finished, "--check-only")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    for said in (
        "  torch: 1.0 then, ",
        "  processor: another processor then, ",
        "  the code of hfkit: commit ffffffffff",
        "  threads: 3 then, 1 here (train)",
        "  processes: 2 then, 1 here (train)",
        "  the base model (model.safetensors): 111111111111 then, ",
        "  what goes in as documents: ",
    ):
        assert any(line.startswith(said) for line in lines), done.out
    assert [path.name for path in (finished.parent / "runs").iterdir()] == ["tiny"]
    document = cli("reproduce", finished, "--check-only", "--json").document
    assert document["stages"] == ["index", "data", "train", "evaluate"]
    assert "same" not in document


def test_a_run_of_its_own_is_never_written_over(finished: Path, cli: Cli) -> None:
    shutil.copytree(finished.parent / "runs" / "tiny", finished.parent / "runs" / "precious")
    for name in ("tiny", "precious"):
        done = cli("reproduce", "runs/tiny", "--to", name)
        assert (done.code, f"runs/{name}: is a run of its own; name another one with --to" in done.err) == (2, True)


def test_the_reproduction_of_another_run_of_the_same_name_is_never_written_over(finished: Path, cli: Cli) -> None:
    """Many runs are called handbook."""
    run = finished.parent / "runs" / "tiny"
    there = finished.parent / "runs" / "tiny-again"
    there.mkdir()
    origin = find_origin(str(run), None)
    (there / MARK).write_text(_Mark.of(origin).model_dump_json(), encoding="utf-8")
    _require_free(there, origin)
    written = json.loads((run / "manifest.json").read_text())
    written["stages"]["train"]["fingerprint"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(written), encoding="utf-8")
    done = cli("reproduce", "runs/tiny")
    assert (done.code, "is another run tiny made again" in done.err, "--to" in done.err) == (2, True, True), done.err


def test_what_is_not_here_is_said_and_nothing_is_made(finished: Path, cli: Cli) -> None:
    folder = finished.parent
    for arguments, said in (
        (["runs/missing"], "runs/missing: there is no such run folder"),
        (["missing.yaml"], "missing.yaml: there is no such run folder or recipe"),
        (["docs"], "there is no recipe.yaml in docs"),
        (["runs/tiny", "model.base=./nowhere"], "model.base: ./nowhere: no such folder"),
        (["runs/tiny", "--to", "No Name"], "name=No Name: expected a name"),
        (["runs/tiny", "rag.documents=[nowhere/]"], "rag.documents: "),
        (["runs/tiny", *(f"{name}=null" for name in ("evaluate", "train", "data", "rag"))], "nothing to make again"),
    ):
        done = cli("reproduce", *arguments)
        assert (done.code, said in done.err, "Traceback" in done.err) == (2, True, False), done.err
    path = folder / "runs" / "tiny" / "manifest.json"
    path.write_text('{"recipe": "tiny"}')
    done = cli("reproduce", "runs/tiny")
    assert (done.code, "manifest.json: is damaged" in done.err) == (2, True)
    assert [path.name for path in (folder / "runs").iterdir()] == ["tiny"]


CALLABLE = {"callable": "trace:rows"}
TASK = {"file": "trace.py:make_task", "name": "own"}
ENDPOINT = {"name": "theirs", "endpoint": "http://192.0.2.1/v1", "model": "m", "key_env": "HF_TOKEN"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("sections", "wanted"),
    [
        ({}, []),
        ({"allow_code": True}, ["allow_code"]),
        ({"model": {"pickled_weights": True}}, ["model.pickled_weights"]),
        ({"data": {"sources": [CALLABLE]}, "rag": None}, ["data.sources.0.callable"]),
        ({"data": {"sources": [{"sql": "DELETE", "url": "env:URL"}]}, "rag": None}, ["data.sources.0.sql"]),
        ({"evaluate": {"tasks": ["grounded_answers", TASK]}}, ["evaluate.tasks.1.file"]),
        ({"evaluate": {"harness": {"tasks": ["own"], "include_path": "tasks"}}}, ["evaluate.harness.include_path"]),
        ({"evaluate": {"models": ["tuned", ENDPOINT]}}, ["evaluate.models (theirs)"]),
        (
            {"evaluate": {"judge": {"endpoint": {"endpoint": "http://192.0.2.1/v1", "model": "m"}}}},
            ["evaluate.judge.endpoint"],
        ),
        (
            {"allow_code": True, "model": {"base": "a/b", "revision": COMMIT, "trust_remote_code": True}},
            ["allow_code", "model.trust_remote_code"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_recipe_could_do_beyond_computing(
    tiny_recipe: RecipeWriter, sections: dict[str, Any], wanted: list[str]
) -> None:
    found = wants(load_recipe(tiny_recipe(**sections)))
    assert [want.split(": ")[0] for want in found] == wanted


def test_code_is_run_only_where_the_user_says_so(finished: Path, cli: Cli) -> None:
    folder = finished.parent
    trace = folder / "ran"
    (folder / "trace.py").write_text(f"open({str(trace)!r}, 'w')\n\ndef rows():\n    yield {{'text': 'a'}}\n")
    recipe = folder / "runs" / "tiny" / "recipe.yaml"
    whole = yaml.safe_load(recipe.read_text())
    rewrite(recipe, allow_code=True, data=whole["data"] | {"sources": [CALLABLE]}, hub={"repo": "ada/reader"})
    for arguments in ([], ["--check-only"]):
        done = cli("reproduce", "runs/tiny", *arguments)
        assert done.code == 2
        assert "nothing was run" in done.err and "--allow-code" in done.err
        assert "data.sources.0.callable: runs trace:rows" in done.err
    assert not trace.exists()
    assert not (folder / "runs" / "tiny-again").exists()
    allowed = cli("reproduce", "runs/tiny", "--check-only", "--allow-code")
    assert allowed.code == 0, allowed.err
    # Looking does not run it either.
    assert not trace.exists()


def test_a_recipe_that_extends_another_file_is_none_that_a_run_wrote(finished: Path, cli: Cli) -> None:
    rewrite(finished.parent / "runs" / "tiny" / "recipe.yaml", extends="../../tiny.yaml")
    done = cli("reproduce", "runs/tiny")
    assert (done.code, "extends tiny.yaml" in done.err) == (2, True)


def test_the_manifest_says_what_went_in_and_no_path_of_this_machine(finished: Path, tiny_model: Path) -> None:
    stages = manifest_of(finished.parent / "runs" / "tiny").stages
    assert {"documents", "embedder", "chunker"} <= set(stages["index"].inputs)
    assert {"tokenizer", "seed", "prompt", "data.max_length"} <= set(stages["data"].inputs)
    assert {"train.epochs", "model.adapter", "seed"} <= set(stages["train"].inputs)
    assert stages["train"].models["base"].revision is None
    weights = {name: record.files.get("model.safetensors") for name, record in stages["train"].models.items()}
    assert weights == {"base": file_sha256(tiny_model / "model.safetensors")}
    # Preparing reads the tokenizer alone.
    assert set(stages["data"].models["base"].files) >= {"tokenizer.json"}
    assert "model.safetensors" not in stages["data"].models["base"].files
    assert set(stages["index"].models) == {"embedder"}
    environment = stages["train"].environment
    assert environment.hardware.instructions and environment.code.content
    assert {"safetensors", "pyarrow"} <= set(environment.versions)
    for stage in stages.values():
        assert str(finished.parent) not in json.dumps(
            [stage.inputs, {role: record.model_dump() for role, record in stage.models.items()}]
        )


def test_commits_and_files_of_models_are_told_apart() -> None:
    environment = describe_environment()

    def made(revision: str | None, **files: str) -> dict[str, Made]:
        record = ModelRecord(
            revision=revision, files={name.replace("_", "."): digest for name, digest in files.items()}
        )
        return {"train": Made(environment, {}, {"base": record})}

    def found(there: dict[str, Made], here: dict[str, Made]) -> list[tuple[str, str, str]]:
        listed = differences(there, here)  # type: ignore[arg-type]
        return [(difference.what, difference.there, difference.here) for difference in listed]

    was = made("a" * 40, config_json="c1", model_safetensors="m1")
    assert found(was, made("b" * 40, config_json="c1", model_safetensors="m1", more_json="x")) == []
    assert found(was, made("a" * 40, config_json="c1")) == []
    assert found(was, made(None, config_json="c1")) == [
        ("the base model (model.safetensors)", "commit aaaaaaaaaa, m1", "missing")
    ]
    assert found(was, made("b" * 40, config_json="c1", model_safetensors="m2")) == [
        ("the base model (model.safetensors)", "commit aaaaaaaaaa, m1", "commit bbbbbbbbbb, m2")
    ]
    # Not fetched yet: it is looked at when the run is done.
    assert found(was, {"train": Made(environment, {}, {})}) == []


def test_the_same_code_is_the_same_whatever_commit_it_is_called() -> None:
    environment = describe_environment()

    def found(**there: Any) -> list[str]:
        code = Code(**({"commit": None, "changed": False, "content": environment.code.content} | there))
        was = {"train": Made(environment.model_copy(update={"code": code}), {}, {})}
        return [d.what for d in differences(was, {"train": Made(environment, {}, {})})]  # type: ignore[arg-type, dict-item]

    assert found(commit="f" * 40, changed=True) == []
    assert found(content="0" * 64) == ["the code of hfkit"]
    assert found(content=None, commit="f" * 40) == ["the commit of hfkit"]


def test_the_largest_difference_of_a_weight(finished: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    origin = find_origin("runs/tiny")
    train = origin.stages["train"]
    original = finished.parent / "runs" / "tiny" / "train" / WEIGHTS
    tensors = load_file(original)
    name = sorted(tensors)[1]
    here = tmp_path / "here" / WEIGHTS
    here.parent.mkdir(parents=True)

    def compared() -> Any:
        record = FileRecord(path=WEIGHTS, bytes=0, mtime_ns=0, sha256=file_sha256(here))
        return compare_weights(origin, train, train.model_copy(update={"files": (record,)}), tmp_path / "here")

    shutil.copyfile(original, here)
    assert compared().same_bits and compared().largest_difference is None
    tensors[name].view(-1)[3] += 0.25
    save_file(tensors, here)
    assert compared().largest_difference == pytest.approx(0.25, abs=1e-6)
    assert compared().at == name and not compared().same_bits
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, here)
    assert compared().remark == f"the tensor {name} is not in both, or not of one shape"
    # Weights that somebody changed are not those that the manifest tells of.
    save_file(tensors, original)
    assert "is not the file whose hash the manifest has" in compared().remark


def test_scores_without_a_value_are_told_from_equal_ones() -> None:
    assert ScorePair(what="a", there=None, here=None).is_same
    assert not ScorePair(what="a", there=0.5, here=None).is_same
    assert ScorePair(what="a", there=0.5, here=0.25).distance == 0.25


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(7200)
def test_the_quickstarts_adapter_comes_out_bit_for_bit(tmp_path: Path) -> None:
    for part in ("docs", "recipes"):
        (tmp_path / part).symlink_to(ROOT / part)

    def hfkit(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "hfkit", *arguments], cwd=tmp_path, capture_output=True, text=True)

    made = hfkit("run", "recipes/quickstart.yaml")
    assert made.returncode in (0, 1), made.stderr
    done = hfkit("reproduce", "runs/quickstart", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["weights"]["same_bits"] and document["same"]
