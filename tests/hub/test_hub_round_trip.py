"""What was pushed is loaded again by the libraries that users have, and says the same tokens."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hub.conftest import Published

# Runs in a process of its own that knows nothing but the Hub and, to compare, the folders on this machine.
_LOAD = """
import json, torch
from datasets import load_dataset
from huggingface_hub import snapshot_download
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

prompt = "Rope 3 is"

def tokens(model, tokenizer):
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    return model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0].tolist()

here = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), ADAPTER)
here_tokenizer = AutoTokenizer.from_pretrained(ADAPTER)
tokenizer = AutoTokenizer.from_pretrained("ada/reader", revision="adapter")
adapter = AutoPeftModelForCausalLM.from_pretrained("ada/reader", revision="adapter")
merged = pipeline("text-generation", model="ada/reader", revision="merged")
rows = load_dataset("ada/rows", split="train", revision="adapter")
sequences = load_dataset("ada/rows", "sequences", split="test", revision="adapter")
snapshot = snapshot_download("ada/reader", revision="adapter")
print(json.dumps({
    "here": tokens(here, here_tokenizer),
    "base": tokens(AutoModelForCausalLM.from_pretrained(BASE), here_tokenizer),
    "adapter": tokens(adapter, tokenizer),
    "snapshot": tokens(AutoPeftModelForCausalLM.from_pretrained(snapshot), AutoTokenizer.from_pretrained(snapshot)),
    "merged": tokens(merged.model, merged.tokenizer),
    "stops": [GenerationConfig.from_pretrained(name, revision=at).eos_token_id
              for name, at in ((ADAPTER, None), ("ada/reader", "adapter"), ("ada/reader", "merged"))],
    "templates": [here_tokenizer.chat_template, tokenizer.chat_template, merged.tokenizer.chat_template],
    "rows": len(rows),
    "example": json.loads(rows[0]["example"])["messages"][-1]["content"],
    "sequences": sequences.column_names,
}))
for snippet in SNIPPETS:
    exec(snippet)
"""


def snippet_of(card: bytes) -> str:
    found = re.search(r"```python\n(.*?)```", card.decode(), re.DOTALL)
    assert found is not None
    return found[1]


def test_what_was_pushed_loads_again_and_says_the_same_tokens(run_to_publish: Published, tiny_model: Path) -> None:
    for weights, more in (("adapter", ["hub.dataset=ada/rows"]), ("merged", [])):
        done = run_to_publish(f"hub.weights={weights}", f"hub.branch={weights}", "hub.repo=ada/reader", *more)
        assert done.returncode == 0, done.stderr
    repository = run_to_publish.hub.repositories["model", "ada/reader"]
    assert "model.safetensors" in repository.head("merged").files
    assert not any(path.startswith("adapter_") for path in repository.head("merged").files)
    snippets = []
    for weights in ("adapter", "merged"):
        snippet = snippet_of(repository.head(weights).files["README.md"].content)
        assert f'"ada/reader", revision="{weights}"' in snippet
        snippets.append(snippet)
    names = {"BASE": str(tiny_model), "ADAPTER": str(run_to_publish.run_folder / "train" / "adapter")}
    code = "".join(f"{name} = {value!r}\n" for name, value in {**names, "SNIPPETS": snippets}.items()) + _LOAD
    lines = run_to_publish.python(code).splitlines()
    found = json.loads(next(line for line in lines if line.startswith("{")))
    assert found["adapter"] == found["snapshot"] == found["merged"] == found["here"] != found["base"]
    assert len(set(found["stops"])) == 1
    assert len(set(found["templates"])) == 1
    assert found["rows"] == 30
    assert "ells" in found["example"]
    assert {"input_ids", "spans"} <= set(found["sequences"])


def test_publishing_merged_weights_where_the_adapter_was_takes_its_files_away(run_to_publish: Published) -> None:
    assert run_to_publish().returncode == 0
    assert run_to_publish("hub.weights=merged").returncode == 0
    repository = run_to_publish.hub.repositories["model", "ada/reader"]
    assert len(repository.commits) == 3
    assert not any(path.startswith("adapter_") for path in repository.head().files)
    card = repository.head().files["README.md"].content.decode()
    assert "base_model_relation: finetune" in card
    assert "the merged model writes the same next token at" in card


_MOVED = """
import json
from pathlib import Path
from huggingface_hub import HfApi, snapshot_download
from hfkit.hub.base_revision import moved_since, trained_revision
from hfkit.hub.facts import gather_facts
from hfkit.models.base_identity import folder_fingerprint
from hfkit.recipe import load_recipe

trained_on = Path(snapshot_download("ada/tiny-model"))
folders = {name: Path("runs/tiny") / name for name in ("data", "train", "evaluate")}
(folders["train"] / "adapter" / "base.json").write_text(json.dumps({"weights": folder_fingerprint(trained_on)}))
facts = gather_facts(load_recipe(Path("tiny.yaml"), ["model.base=ada/tiny-model"]), folders)
assert trained_revision(facts) == trained_on.name
assert moved_since(facts, trained_revision(facts)) is None
weights = Path(BASE) / "model.safetensors"
changed = bytearray(weights.read_bytes())
changed[-1] ^= 1
HfApi().upload_file(path_or_fileobj=bytes(changed), path_in_repo="model.safetensors", repo_id="ada/tiny-model")
snapshot_download("ada/tiny-model")
assert trained_revision(facts) == trained_on.name
print(moved_since(facts, trained_revision(facts)))
# A branch is no pin: what training wrote down is, whether or not the cache still has it.
written = {"weights": "0" * 64, "hub": "ada/tiny-model", "revision": "f" * 40}
(folders["train"] / "adapter" / "base.json").write_text(json.dumps(written))
facts = gather_facts(load_recipe(Path("tiny.yaml"), ["model.base=ada/tiny-model", "model.revision=main"]), folders)
assert trained_revision(facts) == "f" * 40
assert "moved on to" in moved_since(facts, trained_revision(facts))
pinned = ["model.base=ada/tiny-model", "model.revision=" + "f" * 40]
facts = gather_facts(load_recipe(Path("tiny.yaml"), pinned), folders)
assert moved_since(facts, trained_revision(facts)) is None
"""


def test_an_adapter_names_the_revision_of_its_base_that_it_was_trained_on(
    run_to_publish: Published, tiny_model: Path
) -> None:
    said = run_to_publish.python(f"BASE = {str(tiny_model)!r}\n{_MOVED}")
    newest = run_to_publish.hub.repositories["model", "ada/tiny-model"].head().oid
    assert f"ada/tiny-model moved on to {newest[:10]} since the adapter was trained" in said
