"""`hfkit export` of a finished run, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfkit.export.result import EXPORT, ExportResult

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter

PROMPT = "Question: What does a pendulum clock count?"


def greedy(model: Any, tokenizer: Any) -> list[int]:
    prompt = tokenizer(PROMPT, return_tensors="pt")
    out = model.generate(
        input_ids=prompt["input_ids"], attention_mask=prompt["attention_mask"], do_sample=False, max_new_tokens=16
    )
    return [int(token) for token in out[0]]


def test_a_finished_run_leaves_as_safetensors_and_as_gguf(finished: Path, cli: Cli, workplace: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hfkit.models.tuned import load_tuned
    from hfkit.recipe import load_recipe

    recipe = load_recipe(finished, [])
    assert recipe.model is not None
    tuned = load_tuned(recipe.model, workplace / "runs" / "tiny" / "train")[0]
    done = cli("export", finished)
    assert done.code == 0, done.err
    folder = workplace / "runs" / "tiny" / "export" / "safetensors"
    assert done.out.startswith("runs/tiny/export/safetensors/: tiny as safetensors, float32\n")
    assert "merged into the base: over " in done.out and "the same next token at 100.0%" in done.out
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = greedy(tuned, tokenizer)
    assert greedy(AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True), tokenizer) == wanted
    train = json.loads((workplace / "runs" / "tiny" / "train" / "artifact.json").read_text(encoding="utf-8"))
    kept = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert (kept["source"], kept["source_fingerprint"]) == ("tiny", train["fingerprint"])

    done = cli("export", finished, "--format", "gguf", "--type", "q8_0", "--to", workplace / "out", "--json")
    assert done.code == 0, done.err
    document = done.document
    assert (document["folder"], document["format"], document["type"]) == (str(workplace / "out"), "gguf", "q8_0")
    assert document["gguf"]["same_tokens"] is True and document["gguf"]["largest_weight_error"] < 0.02
    assert [file["path"] for file in document["files"]] == ["Modelfile", "tiny-q8_0.gguf"]
    model = AutoModelForCausalLM.from_pretrained(workplace / "out", gguf_file="tiny-q8_0.gguf")
    assert len(greedy(model, AutoTokenizer.from_pretrained(workplace / "out", gguf_file="tiny-q8_0.gguf"))) > 10
    assert 'PARAMETER stop "<|im_end|>"' in (workplace / "out" / "Modelfile").read_text(encoding="utf-8")


def test_an_adapter_for_another_base_is_not_merged(finished: Path, cli: Cli, workplace: Path, tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    other = Path(shutil.copytree(tiny_model, workplace / "other"))
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1
    model.save_pretrained(other)
    done = cli("export", finished, "model.base=other", "--format", "gguf")
    assert done.code == 2 and "trained on another base model" in done.err and "Traceback" not in done.err
    assert not [path for path in (workplace / "runs" / "tiny" / "export").rglob("*")]


def test_wrong_requests_are_told_at_once(tiny_recipe: RecipeWriter, cli: Cli, workplace: Path) -> None:
    done = cli("export", tiny_recipe(), "--type", "q8_0")
    assert done.code == 2 and "add --format gguf" in done.err
    done = cli("export", tiny_recipe("no-train.yaml", train=None, evaluate=None))
    assert done.code == 2 and "no section train" in done.err
    done = cli("export", tiny_recipe("no-rag.yaml", rag=None), "--format", "onnx")
    assert done.code == 2 and ("no section rag" in done.err or "rag" in done.err)
    done = cli("export", tiny_recipe())
    assert done.code == 1 and "the train stage has not finished; run `hfkit run`" in done.err
    (workplace / "mine").mkdir()
    (workplace / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")
    done = cli("export", tiny_recipe(), "--to", "mine")
    assert (
        done.code == 2
        and "mine is there already, and holds what is no part of an export of hfkit's (thesis.txt)" in done.err
    )
    assert (workplace / "mine" / "thesis.txt").is_file()
    earlier = ExportResult(format="gguf", source="tiny", source_fingerprint="f", type="f16")
    (workplace / "theirs").mkdir()
    (workplace / "theirs" / EXPORT).write_text(earlier.model_dump_json(), encoding="utf-8")
    done = cli("export", tiny_recipe(), "--format", "gguf", "--type", "q4_0", "--to", "theirs")
    assert done.code == 2 and "theirs: holds an export as gguf, f16; name another folder with --to" in done.err


def test_the_embedder_is_exported_without_a_run(tiny_recipe: RecipeWriter, cli: Cli, workplace: Path) -> None:
    pytest.importorskip("onnxscript")
    done = cli("export", tiny_recipe(), "--format", "onnx", "--json")
    assert done.code == 0, done.err
    assert done.document["onnx"]["smallest_cosine"] >= 0.9999
    assert (workplace / "runs" / "tiny" / "export" / "onnx" / "model.onnx").is_file()
