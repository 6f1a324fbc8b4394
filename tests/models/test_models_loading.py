"""Models and tokenizers from folders: whole ones load, and what is missing is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hfkit.errors import RequestError
from hfkit.models.loading import load_model, load_tokenizer, locate
from hfkit.models.precision import resolve_precision
from hfkit.models.tuned import load_tuned, save_tuned, with_new_adapter
from hfkit.recipe import AdapterSection, ModelSection

Damage = Callable[[Path], object]


def section(base: Path | str, **settings: Any) -> ModelSection:
    return ModelSection.model_validate({"base": str(base), "precision": "fp32", **settings})


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_a_folder_loads(tiny_model: Path) -> None:
    model, precision = load_model(section(tiny_model))
    tokenizer = load_tokenizer(section(tiny_model))
    assert (precision.precision, model.dtype) == ("fp32", torch.float32)
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    settings = model.generation_config
    assert (settings.temperature, settings.top_p, settings.top_k) == (None, None, None)


@pytest.mark.parametrize(
    ("settings", "master_weights", "dtype"),
    [
        ({"precision": "fp32"}, False, torch.float32),
        ({"precision": "bf16"}, False, torch.bfloat16),
        ({"precision": "bf16"}, True, torch.float32),
        ({"precision": "fp32"}, True, torch.float32),
    ],
)
def test_the_number_format_of_the_weights(
    tiny_model: Path, settings: dict[str, str], master_weights: bool, dtype: torch.dtype
) -> None:
    model, precision = load_model(section(tiny_model, **settings), master_weights=master_weights)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert precision.precision == settings["precision"]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_weights_are_near(tmp_path: Path, quantization: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    # On a CPU bitsandbytes' 4-bit kernels take layers of 64 inputs and more.
    size = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=100, **size)).save_pretrained(tmp_path)
    plain, _ = load_model(section(tmp_path))
    model, _ = load_model(section(tmp_path, quantization=quantization))
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    assert type(layer).__name__ == {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[quantization]
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        exact, found = plain(input_ids=ids).logits.flatten(), model(input_ids=ids).logits.float().flatten()
    assert torch.nn.functional.cosine_similarity(exact, found, dim=0) > 0.95


def test_a_chat_template_of_the_recipe_takes_the_place_of_the_tokenizers(tiny_model: Path, tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{{ messages[0]['content'] }}ü", encoding="utf-8")
    tokenizer = load_tokenizer(section(tiny_model, chat_template=template))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hiü"


def test_without_a_padding_token_the_stop_token_pads(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", pad_token=None)
    tokenizer = load_tokenizer(section(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def change_json(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def leave_weights(folder: Path, kept: Callable[[str], bool]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = {name: weight for name, weight in load_file(path).items() if kept(name)}
    save_file(weights, path, metadata={"format": "pt"})


def pickle_weights(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


MODEL_DAMAGE: dict[str, Damage] = {
    "no config.json": lambda folder: (folder / "config.json").unlink(),
    "config.json is a list": lambda folder: (folder / "config.json").write_text("[]"),
    "config.json is no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "config.json is empty": lambda folder: (folder / "config.json").write_text("{}"),
    "an unknown kind of model": lambda folder: change_json(folder / "config.json", model_type="perceptron-1958"),
    "a model that writes no text": lambda folder: change_json(
        folder / "config.json", model_type="vit", architectures=["ViTModel"]
    ),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "pickled weights alone": pickle_weights,
    "weights that end too soon": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-1000]
    ),
    "weights that are something else": lambda folder: (folder / "model.safetensors").write_bytes(b"not weights"),
    "weights of another size": lambda folder: change_json(folder / "config.json", intermediate_size=48),
    "a layer's weights are missing": lambda folder: leave_weights(folder, lambda name: ".layers.1.mlp" not in name),
    "no embeddings": lambda folder: leave_weights(folder, lambda name: "embed_tokens" not in name),
}


@pytest.mark.parametrize("damage", MODEL_DAMAGE.values(), ids=list(MODEL_DAMAGE))
def test_a_folder_that_is_no_whole_model_is_refused(folder: Path, damage: Damage) -> None:
    """Above all, no weights are made up for those that are missing."""
    damage(folder)
    with pytest.raises(RequestError) as caught:
        load_model(section(folder))
    assert str(caught.value).startswith(f"{folder}: the model cannot be loaded; ")
    assert len(str(caught.value).splitlines()) == 1


def test_pickled_weights_are_never_opened(folder: Path) -> None:
    """A file that would run code if it were unpickled."""
    import os
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(folder / "sprung"),)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(RequestError, match="safetensors"):
        load_model(section(folder))
    assert not (folder / "sprung").exists()


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("*tokenizer*"):
        path.unlink()


TOKENIZER_DAMAGE: dict[str, tuple[Damage, str]] = {
    "no tokenizer": (remove_tokenizer, "the model cannot be loaded"),
    "a broken tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "the model cannot be loaded"),
    "tokenizer.json is no JSON": (
        lambda folder: (folder / "tokenizer.json").write_text("not"),
        "the model cannot be loaded",
    ),
    "no chat template": (
        lambda folder: (folder / "chat_template.jinja").unlink(),
        "has no chat template; name one in model.chat_template",
    ),
}


@pytest.mark.parametrize(("damage", "said"), TOKENIZER_DAMAGE.values(), ids=list(TOKENIZER_DAMAGE))
def test_a_folder_without_a_whole_tokenizer_is_refused(folder: Path, damage: Damage, said: str) -> None:
    damage(folder)
    with pytest.raises(RequestError) as caught:
        load_tokenizer(section(folder))
    assert str(caught.value).startswith(f"{folder}") and said in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no UTF-8"])
def test_a_template_file_that_cannot_be_read_is_refused(
    tiny_model: Path, tmp_path: Path, content: bytes | None
) -> None:
    template = tmp_path / "own.jinja"
    if content is not None:
        template.write_bytes(content)
    with pytest.raises(RequestError, match=r"own\.jinja"):
        load_tokenizer(section(tiny_model, chat_template=template))


@pytest.mark.parametrize("reference", ["./nowhere", "/nowhere/at/all", "~/nowhere", "models/of/mine"])
def test_a_path_that_is_not_there_is_refused(reference: str, workplace: Path) -> None:
    with pytest.raises(RequestError, match="no such folder, and a Hub id has the form owner/name"):
        locate(reference)


def test_what_a_reference_means(tiny_model: Path, workplace: Path) -> None:
    found = locate(str(tiny_model), "main")
    assert (found.path_or_id, found.revision, found.is_local) == (str(tiny_model), None, True)
    found = locate("owner/name", "v1")
    assert (found.path_or_id, found.revision, found.is_local) == ("owner/name", "v1", False)
    (workplace / "owner" / "name").mkdir(parents=True)
    assert locate("owner/name", "v1").is_local, "a folder comes before the Hub"


def test_an_embedded_model_that_there_is_not_is_named() -> None:
    with pytest.raises(
        RequestError, match=r"embedded:smollm2-135m: no such .*did you mean embedded:smollm2-135m-instruct\?"
    ):
        locate("embedded:smollm2-135m")


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_hub_model_that_cannot_be_had_is_explained(load: Callable[[ModelSection], object]) -> None:
    with pytest.raises(RequestError, match=r"nobody/nothing: the model cannot be loaded; it is not in the local cache"):
        load(section("nobody/nothing"))


# What was trained, and comes back.


@pytest.mark.parametrize("adapter", [AdapterSection(rank=4, alpha=8), None], ids=["adapter", "all weights"])
def test_what_was_saved_speaks_as_what_was_trained(
    tiny_model: Path, tmp_path: Path, adapter: AdapterSection | None
) -> None:
    model, _ = load_model(section(tiny_model))
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        base = model(input_ids=ids).logits
    if adapter is not None:
        model = with_new_adapter(model, adapter)
        assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn_like(weight)
    model.eval()
    with torch.inference_mode():
        trained = model(input_ids=ids).logits
    assert save_tuned(model, tmp_path) == tmp_path / ("model" if adapter is None else "adapter")
    loaded, precision = load_tuned(section(tiny_model), tmp_path)
    assert (precision.precision, loaded.training) == ("fp32", False)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(input_ids=ids).logits, trained, atol=1e-6, rtol=1e-6)
    assert (trained - base).abs().max() > 0.1
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_an_adapter_takes_the_number_format_of_its_base(tiny_model: Path, tmp_path: Path) -> None:
    model, _ = load_model(section(tiny_model))
    save_tuned(with_new_adapter(model, AdapterSection()), tmp_path)
    tuned, _ = load_tuned(section(tiny_model, precision="bf16"), tmp_path)
    assert {weight.dtype for weight in tuned.parameters()} == {torch.bfloat16}


# The number format.


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend to be a machine with these CPU capabilities, and a GPU (with bfloat16 or without) or none."""

    def pretend(gpu: bool | None = None, **cpu: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Imagined GPU")
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: bool(gpu) or including_emulation
        )
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, **cpu})

    return pretend


@pytest.mark.parametrize(
    ("machine", "wanted", "precision", "reason"),
    [
        ({}, "auto", "fp32", "this CPU has neither AVX512-BF16 nor AMX"),
        ({"amx_bf16": False, "avx512_bf16": False}, "auto", "fp32", "this CPU has neither AVX512-BF16 nor AMX"),
        ({"avx512_bf16": True}, "auto", "bf16", "this CPU has AVX512-BF16"),
        ({"amx_bf16": True}, "auto", "bf16", "this CPU has AMX"),
        ({"amx_bf16": True, "avx512_bf16": True}, "auto", "bf16", "this CPU has AMX and AVX512-BF16"),
        ({}, "bf16", "bf16", "the recipe asks for it"),
        ({"avx512_bf16": True}, "fp32", "fp32", "the recipe asks for it"),
        ({"gpu": True}, "auto", "bf16", "Imagined GPU computes it natively"),
        ({"gpu": True}, "bf16", "bf16", "Imagined GPU computes it natively"),
        ({"gpu": True}, "fp32", "fp32", "the recipe asks for it"),
        ({"gpu": False, "avx512_bf16": True}, "auto", "fp32", "Imagined GPU has no bfloat16"),
        ({"gpu": False}, "fp32", "fp32", "the recipe asks for it"),
        ({"gpu": False}, "fp16", "fp16", "the recipe asks for it"),
        ({}, "fp16", "fp16", "the recipe asks for it"),
    ],
)
def test_the_number_format_follows_the_hardware(
    hardware: Callable[..., None], machine: dict[str, bool], wanted: Any, precision: str, reason: str
) -> None:
    hardware(**machine)
    resolved = resolve_precision(wanted)
    assert (resolved.precision, resolved.reason) == (precision, reason)
    assert resolved.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def test_a_gpu_without_bfloat16_is_not_asked_for_it(hardware: Callable[..., None]) -> None:
    hardware(gpu=False)
    with pytest.raises(RequestError, match=r"model\.precision: Imagined GPU has no bfloat16; use fp16 or fp32"):
        resolve_precision("bf16")
