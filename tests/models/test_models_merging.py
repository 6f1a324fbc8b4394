"""Merging: the merged model answers as the adapter did, from quantised bases too, and appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hfkit.errors import RequestError
from hfkit.models import merging
from hfkit.models.loading import load_model, load_tokenizer
from hfkit.models.merging import merge_adapter
from hfkit.models.trainable import trainable_model
from hfkit.models.tuned import load_tuned, save_tuned
from hfkit.recipe import ModelSection

IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer, wide enough for the quantised layers of a CPU, and kept in bfloat16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("merging") / "base"))
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=600, tie_word_embeddings=True, **size)).save_pretrained(folder)
    return folder


def section(base: Path, adapter: dict[str, object] | None = None, **settings: Any) -> ModelSection:
    adapter = {"rank": 4, "alpha": 8, **(adapter or {})}
    return ModelSection.model_validate({"base": str(base), "precision": "fp32", "adapter": adapter, **settings})


def train(settings: ModelSection, folder: Path) -> Path:
    model, _ = trainable_model(settings)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
    save_tuned(model, folder)
    return folder


def answer(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(input_ids=IDS).logits
    return logits.float()


@pytest.mark.parametrize(
    ("adapter", "quantization"),
    [
        ({}, None),
        ({}, "nf4"),
        ({}, "int8"),
        ({"method": "dora"}, None),
        ({"method": "dora"}, "nf4"),
        ({"init": "pissa"}, None),
    ],
)
def test_the_merged_model_answers_as_the_adapter_on_the_unquantised_base(
    base: Path, tmp_path: Path, adapter: dict[str, object], quantization: str | None
) -> None:
    settings = section(base, adapter, quantization=quantization)
    folder = train(settings, tmp_path / "trained")
    merged = merge_adapter(settings, folder, tmp_path / "deep" / "merged")
    assert (merged.folder, merged.dtype) == (tmp_path / "deep" / "merged", "float32")
    plain = ModelSection.model_validate({"base": str(merged.folder), "precision": "fp32"})
    model, _ = load_model(plain)
    assert model.num_parameters() == merged.parameters
    unquantised = settings.model_copy(update={"quantization": None})
    there = answer(load_tuned(unquantised, folder)[0])
    torch.testing.assert_close(answer(model), there, atol=2e-6, rtol=1e-5)
    assert (there - answer(load_model(unquantised)[0])).abs().max() > 0.1
    # The drift is that from what was trained.
    apart = (answer(model) - answer(load_tuned(settings, folder)[0])).abs().max()
    drift = merged.drift
    assert drift.positions > 50
    if quantization is None:
        assert apart < 1e-5 and drift.largest_logit_difference < 1e-5
        assert abs(drift.mean_divergence) < 1e-10 and drift.same_top_token == 1.0
    else:
        assert float(apart) > 1e-3 and 1e-3 < drift.largest_logit_difference < 1
        assert 1e-8 < drift.mean_divergence < 0.01 and 0.5 < drift.same_top_token <= 1
    # A model like any other: all safe files, the tokenizer with it, nothing left of the adapter.
    left = {path.name for path in merged.folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= left
    assert not [name for name in left if "adapter" in name or name.endswith((".bin", ".pt", ".md"))]
    assert load_tokenizer(plain)("glass")["input_ids"] == load_tokenizer(settings)("glass")["input_ids"]
    assert [path.name for path in merged.folder.parent.iterdir()] == ["merged"]


def test_the_weights_stay_in_the_format_of_the_base_and_are_rounded_once(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    half = Path(shutil.copytree(base, tmp_path / "half"))
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    settings = section(half)
    folder = train(settings, tmp_path / "trained")
    merged = merge_adapter(settings, folder, tmp_path / "merged")
    assert merged.dtype == "bfloat16"
    held = load_file(merged.folder / "model.safetensors")
    assert {weight.dtype for weight in held.values()} == {torch.bfloat16}
    model: Any = load_tuned(settings, folder)[0].merge_and_unload()
    for name, weight in model.state_dict().items():
        if name in held:
            assert torch.equal(held[name], weight.to(torch.bfloat16)), name
    assert 0 < merged.drift.largest_logit_difference < 0.1


def test_what_training_left_beside_the_adapter_goes_with_it(base: Path, tmp_path: Path) -> None:
    folder = train(section(base), tmp_path / "trained")
    (folder / "adapter" / "generation_config.json").write_text('{"eos_token_id": [2, 77]}', encoding="utf-8")
    merged = merge_adapter(section(base), folder, tmp_path / "merged")
    assert (merged.folder / "generation_config.json").read_text(encoding="utf-8") == '{"eos_token_id": [2, 77]}'


@pytest.mark.parametrize("step", ["_save_tokenizer", "_save_merged", "_measure_drift"])
def test_a_full_disk_leaves_nothing_behind(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = train(section(base), tmp_path / "trained")
    plain = getattr(merging, step)

    def full(*arguments: object) -> None:
        plain(*arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(merging, step, full)
    with pytest.raises(OSError, match="No space left"):
        merge_adapter(section(base), folder, tmp_path / "out" / "merged")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_merged_is_said(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = train(section(base), tmp_path / "trained")
    with pytest.raises(RequestError, match="is there already"):
        merge_adapter(section(base), folder, folder)
    with pytest.raises(RequestError, match="holds no adapter"):
        merge_adapter(section(base), tmp_path, tmp_path / "merged")
    (tmp_path / "full" / "model").mkdir(parents=True)
    with pytest.raises(RequestError, match="there is nothing to merge"):
        merge_adapter(section(base), tmp_path / "full", tmp_path / "merged")
    other = Path(shutil.copytree(base, tmp_path / "other"))
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.get_input_embeddings().weight += 1
    model.save_pretrained(other)
    with pytest.raises(RequestError, match="was trained on another base model"):
        merge_adapter(section(other), folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
