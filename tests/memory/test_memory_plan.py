"""The memory plan: its parts against the tensors of real models, its devices, its advice, and how `check` tells it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hfkit.memory.advice import advise
from hfkit.memory.checking import report_memory
from hfkit.memory.plan import plan_memory
from hfkit.memory.setting import GIBIBYTE, Batch, Devices, Setting
from hfkit.memory.shape import ModelShape, shape_of
from hfkit.recipe import AdapterSection, load_recipe

if TYPE_CHECKING:
    from tests.conftest import Cli, RecipeWriter

LLAMA_70B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
BATCH = Batch(lines=4, length=512, positions=64, masked=True)
ONE_CPU = Devices("cpu", 1, 16 * GIBIBYTE)


def small(family: str = "llama", **settings: Any) -> ModelShape:
    from transformers import AutoConfig

    sizes = {
        "vocab_size": 500,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return shape_of(AutoConfig.for_model(family, **{**sizes, **settings}))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "phi3", "mixtral"])
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj", "c_attn", "qkv_proj")])
def test_adapters_have_the_parameters_that_peft_gives_them(family: str, targets: str | tuple[str, ...]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hfkit.models.adapters import with_new_adapter

    adapter = AdapterSection(rank=4, targets=targets)  # type: ignore[arg-type]
    config = AutoConfig.for_model(
        family,
        vocab_size=500,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    shape = shape_of(config)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(weight.numel() for weight in base.parameters())
    model = with_new_adapter(AutoModelForCausalLM.from_config(config), adapter)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert shape.adapter_parameters(adapter) == trained


def test_what_is_held_of_weights_and_for_training_them_is_exact() -> None:
    shape, adapter = small(), AdapterSection(rank=8)
    trained = shape.adapter_parameters(adapter)
    lora = plan_memory(shape, Setting(BATCH, 4, adapter), ONE_CPU)
    assert (lora.weights, lora.adapter) == (4 * shape.parameters, 4 * trained)
    assert (lora.gradients, lora.optimizer) == (4 * trained, 8 * trained)
    half = plan_memory(shape, Setting(BATCH, 2, adapter), ONE_CPU)
    assert (half.weights, half.adapter) == (2 * shape.parameters, 4 * trained)
    whole = plan_memory(shape, Setting(BATCH, 2, None), ONE_CPU)
    assert (whole.weights, whole.adapter) == (4 * shape.parameters, 0)
    assert (whole.gradients, whole.optimizer) == (4 * shape.parameters, 8 * shape.parameters)


def test_gradients_of_one_pass_come_where_activations_go() -> None:
    shape = small()
    several = plan_memory(shape, Setting(BATCH, 4, None), ONE_CPU)
    one = plan_memory(shape, Setting(BATCH, 4, None, accumulates=False), ONE_CPU)
    assert one.gradients == max(0, several.gradients - several.activations - several.logits)
    tiny = Setting(Batch(1, 32, 1, masked=True), 4, None, accumulates=False)
    least = plan_memory(shape, tiny, ONE_CPU)
    assert least.gradients + least.activations + least.logits >= 4 * shape.parameters


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_weights_take_what_bitsandbytes_makes_of_them(tmp_path: Path, quantization: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from hfkit.models.loading import load_model
    from hfkit.recipe import ModelSection

    config = AutoConfig.for_model(
        "llama", vocab_size=500, hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model, _ = load_model(ModelSection(base=str(tmp_path), precision="fp32", quantization=quantization))  # type: ignore[arg-type]
    held = sum(weight.untyped_storage().nbytes() for weight in model.parameters())
    setting = Setting(BATCH, 4, AdapterSection(), quantization=quantization)  # type: ignore[arg-type]
    assert plan_memory(shape_of(config), setting, ONE_CPU).weights == pytest.approx(held, rel=0.03)


def test_each_sharding_spreads_what_it_says() -> None:
    shape, setting = small(), Setting(BATCH, 2, None)
    eight = {
        kind: plan_memory(shape, setting, Devices("gpu", 8, GIBIBYTE, kind))  # type: ignore[arg-type]
        for kind in ("ddp", "zero2", "zero3", "fsdp2")
    }
    alone = plan_memory(shape, setting, Devices("gpu", 1, GIBIBYTE))
    assert eight["ddp"].gradients == 2 * alone.gradients
    assert eight["ddp"].weights == eight["zero2"].weights == alone.weights
    assert eight["zero2"].optimizer == eight["fsdp2"].optimizer == alone.optimizer // 8
    assert eight["fsdp2"].gradients == alone.gradients // 8
    assert eight["zero3"] == eight["fsdp2"]
    large = small(num_hidden_layers=40)
    spread = plan_memory(large, setting, Devices("gpu", 8, GIBIBYTE, "fsdp2"))
    assert spread.weights < plan_memory(large, setting, Devices("gpu", 8, GIBIBYTE)).weights / 4


def test_eight_bit_averages_of_the_input_table_are_kept_in_float32() -> None:
    shape = small()
    plain, eight = (
        plan_memory(shape, Setting(BATCH, 2, None, optimizer=name), Devices("gpu", 1, GIBIBYTE)).optimizer
        for name in ("adamw", "adamw_8bit")
    )
    table = 500 * 64
    assert plain == 8 * shape.parameters
    assert eight == pytest.approx((2 + 8 / 256) * (shape.parameters - table) + 8 * table, abs=1)
    adapter = Setting(BATCH, 2, AdapterSection(), optimizer="adamw_8bit")
    trained = shape.adapter_parameters(AdapterSection())
    assert plan_memory(shape, adapter, Devices("gpu", 1, GIBIBYTE)).optimizer == pytest.approx(
        (2 + 8 / 256) * trained, abs=1
    )


def test_advice_never_joins_what_does_not_work_together() -> None:
    shape = small(num_hidden_layers=24, hidden_size=512, intermediate_size=2048)
    for sharding in ("ddp", "zero2", "zero3", "fsdp2"):
        for optimizer in ("adamw", "adamw_8bit"):
            setting = Setting(BATCH, 2, None, optimizer=optimizer)  # type: ignore[arg-type]
            devices = Devices("gpu", 8, GIBIBYTE, sharding)  # type: ignore[arg-type]
            changes = [one.change for one in advise(shape, setting, devices, 0)]
            fsdp = sharding == "fsdp2" or "--sharding fsdp2" in changes
            assert not (fsdp and "train.optimizer=adamw_8bit" in changes), changes
            assert not ("--sharding fsdp2" in changes and optimizer == "adamw_8bit"), changes


@pytest.mark.parametrize(
    ("sharding", "overrides", "said"),
    [
        ("fsdp2", ["model.quantization=nf4"], "nf4 weights are not divided by fsdp2"),
        ("zero3", ["model.quantization=int8"], "int8 weights are not divided by zero3"),
        ("fsdp2", ["train.optimizer=adamw_8bit"], "adamw_8bit does not work on weights that fsdp2 divides"),
    ],
)
def test_check_refuses_what_does_not_work_on_divided_weights(
    tiny_recipe: RecipeWriter, cli: Cli, sharding: str, overrides: list[str], said: str
) -> None:
    done = cli("check", tiny_recipe(), "--gpus", 2, "--sharding", sharding, *overrides)
    assert done.code == 2 and said in done.out, done.out
    assert cli("check", tiny_recipe(), "--gpus", 2, "--sharding", "zero2", *overrides).code == 0


def test_zero_3_needs_room_for_the_whole_model_before_it_divides_it(tmp_path: Path, tiny_recipe: RecipeWriter) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_70B), encoding="utf-8")
    recipe = load_recipe(
        tiny_recipe(
            model={"base": str(folder), "precision": "bf16"}, train={"gradient_checkpointing": True, "batch_size": 8}
        )
    )
    reports = {
        kind: report_memory(recipe, tmp_path / "nothing", Devices("gpu", 8, 80 * GIBIBYTE, kind))  # type: ignore[arg-type]
        for kind in ("fsdp2", "zero3")
    }
    divided, moved = reports["fsdp2"], reports["zero3"]
    assert divided is not None and moved is not None
    assert divided.plan == moved.plan and divided.fits and not moved.fits
    assert any("onto each GPU before it divides it" in line for line in moved.lines())
    assert moved.lines()[-1].startswith("  --sharding fsdp2: ")


def test_advice_comes_in_order_adds_up_and_stops_when_it_fits() -> None:
    shape = small(num_hidden_layers=24, hidden_size=512, intermediate_size=2048)
    setting = Setting(replace(BATCH, length=2048), 2, None)
    gpus = Devices("gpu", 8, GIBIBYTE)
    before = plan_memory(shape, setting, gpus).total
    everything = advise(shape, setting, gpus, 0)
    left = before
    for one in everything:
        left -= one.gain
        assert one.gain > 0 and one.total == left
    changes = [one.change for one in everything]
    assert changes[:2] == ["train.micro_batch_size=1", "train.gradient_checkpointing=true"]
    assert {"--sharding fsdp2", "model.adapter.method=lora"} <= set(changes)
    assert advise(shape, setting, gpus, everything[0].total) == everything[:1]
    assert advise(shape, setting, gpus, before) == []


def test_check_tells_the_plan_of_this_machine(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    memory = cli("check", tiny_recipe(), "--json").document["memory"]
    assert memory["fits"] is True and memory["device"]["count"] == 1
    parts = {name: size for name, size in memory["bytes"].items() if name != "total"}
    assert list(parts) == ["weights", "adapter", "gradients", "optimizer", "activations", "logits", "framework"]
    assert all(size > 0 for size in parts.values()) and memory["bytes"]["total"] == sum(parts.values())
    said = cli("check", tiny_recipe())
    assert "ok    memory: training takes" in said.out and "until data is run" in said.out


def test_check_plans_from_the_prepared_rows_once_they_are_there(finished: Path, cli: Cli) -> None:
    memory = cli("check", finished, "--json").document["memory"]
    assert not any("until data is run" in one for one in memory["assumptions"])
    # Rows of the tiny recipe are far shorter than the recipe allows.
    assert memory["batch"]["length"] < 1024


def test_check_plans_a_70b_on_eight_gpus_from_its_config_alone(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    folder = Path("large").absolute()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_70B), encoding="utf-8")
    # Weights that nobody could load: the plan must not try.
    (folder / "model.safetensors").write_bytes(b"")
    from hfkit.memory.checking import devices_of, report_memory
    from hfkit.recipe import load_recipe

    sections = {"data": {"max_length": 4096}, "train": {"batch_size": 32}}
    recipe = load_recipe(tiny_recipe(model={"base": str(folder), "precision": "auto"}, **sections))
    report = report_memory(recipe, Path("nowhere"), devices_of(8, 80.0, "fsdp2"))
    assert report is not None and report.parameters == 70_553_706_496
    # An eighth of 141 GB, and two layers and the tables gathered.
    assert 16.4 + 3 < report.plan.weights / GIBIBYTE < 16.4 + 9
    assert not report.fits
    said = "\n".join(report.lines())
    assert "each process holds the whole model in the memory of its machine: 8 x 131.4 GiB" in said
    assert "what to change" in said and "train.gradient_checkpointing=true" in said
    assert report.advice[-1].total <= 80 * GIBIBYTE


def test_devices_share_the_rows_of_a_step(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    recipe = tiny_recipe(train={"batch_size": 8})
    alone, shared = (
        cli("check", recipe, "--gpus", count, "--json").document["memory"]["batch"]["lines"] for count in (1, 4)
    )
    assert (alone, shared) == (8, 2)


def test_more_devices_than_rows_a_step_are_an_error(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    done = cli("check", tiny_recipe(train={"batch_size": 8}), "--gpus", "16")
    assert done.code == 2
    assert "ERROR train.batch_size: 8 rows a step cannot be shared by 16 GPUs; set it to 16 or more" in done.out


@pytest.mark.parametrize(
    "arguments",
    [["--gpu-memory", "80"], ["--sharding", "fsdp2"], ["--gpus", "0"], ["--gpus", "2", "--gpu-memory", "0"]],
)
def test_wrong_devices_are_wrong_requests(tiny_recipe: RecipeWriter, cli: Cli, arguments: list[str]) -> None:
    done = cli("check", tiny_recipe(), *arguments)
    assert done.code == 2 and "--gpu" in done.err and "Traceback" not in done.err


def test_a_recipe_that_trains_nothing_has_no_plan(tiny_recipe: RecipeWriter, cli: Cli) -> None:
    document = cli("check", tiny_recipe(train=None, evaluate=None), "--json").document
    assert document["memory"] is None
