"""`hfkit publish` against a Hub that behaves: what arrives, in how many commits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfkit.evaluation.result import GateResult
from tests.hub.conftest import BASE, READ_TOKEN, TOKEN, evaluation, rewrite_result

if TYPE_CHECKING:
    from tests.hub.conftest import Published
    from tests.hub.hub_repositories import Repository

SECRET = "ghp_" + "Zk9" * 12
GATE = GateResult(gate="tuned.token_f1 >= 0.9", at_least=0.6, needed=0.9, holds=False)


def published(run: Published, kind: str = "model", id: str = "ada/reader") -> Repository:
    return run.hub.repositories[kind, id]  # type: ignore[index]


def titles(repository: Repository) -> list[str]:
    return [commit.title for commit in repository.commits.values()]


def test_one_commit_holds_all_of_it_and_a_second_time_nothing_is_sent(run_to_publish: Published) -> None:
    done = run_to_publish()
    assert done.returncode == 0, done.stderr
    repository = published(run_to_publish)
    assert repository.private
    assert titles(repository) == ["initial commit", "Publish the model of the run tiny"]
    files = repository.head().files
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "evaluation/report.html",
        "evaluation/report.json",
        "evaluation/report.md",
        "generation_config.json",
        "manifest.json",
        "recipe.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert repository.head().oid in done.stderr
    # Others can load it: the base is named as the Hub knows it, and no path of this machine is told.
    assert json.loads(files["adapter_config.json"].content)["base_model_name_or_path"] == BASE
    assert all(b"tiny-model/" not in blob.content and b"/tmp/" not in blob.content for blob in files.values())
    assert set(json.loads(files["manifest.json"].content)["stages"]) == {"data", "train", "evaluate"}

    run_to_publish.hub.requests.clear()
    again = run_to_publish()
    assert (again.returncode, "publish: nothing changed, kept" in again.stderr) == (0, True)
    (run_to_publish.run_folder / "publish" / "artifact.json").unlink()
    (run_to_publish.run_folder / "published.json").unlink()
    run_to_publish.hub.uploads.clear()
    again = run_to_publish()
    assert (again.returncode, "holds all of it already" in again.stderr) == (0, True)
    assert len(repository.commits) == 2
    assert run_to_publish.hub.uploads == []


def test_the_token_and_signed_links_are_in_nothing_that_is_written(run_to_publish: Published) -> None:
    run_to_publish.rewrite(hub={"dataset": "ada/rows"})
    said = [run_to_publish(), run_to_publish("hub.tag=v1", verb="run"), run_to_publish(HF_TOKEN="hf_" + "q" * 34)]
    assert [done.returncode for done in said] == [0, 0, 2]
    texts = [done.stdout + done.stderr for done in said]
    texts += [path.read_bytes().decode("latin-1") for path in run_to_publish.folder.rglob("*") if path.is_file()]
    for repository in run_to_publish.hub.repositories.values():
        texts += [blob.content.decode("latin-1") for blob in repository.head().files.values()]
    assert (run_to_publish.run_folder / "logs" / "publish.log").is_file()
    assert not any(TOKEN in text or "signed-and-secret" in text or "q" * 34 in text for text in texts)


def test_branch_and_tag(run_to_publish: Published) -> None:
    done = run_to_publish("hub.branch=second", "hub.tag=v1", "hub.dataset=ada/rows")
    assert done.returncode == 0, done.stderr
    for kind, id in (("model", "ada/reader"), ("dataset", "ada/rows")):
        repository = published(run_to_publish, kind, id)
        assert set(repository.head().files) == {".gitattributes"}
        assert "README.md" in repository.head("second").files
        assert repository.tags == {"v1": repository.head("second").oid}
    # A tag does not move: what it names was perhaps fetched by somebody.
    refused = run_to_publish("hub.branch=second", "hub.tag=v1", "hub.language=[de]")
    assert refused.returncode == 2
    assert "hub.tag: v1 is a tag of model ada/reader already" in refused.stderr
    assert len(published(run_to_publish).commits) == 2


def test_dry_run_lists_files_and_shows_the_card_and_asks_nobody(run_to_publish: Published) -> None:
    shown = run_to_publish("--dry-run", HF_TOKEN=None, HF_HUB_OFFLINE="1")
    assert shown.returncode == 0, shown.stderr
    assert "20.9 kB  adapter_model.safetensors" in shown.stdout
    assert "## How to use it" in shown.stdout
    document = json.loads(run_to_publish("--dry-run", "--json", HF_TOKEN=None).stdout)
    assert document["refused"] == []
    (repository,) = document["repositories"]
    weights = run_to_publish.run_folder / "train" / "adapter" / "adapter_model.safetensors"
    assert {"path": weights.name, "bytes": weights.stat().st_size} in repository["files"]
    assert run_to_publish.hub.requests == []
    assert sorted(path.name for path in run_to_publish.run_folder.iterdir()) == ["data", "evaluate", "train"]
    # What is said is what is sent.
    assert run_to_publish().returncode == 0
    files = published(run_to_publish).head().files
    sent = {path: len(blob.content) for path, blob in files.items() if path != ".gitattributes"}
    assert sent == {file["path"]: file["bytes"] for file in repository["files"]}
    assert files["README.md"].content.decode() == repository["card"]


def test_dry_run_of_a_recipe_that_changed_since_says_what_and_shows_no_card(run_to_publish: Published) -> None:
    done = run_to_publish("--dry-run", "train.learning_rate=0.123", "model.adapter.rank=7", HF_TOKEN=None)
    assert (done.returncode, done.stdout) == (1, "")
    changed = "train (model.adapter, train.learning_rate changed); evaluate (the stage train before it changed)"
    assert f"runs/tiny: not what this recipe makes now: {changed}. Publishing would make it again first" in done.stderr
    # What no stage reads, and what is said of the publishing, makes nothing again.
    assert run_to_publish("--dry-run", "hub.language=[de]", "train.log_steps=3", HF_TOKEN=None).returncode == 0
    rows = run_to_publish.folder / "rows.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    done = run_to_publish("--dry-run", "--json", HF_TOKEN=None)
    assert (done.returncode, done.stdout) == (1, "")
    assert "data (sources changed); train (the stage data before it changed); evaluate (" in done.stderr
    assert run_to_publish.hub.requests == []


def test_dry_run_finds_the_token_that_would_publish(run_to_publish: Published) -> None:
    report = run_to_publish.run_folder / "evaluate" / "report.md"
    report.write_text("# Report\n\nlog in with plain-words\n", encoding="utf-8")
    rewrite_result(report.parent)
    assert run_to_publish("--dry-run").returncode == 0
    refused = run_to_publish("--dry-run", HF_TOKEN="plain-words")
    assert refused.returncode == 1
    assert "runs/tiny/evaluate/report.md:3: the token that publishes" in refused.stdout
    assert run_to_publish.hub.requests == []


def test_dry_run_of_an_unfinished_run_says_which_stage_is_missing(run_to_publish: Published) -> None:
    (run_to_publish.run_folder / "train" / "artifact.json").unlink()
    done = run_to_publish("--dry-run")
    assert done.returncode == 1
    assert "the train stage has not finished; run `hfkit run`" in done.stderr


def test_a_gate_that_was_not_met_is_refused_unless_told_otherwise(run_to_publish: Published) -> None:
    rewrite_result(run_to_publish.run_folder / "evaluate", evaluation((GATE,)).model_dump(mode="json"))
    refused = run_to_publish()
    assert refused.returncode == 1
    assert "a gate was not met, so nothing is published: tuned.token_f1 >= 0.9" in refused.stderr
    assert "would be refused: tiny: a gate was not met" in run_to_publish("--dry-run").stdout
    assert ("model", "ada/reader") not in run_to_publish.hub.repositories
    # The gate is still not met, and the exit code says so.
    done = run_to_publish("hub.despite=[gates]")
    assert (done.returncode, "published: " in done.stderr) == (1, True)
    card = published(run_to_publish).head().files["README.md"].content.decode()
    assert "Published although it did not reach what its recipe asked for" in card


def test_what_looks_like_a_secret_is_refused_by_its_place(run_to_publish: Published) -> None:
    report = run_to_publish.run_folder / "evaluate" / "report.md"
    report.write_text(f"# Report\n\nlog in with {SECRET}\n", encoding="utf-8")
    rewrite_result(report.parent)
    refused = run_to_publish()
    assert refused.returncode == 1
    assert "runs/tiny/evaluate/report.md:3: a GitHub token" in refused.stderr
    assert SECRET not in refused.stderr + refused.stdout
    assert SECRET not in (run_to_publish.run_folder / "logs" / "publish.log").read_text(encoding="utf-8")
    assert ("model", "ada/reader") not in run_to_publish.hub.repositories
    assert run_to_publish("hub.despite=[secrets]").returncode == 0


def test_the_commits_of_somebody_else_are_refused_unless_told_otherwise(run_to_publish: Published) -> None:
    assert run_to_publish().returncode == 0
    repository = published(run_to_publish)
    theirs = repository.push({"notes.md": b"mine"})
    refused = run_to_publish("hub.language=[de]")
    assert refused.returncode == 1
    assert f"the newest commit on main is {theirs.oid[:10]}, which this run did not make" in refused.stderr
    assert repository.head() is theirs
    assert run_to_publish("hub.language=[de]", "hub.despite=[unknown_commits]").returncode == 0
    assert repository.head().parent == theirs.oid
    assert repository.head().files["notes.md"].content == b"mine"
    # Now that commit is one of this run.
    assert run_to_publish("hub.language=[fr]").returncode == 0


def test_what_is_not_on_the_hub_any_more_is_published_again(run_to_publish: Published) -> None:
    overrides = ("hub.branch=second", "hub.tag=v1")
    assert run_to_publish(*overrides).returncode == 0
    # Theirs beside ours: all that was published is there still.
    published(run_to_publish).push({"notes.md": b"mine"}, branch="second")
    del published(run_to_publish).tags["v1"]
    beside = run_to_publish(*overrides)
    assert beside.returncode == 0, beside.stderr
    assert "publish: model ada/reader: second moved on from" in beside.stderr
    assert "model ada/reader: holds all of it already" in beside.stderr
    kept = run_to_publish(*overrides)
    assert (kept.returncode, "publish: nothing changed, kept" in kept.stderr) == (0, True)
    del published(run_to_publish).tags["v1"]
    assert run_to_publish(*overrides).returncode == 0
    assert "v1" in published(run_to_publish).tags
    # The branch is gone, then all of it.
    published(run_to_publish).tags.clear()
    del published(run_to_publish).branches["second"]
    assert "the branch second is not there any more" in run_to_publish(*overrides).stderr
    run_to_publish.hub.delete("model", "ada/reader")
    again = run_to_publish(*overrides)
    assert again.returncode == 0, again.stderr
    assert "publish: model ada/reader is not on the Hub any more; the stage is run again" in again.stderr
    assert "README.md" in published(run_to_publish).head("second").files


def test_a_card_that_somebody_edited_is_said_though_the_run_changed_nothing(run_to_publish: Published) -> None:
    assert run_to_publish().returncode == 0
    theirs = published(run_to_publish).push({"README.md": b"better"})
    refused = run_to_publish()
    assert refused.returncode == 1
    assert f"the newest commit on main is {theirs.oid[:10]}, which this run did not make" in refused.stderr
    assert published(run_to_publish).head() is theirs


def test_nothing_is_published_where_one_of_several_repositories_is_refused(run_to_publish: Published) -> None:
    run_to_publish.hub.create("model", "ada/reader", private=True).push({"notes.md": b"mine"})
    for overrides, code, said in (
        (["hub.dataset=ada/rows"], 1, "model ada/reader: the newest commit on main is"),
        (["hub.dataset=ada/rows", "hub.tag=v1", "hub.despite=[unknown_commits]"], 2, "v1 is a tag of model ada/reader"),
    ):
        published(run_to_publish).tags["v1"] = published(run_to_publish).head().oid
        refused = run_to_publish(*overrides)
        assert (refused.returncode, said in refused.stderr) == (code, True), refused.stderr
        assert ("dataset", "ada/rows") not in run_to_publish.hub.repositories


def test_private_is_never_published_to_a_public_repository(run_to_publish: Published) -> None:
    run_to_publish.hub.create("model", "ada/reader", private=False)
    for verb in ("publish", "check"):
        refused = run_to_publish(verb=verb)
        assert refused.returncode == 2
        assert "ada/reader is public, and hub.private is true" in refused.stderr + refused.stdout
    assert run_to_publish("hub.private=false").returncode == 0


@pytest.mark.parametrize(
    ("overrides", "environment", "said"),
    [
        ([], {"HF_TOKEN": None}, "there is no token for the Hub; set HF_TOKEN"),
        ([], {"HF_TOKEN": "hf_" + "n" * 34}, "the Hub does not know the token"),
        ([], {"HF_TOKEN": READ_TOKEN}, "the token may read and not write"),
        ([], {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, so nothing can be published"),
        (["hub.repo=nobody/reader"], {}, "nobody is neither your account nor an organisation of yours"),
        (["hub.dataset=museum/rows"], {}, "your role in museum is read, which may not write"),
        (["hub.base_model=null"], {}, "hub.base_model: an adapter is loaded on top of its base model"),
        (["hub.repo=ada/a--b"], {}, "hub.repo=ada/a--b: ada/a--b: the Hub allows no --"),
        (["hub.repo=reader"], {}, "hub.repo=reader: expected a Hub id of the form owner/name"),
        (["hub.space=ada/app"], {}, "hub.space=ada/app: needs the section rag"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_request_is_said_before_anything_is_sent(
    run_to_publish: Published, overrides: list[str], environment: dict[str, str | None], said: str
) -> None:
    done = run_to_publish(*overrides, **environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(request.startswith(("PUT", "POST")) for request in run_to_publish.hub.requests)


def test_check_says_before_training_whether_the_token_may_write(run_to_publish: Published) -> None:
    # Another error beside it keeps the verb from probing the tokenizer, which has nothing to do with this.
    other = "train.micro_batch_size=3"
    fine = run_to_publish(other, verb="check")
    assert "hub.repo: ada may create the private model ada/reader" in fine.stdout
    wrong = run_to_publish(other, verb="check", HF_TOKEN=READ_TOKEN)
    assert (wrong.returncode, "ERROR hub.repo: the token may read and not write" in wrong.stdout) == (2, True)
    away = run_to_publish(other, verb="check", HF_ENDPOINT="http://127.0.0.1:9")
    assert "note  hub: the Hub could not be asked whether the token may write" in away.stdout


def test_nothing_but_safe_files_is_sent(run_to_publish: Published) -> None:
    adapter = run_to_publish.run_folder / "train" / "adapter"
    for name in ("optimizer.pt", "training_args.bin", "hook.so", "weights.pkl"):
        (adapter / name).write_bytes(b"\x80\x04.")
    rewrite_result(adapter.parent)
    assert run_to_publish().returncode == 0
    assert all(
        Path(path).suffix in (".md", ".json", ".jinja", ".safetensors", ".yaml", ".html")
        for path in published(run_to_publish).head().files
        if path != ".gitattributes"
    )
    (adapter / "adapter_model.safetensors").write_bytes(b"\x80\x04\x95" + b"x" * 100)
    rewrite_result(adapter.parent)
    refused = run_to_publish("hub.language=[de]")
    assert refused.returncode == 1
    assert "adapter_model.safetensors: is called safetensors and is something else" in refused.stderr
