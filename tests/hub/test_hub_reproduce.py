"""A published run is made again from what the Hub has of it, with the base model's commit of then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from hfkit.artifact import file_sha256
from tests.hub.conftest import BASE

if TYPE_CHECKING:
    from tests.hub.conftest import Published

ADAPTER = "train/adapter/adapter_model.safetensors"


def test_a_published_run_comes_out_bit_for_bit_though_its_base_moved_on(
    run_to_publish: Published, tiny_model: Path
) -> None:
    run = run_to_publish
    run.rewrite(model={"base": BASE}, evaluate=None, train={"learning_rate": 0.02}, track=[])
    done = run()
    assert done.returncode == 0, done.stderr
    published = run.hub.repositories["model", "ada/reader"]
    files = published.head().files
    assert "`hfkit reproduce ada/reader` fetches recipe and manifest" in files["README.md"].content.decode()
    recorded = json.loads(files["manifest.json"].content)["stages"]["train"]["models"]["base"]
    base = run.hub.repositories["model", BASE]
    trained_on = base.head().oid
    assert recorded["revision"] == trained_on
    digest = file_sha256(run.run_folder / ADAPTER)
    # From here on the Hub alone knows of the run, and the base model is another one.
    run.run_folder.rename(run.folder / "elsewhere")
    weights = bytearray((tiny_model / "model.safetensors").read_bytes())
    weights[-100:] = bytes(100)
    moved = base.push({"model.safetensors": bytes(weights)})

    run.hub.requests.clear()
    again = run.hfkit("reproduce", "ada/reader", "--json")
    assert again.returncode == 0, again.stderr
    document = json.loads(again.stdout)
    assert document["weights"]["files"] == {ADAPTER.partition("/")[2]: [digest, digest]}
    assert document["revision"] == published.head().oid
    assert document["remarks"] == [
        f"{BASE} moved on to {moved.oid[:10]} since; the run is made again with {trained_on[:10]}, which it was made "
        "with"
    ]
    assert file_sha256(run.folder / "runs" / "tiny-again" / ADAPTER) == digest
    # Hashes are enough to say that it is the same; and nothing is published.
    assert not any("ada/reader/resolve" in asked and "safetensors" in asked for asked in run.hub.requests)
    assert not any(asked.startswith(("PUT", "POST /api/repos")) for asked in run.hub.requests)
    assert not (run.folder / "runs" / "tiny-again" / "publish").exists()

    # With the base as it is now it cannot come out the same, and the weights are fetched to say by how much.
    other = run.hfkit("reproduce", "ada/reader", "--json", "--to", "other", f'model.revision="{moved.oid}"')
    assert (other.returncode, other.stdout != "") == (1, True), other.stderr
    document = json.loads(other.stdout)
    assert document["weights"]["largest_difference"] > 0
    whats = [difference["what"] for difference in document["differences"]]
    assert "the base model (model.safetensors)" in whats
    assert "ada/reader did not come out the same (what differed: " in other.stderr


_GONE = """
import torch
from pathlib import Path
from hfkit.errors import RequestError
from hfkit.models.loading import load_weights
from hfkit.models.tuned import attach_adapter, save_tuned, with_new_adapter
from hfkit.recipe import ModelSection
from hfkit.reproducing.pinning import Pin, require_commits

try:
    require_commits([Pin("model", "base", "ada/tiny-model", "a" * 40)])
except RequestError as error:
    print(error)
was, now = (
    ModelSection.model_validate({"base": "ada/tiny-model", "revision": commit, "adapter": {"rank": 2}})
    for commit in (WAS, None)
)
save_tuned(with_new_adapter(load_weights(was, torch.float32), was.adapter), Path("trained"))
attach_adapter(load_weights(was, torch.float32), Path("trained"))
try:
    attach_adapter(load_weights(now, torch.float32), Path("trained"))
except RequestError as error:
    print(error)
"""


def test_a_commit_that_is_gone_and_an_adapter_whose_base_moved_say_what_to_do(run_to_publish: Published) -> None:
    base = run_to_publish.hub.repositories["model", BASE]
    was = base.head().oid
    weights = base.head().files["model.safetensors"].content
    now = base.push({"model.safetensors": weights[:-4] + b"\0\0\0\1"}).oid
    said = run_to_publish.python(f"WAS, NOW = {was!r}, {now!r}\n{_GONE}")
    assert f"model.revision: {BASE} has the commit aaaaaaaaaa no more" in said
    assert f"was trained on the commit {was} of {BASE}, which moved on to {now}" in said
    assert f"set model.revision={was}, or train anew" in said


def test_code_of_a_downloaded_run_is_refused(run_to_publish: Published) -> None:
    trace = run_to_publish.folder / "ran"
    recipe = yaml.safe_load(run_to_publish.recipe.read_text()) | {
        "allow_code": True,
        "data": {"sources": [{"callable": "rows_of:rows"}]},
    }
    (run_to_publish.folder / "rows_of.py").write_text(f"open({str(trace)!r}, 'w')\ndef rows():\n    return []\n")
    stages = {
        name: json.loads((run_to_publish.run_folder / name / "artifact.json").read_text()) for name in ("data", "train")
    }
    theirs = run_to_publish.hub.create("model", "eve/reader")
    theirs.push(
        {
            "recipe.yaml": yaml.safe_dump(recipe).encode(),
            "manifest.json": json.dumps({"recipe": "tiny", "stages": stages}).encode(),
            "rows_of.py": b"raise SystemExit('never')\n",
        }
    )
    refused = run_to_publish.hfkit("reproduce", "eve/reader")
    assert refused.returncode == 2
    assert "eve/reader: nothing was run, since its recipe wants more than to compute" in refused.stderr
    assert "data.sources.0.callable: runs rows_of:rows" in refused.stderr
    assert not trace.exists()
    # Python files are not even fetched.
    assert not any(asked.endswith(".py") for asked in run_to_publish.hub.requests)


def test_what_the_hub_does_not_have_is_said(run_to_publish: Published) -> None:
    run_to_publish.hub.create("model", "ada/empty")
    for arguments, environment, said in (
        (["ada/nothing"], {}, "ada/nothing: there is no such run folder here and no such model on the Hub"),
        (["ada/empty"], {}, "ada/empty: there is no recipe.yaml"),
        (["ada/empty", "--revision", "v9"], {}, "ada/empty: there is no such branch, tag or commit; see --revision"),
        (["ada/a..b"], {}, "ada/a..b: neither a run's folder nor a Hub id"),
    ):
        done = run_to_publish.hfkit("reproduce", *arguments, **environment)
        assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
