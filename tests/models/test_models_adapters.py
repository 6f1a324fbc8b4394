"""Adapters of each kind: what they start as, that they come back as they were, go on, and stand beside each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hfkit.errors import RequestError
from hfkit.models.adapters import attach_adapter, find_adapter, use_adapter
from hfkit.models.loading import load_model
from hfkit.models.trainable import trainable_model
from hfkit.models.tuned import load_tuned, save_tuned
from hfkit.recipe import ModelSection

IDS = torch.arange(3, 60)[None]

KINDS: dict[str, dict[str, object]] = {
    "lora": {},
    "dora": {"method": "dora"},
    "rslora": {"rslora": True},
    "pissa": {"init": "pissa"},
    "pissa and rslora": {"init": "pissa", "rslora": True},
}


def section(base: Path, adapter: dict[str, object] | None = None, **settings: Any) -> ModelSection:
    full = None if adapter is None else {"rank": 4, "alpha": 8, **adapter}
    return ModelSection.model_validate({"base": str(base), "precision": "fp32", "adapter": full, **settings})


def move(model: Any, seed: int = 3, by: float = 0.05) -> Any:
    """As if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += by * torch.randn(weight.shape, generator=generator)
    return model.eval()


def answer(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=IDS).logits
    return logits.clone()


def trained(settings: ModelSection, folder: Path, seed: int = 3) -> torch.Tensor:
    """Train, save below `folder`, and give what the trained model answers."""
    model = move(trainable_model(settings)[0], seed)
    save_tuned(model, folder)
    return answer(model)


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for the quantised layers of a CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=100, **size)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_adds_nothing_and_a_trained_one_comes_back(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    """On the untouched base, by PEFT alone too, and beside files that are all safe."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = section(tiny_model, KINDS[kind])
    base = answer(load_model(settings)[0])
    torch.testing.assert_close(answer(trainable_model(settings)[0].eval()), base, atol=2e-6, rtol=1e-5)
    there = trained(settings, tmp_path)
    assert (there - base).abs().max() > 0.1
    tolerance = 1e-5 if "pissa" in kind else 1e-6
    torch.testing.assert_close(answer(load_tuned(settings, tmp_path)[0]), there, atol=tolerance, rtol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.testing.assert_close(
        answer(PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()), there, atol=tolerance, rtol=1e-5
    )
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".md"}


def test_the_scale_is_over_the_rank_or_over_its_root(tiny_model: Path) -> None:
    scales = []
    for rank, rslora in [(4, False), (16, False), (4, True), (16, True)]:
        model: Any = trainable_model(section(tiny_model, {"rank": rank, "alpha": 8, "rslora": rslora}))[0]
        scales.append(model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj").scaling["default"])
    assert scales == [2.0, 0.5, 4.0, 2.0]


def test_pissa_takes_the_largest_singular_vectors_over_from_the_base(tiny_model: Path) -> None:
    name = "model.layers.0.self_attn.q_proj"
    whole = load_model(section(tiny_model))[0].get_submodule(name).weight
    model: Any = trainable_model(section(tiny_model, {"init": "pissa"}))[0]
    left = model.get_base_model().get_submodule(name).base_layer.weight
    values = torch.linalg.svdvals(whole.detach())
    torch.testing.assert_close(torch.linalg.svdvals(left.detach())[:5], values[4:9], atol=1e-5, rtol=1e-4)


def test_saving_pissa_leaves_the_model_and_the_random_numbers_as_they_are(tiny_model: Path, tmp_path: Path) -> None:
    """Weights are saved in the middle of a run, which goes on as if they had not been."""
    model = move(trainable_model(section(tiny_model, {"init": "pissa"}))[0]).train()
    before, state = {n: w.clone() for n, w in model.named_parameters()}, torch.get_rng_state()
    trained_names = [n for n, w in model.named_parameters() if w.requires_grad]
    save_tuned(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert [n for n, w in model.named_parameters() if w.requires_grad] == trained_names
    assert all(torch.equal(before[n], w) for n, w in model.named_parameters())


# Quantised.


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_an_adapter_on_quantised_weights_comes_back(
    wide_model: Path, tmp_path: Path, quantization: str, kind: str
) -> None:
    settings = section(wide_model, KINDS[kind], quantization=quantization)
    there = trained(settings, tmp_path)
    assert torch.equal(answer(load_tuned(settings, tmp_path)[0]), there)


def test_nf4_is_quantised_twice_and_stays_frozen(wide_model: Path) -> None:
    model: Any = trainable_model(section(wide_model, {}, quantization="nf4"))[0]
    layer = model.get_base_model().get_submodule("model.layers.0.mlp.down_proj").base_layer
    state = layer.weight.quant_state
    assert (state.quant_type, state.nested) == ("nf4", True)
    names = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert names and all("lora_" in name for name in names)


# Which layers.

ODD: dict[str, tuple[dict[str, object], set[str]]] = {
    # Conv1D in place of Linear; tied embeddings.
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 2}, {"c_attn", "c_proj", "c_fc"}),
    # Experts, which are one tensor each way (the second is PEFT's base_layer), and their router.
    "mixtral": (
        {"num_local_experts": 4, "num_key_value_heads": 2},
        {"q_proj", "k_proj", "v_proj", "o_proj", "gate", "experts", "base_layer"},
    ),
    "llama": (
        {"tie_word_embeddings": True},
        {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    ),
}


@pytest.mark.parametrize("family", ODD)
@pytest.mark.parametrize("kind", ["lora", "pissa"])
def test_all_linear_on_models_with_odd_layers(tmp_path: Path, family: str, kind: str) -> None:
    """All linear layers but the output layer; what was trained comes back."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings, layers = ODD[family]
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    size = {} if family == "gpt2" else size
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=100, **size, **settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    wanted = section(tmp_path / "base", KINDS[kind])
    if family == "mixtral" and kind == "pissa":
        with pytest.raises(RequestError, match=r"model\.adapter\.init: pissa .* experts in one tensor"):
            trainable_model(wanted)
        return
    model = trainable_model(wanted)[0]
    adapted = {name.split(".lora_")[0].split(".")[-1] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == layers
    save_tuned(move(model), tmp_path)
    torch.testing.assert_close(answer(load_tuned(wanted, tmp_path)[0]), answer(model), atol=1e-5, rtol=1e-5)
    if kind == "lora":
        again, _ = trainable_model(section(tmp_path / "base", {"start_from": tmp_path}))
        torch.testing.assert_close(answer(again.eval()), answer(model), atol=1e-5, rtol=1e-5)


# Several on one base.


def test_switching_gives_exactly_what_each_adapter_gives_alone(tiny_model: Path, tmp_path: Path) -> None:
    """Of one kind and of others, with a full stop in a name, in any order, and back to the base."""
    kinds = {"one": "lora", "checkpoint-50": "lora", "v1.2": "dora", "pissa": "pissa"}
    alone: dict[str | None, torch.Tensor] = {None: answer(load_model(section(tiny_model))[0])}
    for seed, (name, kind) in enumerate(kinds.items()):
        settings = section(tiny_model, KINDS[kind])
        trained(settings, tmp_path / name, seed)
        alone[name] = answer(load_tuned(settings, tmp_path / name)[0])
    model = load_model(section(tiny_model))[0]
    for name in kinds:
        model = attach_adapter(model, tmp_path / name, name)
        assert torch.equal(answer(model), alone[name]), "the newest is in use"
    for wanted in ["v1.2", None, "one", "pissa", "checkpoint-50", None, None, "one", "one", "v1.2"]:
        use_adapter(model, wanted)
        assert torch.equal(answer(model), alone[wanted]), wanted
        assert not model.training and not [w for w in model.parameters() if w.requires_grad]
    assert len({tuple(logits.flatten().tolist()) for logits in alone.values()}) == 5


def test_names_that_are_not_there_or_are_there_already(tiny_model: Path, tmp_path: Path) -> None:
    trained(section(tiny_model, {}), tmp_path)
    model = load_model(section(tiny_model))[0]
    use_adapter(model, None)
    with pytest.raises(KeyError):
        use_adapter(model, "one")
    model = attach_adapter(model, tmp_path, "one")
    with pytest.raises(KeyError):
        use_adapter(model, "two")
    with pytest.raises(RequestError, match="there is an adapter with the name one already"):
        attach_adapter(model, tmp_path, "one")


# Going on from a saved one.


@pytest.mark.parametrize("kind", ["lora", "dora", "rslora"])
@pytest.mark.parametrize("inner", ["", "adapter"])
def test_training_goes_on_from_a_saved_adapter(tiny_model: Path, tmp_path: Path, kind: str, inner: str) -> None:
    there = trained(section(tiny_model, KINDS[kind]), tmp_path)
    again, _ = trainable_model(section(tiny_model, {**KINDS[kind], "start_from": tmp_path / inner}))
    torch.testing.assert_close(answer(again.eval()), there, atol=1e-6, rtol=1e-6)
    fresh, _ = trainable_model(section(tiny_model, KINDS[kind]))
    wanted = [(name, weight.dtype) for name, weight in fresh.named_parameters() if weight.requires_grad]
    assert [(name, weight.dtype) for name, weight in again.named_parameters() if weight.requires_grad] == wanted


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["q_proj", "embed_tokens"]])
def test_an_adapter_on_a_table_leaves_the_table_with_the_base(
    tiny_model: Path, tmp_path: Path, targets: list[str]
) -> None:
    settings = section(tiny_model, {"targets": targets})
    there = trained(settings, tmp_path)
    torch.testing.assert_close(answer(load_tuned(settings, tmp_path)[0].eval()), there)


def test_what_pissa_left_goes_on_as_lora_of_twice_the_rank(tiny_model: Path, tmp_path: Path) -> None:
    there = trained(section(tiny_model, KINDS["pissa and rslora"]), tmp_path)
    again, _ = trainable_model(section(tiny_model, {"rank": 8, "alpha": 16, "start_from": tmp_path}))
    torch.testing.assert_close(answer(again.eval()), there, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rank": 8}, r"model\.adapter\.start_from: the adapter in .* has rank: 4, and the recipe says rank: 8"),
        ({"alpha": 16}, r"has alpha: 8, and the recipe says alpha: 16"),
        ({"method": "dora"}, r"has method: lora, and the recipe says method: dora"),
        ({"rslora": True}, r"has rslora: false, and the recipe says rslora: true"),
        ({"targets": ["q_proj"]}, r"it has weights for parts that the model does not have"),
        ({"targets": ["q_proj", "lm_head"]}, r"weights are missing, .*lm_head"),
    ],
)
def test_an_adapter_of_another_shape_is_not_gone_on_with(
    tiny_model: Path, tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    trained(section(tiny_model, {}), tmp_path)
    with pytest.raises(RequestError, match=said):
        trainable_model(section(tiny_model, {**changed, "start_from": tmp_path}))


def test_an_adapter_of_another_base_is_not_gone_on_with(tiny_model: Path, tmp_path: Path) -> None:
    """One of the same shape, in the same place: only its weights tell. A copy elsewhere is the same."""
    from transformers import AutoModelForCausalLM

    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    trained(section(base, {}), tmp_path)
    trainable_model(section(tiny_model, {"start_from": tmp_path}))
    model = AutoModelForCausalLM.from_pretrained(base)
    move(model).save_pretrained(base)
    with pytest.raises(RequestError, match="the adapter was trained on another base model than"):
        trainable_model(section(base, {"start_from": tmp_path}))


def test_an_adapter_from_elsewhere_that_says_nothing_of_its_base_must_fit_in_shape(
    tiny_model: Path, wide_model: Path, tmp_path: Path
) -> None:
    trained(section(tiny_model, {}), tmp_path)
    (tmp_path / "adapter" / "base.json").unlink()
    trainable_model(section(tiny_model, {"start_from": tmp_path}))
    with pytest.raises(RequestError, match="the adapter does not fit this model, or is damaged"):
        trainable_model(section(wide_model, {"start_from": tmp_path}))


# What is no adapter.


def edit(name: str, **changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> object:
        path = folder / name
        return path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def pickled(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def one_weight_less(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (shutil.rmtree, "holds no adapter"),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "holds no adapter_model.safetensors",
    ),
    "pickled weights": (pickled, "its weights are pickled, and unpickling a file can run any code"),
    "half of the weights": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(
            (folder / "adapter_model.safetensors").read_bytes()[:-500]
        ),
        "does not fit this model, or is damaged",
    ),
    "a weight less": (one_weight_less, "weights are missing"),
    "settings that are no JSON": (
        lambda folder: (folder / "adapter_config.json").write_text("{"),
        "adapter_config.json cannot be read",
    ),
    "a rank that is no number": (
        edit("adapter_config.json", r="two"),
        "adapter_config.json: r is 'two'; it must be a number",
    ),
    "another kind": (edit("adapter_config.json", peft_type="IA3"), "hfkit loads LoRA and its kin"),
    "a start that changed its base": (
        edit("adapter_config.json", init_lora_weights="olora"),
        "its start .olora. changed the weights of the base model",
    ),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=list(DAMAGE))
def test_what_is_no_whole_adapter_is_refused(
    tiny_model: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    trained(section(tiny_model, {}), tmp_path)
    damage(tmp_path / "adapter")
    for refused in (
        lambda: load_tuned(section(tiny_model), tmp_path),
        lambda: trainable_model(section(tiny_model, {"start_from": tmp_path})),
    ):
        with pytest.raises(RequestError, match=said) as caught:
            refused()
        assert len(str(caught.value).splitlines()) == 1


def test_an_adapter_with_ranks_of_its_own_in_some_layers_is_not_gone_on_with(tiny_model: Path, tmp_path: Path) -> None:
    trained(section(tiny_model, {}), tmp_path)
    edit("adapter_config.json", alpha_pattern={"q_proj": 64})(tmp_path / "adapter")
    with pytest.raises(RequestError, match="has ranks or scales of their own in some layers"):
        trainable_model(section(tiny_model, {"start_from": tmp_path}))


def test_an_adapter_is_found_in_its_folder_and_in_the_one_above(tmp_path: Path) -> None:
    place = tmp_path / "adapter"
    place.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (place / name).touch()
    assert find_adapter(tmp_path) == find_adapter(place) == place
