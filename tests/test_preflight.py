"""`hfkit check`: what can be known before anything heavy is imported or a GPU is paid for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfkit import preflight
from hfkit.models.embedded import MODELS, cached_folder
from hfkit.preflight import Finding, check
from hfkit.recipe import load_recipe

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter


def found(recipe: Path, key: str) -> Finding:
    (finding,) = [finding for finding in check(load_recipe(recipe)) if finding.key == key]
    return finding


def test_a_good_recipe_is_ready_and_nothing_is_made(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe()
    done = cli("check", recipe)
    assert done.code == 0 and done.err == ""
    assert "ready to run" in done.out and "ERROR" not in done.out
    assert not (recipe.parent / "runs").exists()
    document = cli("check", recipe, "--json").document
    assert document["ok"] is True and document["recipe"] == "tiny"
    keys = [finding["key"] for finding in document["findings"]]
    assert keys == [
        "model.base",
        "rag.embedder",
        "rag.documents",
        "runs",
        "index",
        "data",
        "train",
        "evaluate",
        "data.rendering",
    ]
    assert {finding["severity"] for finding in document["findings"]} <= {"ok", "note"}


def test_all_that_is_wrong_is_told_at_once_and_the_exit_code_is_2(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe(
        model={"base": "./nowhere", "chat_template": "missing.jinja"},
        rag={"documents": ["nowhere/"], "embedder": "embedded:all-minilm"},
        data={"sources": [{"path": "missing.jsonl"}]},
        train={"batch_size": 4, "micro_batch_size": 3},
        evaluate=None,
    )
    done = cli("check", recipe, "--json")
    assert done.code == 2 and done.document["ok"] is False
    errors = {
        finding["key"]: finding["text"] for finding in done.document["findings"] if finding["severity"] == "error"
    }
    assert set(errors) == {
        "model.base",
        "model.chat_template",
        "rag.embedder",
        "rag.documents",
        "data.sources.0.path",
        "train.micro_batch_size",
    }
    assert "did you mean embedded:all-minilm-l6-v2" in errors["rag.embedder"]
    assert "3" in errors["train.micro_batch_size"]
    said = cli("check", recipe)
    assert said.code == 2 and said.out.count("ERROR") == 6 and "6 errors" in said.out


@pytest.mark.parametrize(
    ("base", "severity", "words"),
    [
        ("./nowhere", "error", "no such folder"),
        ("/nowhere/at/all", "error", "no such folder"),
        ("one/two/three", "error", "owner/name"),
        ("nobody/no-such-model", "error", "HF_HUB_OFFLINE"),
        ("embedded:nothing-like-it", "error", "no such embedded model"),
        ("not a name!", "error", "owner/name"),
    ],
)
def test_models_that_cannot_be_had(tiny_recipe: RecipeWriter, base: str, severity: str, words: str) -> None:
    finding = found(tiny_recipe(model={"base": base}), "model.base")
    assert finding.severity == severity and words in finding.text


def test_a_hub_model_that_is_not_cached_is_noted_where_there_is_a_network(
    tiny_recipe: RecipeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    finding = found(tiny_recipe(model={"base": "nobody/no-such-model"}), "model.base")
    assert finding.severity == "note" and "fetched from the Hub" in finding.text


def test_an_embedded_model_is_there_or_will_be_fetched(
    tiny_recipe: RecipeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = tiny_recipe(model={"base": "embedded:smollm2-135m-instruct"})
    finding = found(recipe, "model.base")
    assert finding.severity == "note" and "89 MiB" in finding.text
    cached_folder(MODELS["smollm2-135m-instruct"]).mkdir(parents=True)
    assert found(recipe, "model.base").severity == "ok"


def test_a_folder_must_hold_a_config_and_safetensors(tiny_recipe: RecipeWriter, tiny_model: Path) -> None:
    folder = Path("copy").absolute()
    shutil.copytree(tiny_model, folder)
    recipe = tiny_recipe(model={"base": str(folder)})
    assert found(recipe, "model.base").severity == "ok"
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    finding = found(recipe, "model.base")
    assert finding.severity == "error" and "safetensors" in finding.text
    (folder / "config.json").unlink()
    finding = found(recipe, "model.base")
    assert finding.severity == "error" and "config.json" in finding.text


def test_an_embedder_that_a_run_takes_passes_the_check(
    tiny_recipe: RecipeWriter, cli: Cli, tiny_embedder: Path
) -> None:
    """A static embedder keeps its weights one folder down; the check may not refuse it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    folder = Path("static").absolute()
    tokenizer = Tokenizer.from_file(str(tiny_embedder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu").save(str(folder))
    recipe = tiny_recipe(rag={"embedder": str(folder)})
    ran = cli("index", recipe)
    assert ran.code == 0, ran.err
    checked = cli("check", recipe)
    assert checked.code == 0, checked.out


def test_a_template_with_a_fault_names_its_line(tiny_recipe: RecipeWriter) -> None:
    template = Path("chat.jinja")
    recipe = tiny_recipe(model={"chat_template": str(template)})
    template.write_text("{{ messages }}\n{% for x in %}\n", encoding="utf-8")
    finding = found(recipe, "model.chat_template")
    assert finding.severity == "error" and finding.text.startswith("chat.jinja:2:")
    template.write_bytes(b"\xff\xfe{{")
    assert found(recipe, "model.chat_template").severity == "error"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8")
    assert found(recipe, "model.chat_template").severity == "ok"


def test_a_source_must_be_a_file_that_can_be_read(tiny_recipe: RecipeWriter) -> None:
    recipe = tiny_recipe(data={"sources": [{"path": "rows.jsonl"}]}, evaluate=None)
    key = "data.sources.0.path"
    assert "no such file" in found(recipe, key).text
    Path("rows.jsonl").mkdir()
    finding = found(recipe, key)
    assert finding.severity == "error" and "holds no files" in finding.text
    Path("rows.jsonl").rmdir()
    Path("rows.jsonl").write_text("{}\n", encoding="utf-8")
    assert found(recipe, key).severity == "ok"


def test_the_format_of_a_source_is_known_before_anything_runs(tiny_recipe: RecipeWriter) -> None:
    recipe = tiny_recipe(data={"sources": [{"path": "rows.jsonl"}]}, evaluate=None)
    rows = Path("rows.jsonl")
    rows.write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    assert "prompt_completion" in found(recipe, "data.sources.0.format").text
    rows.write_text('{"promt": "a", "completon": "b"}\n', encoding="utf-8")
    finding = found(recipe, "data.sources.0.format")
    assert finding.severity == "error" and "promt" in finding.text and "completon" in finding.text


def test_documents_that_are_not_there_are_named_with_what_lies_near(tiny_recipe: RecipeWriter) -> None:
    finding = found(tiny_recipe(rag={"documents": ["dcos/"]}), "rag.documents")
    assert finding.severity == "error" and "dcos" in finding.text and "did you mean docs" in finding.text


def test_little_room_on_the_disk_is_noted_and_no_error(
    tiny_recipe: RecipeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda place: usage._replace(free=2**30))
    finding = found(tiny_recipe(), "runs")
    assert finding.severity == "note" and "1.0 GiB free" in finding.text


@pytest.mark.parametrize(
    ("sections", "stages"),
    [
        ({}, ["index", "data", "train", "evaluate"]),
        ({"evaluate": None}, ["index", "data", "train"]),
        ({"train": None, "evaluate": None}, ["index", "data"]),
        ({"train": None, "evaluate": None, "data": None}, ["index"]),
        ({"train": None, "evaluate": None, "data": None, "model": None}, ["index"]),
        ({"evaluate": None, "data": {"sources": [{"path": "rows.jsonl"}]}}, ["data", "train", "index"]),
        ({"rag": None, "evaluate": None, "data": {"sources": [{"path": "rows.jsonl"}]}}, ["data", "train"]),
    ],
    ids=str,
)
def test_the_stages_are_told_in_the_order_in_which_they_run(
    tiny_recipe: RecipeWriter, sections: dict[str, Any], stages: list[str]
) -> None:
    findings = check(load_recipe(tiny_recipe(**sections)))
    assert [f.key for f in findings if f.key in ("index", "data", "train", "evaluate")] == stages


def test_a_finished_and_a_damaged_stage_are_told_apart(finished: Path) -> None:
    assert "has been run before" in found(finished, "train").text
    weights = finished.parent / "runs/tiny/train/adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    finding = found(finished, "train")
    assert finding.severity == "note" and "adapter_model.safetensors" in finding.text and "run again" in finding.text
    assert "has been run before" in found(finished, "evaluate").text


def test_a_recipe_that_is_not_there_is_a_wrong_request(cli: Cli) -> None:
    done = cli("check", "missing.yaml", "--json")
    assert (done.code, done.out) == (2, "")
    assert "missing.yaml" in done.err


def test_a_sample_of_the_data_is_rendered_before_any_run(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    rows = [{"prompt": f"Ask {n}?", "completion": f"Say {chr(97 + n) * 4}."} for n in range(12)]
    rows[3]["completion"] = "z" * 900
    rows[5]["completion"] = ""
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe = tiny_recipe(rag=None, evaluate=None, data={"sources": [{"path": "rows.jsonl"}], "max_length": 200})
    done = cli("check", recipe, "--json")
    said = {finding["key"]: finding for finding in done.document["findings"]}
    assert done.code == 0
    assert "a turn ends with <|im_end|>" in said["data.rendering"]["text"]
    rows_said = said["data.sources.0.rows"]
    assert rows_said["severity"] == "note" and "10 can be used" in rows_said["text"]
    assert "rows.jsonl:4" in rows_said["text"] and "rows.jsonl:6" in rows_said["text"]
    assert "few show are mostly noise" in said["data.splits.test"]["text"]
    refused = cli("check", recipe, "--json", "data.quality.max_dropped=1")
    assert refused.code == 2


def test_a_template_that_could_never_teach_to_stop_is_found_before_any_run(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    Path("t.jinja").write_text(template + "{% if add_generation_prompt %}assistant: {% endif %}", encoding="utf-8")
    Path("rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    recipe = tiny_recipe(
        rag=None,
        evaluate=None,
        model={"chat_template": "t.jinja"},
        data={"sources": [{"path": "rows.jsonl"}]},
    )
    done = cli("check", recipe)
    assert done.code == 2 and "ERROR data.rendering" in done.out and "stop" in done.out
