"""What makes training smaller or faster, and how the weights start: each trains, and a broken-off run ends the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from hfkit.errors import RequestError
from hfkit.recipe import ModelSection, TrainSection, load_recipe
from hfkit.training import callbacks, kernels, optimizer
from hfkit.training.collation import TrainingRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerState

    from tests.conftest import RecipeWriter
    from tests.training.conftest import Trained

MakeRows = Callable[..., list[TrainingRow]]
TrainOn = Callable[..., "Trained"]

SETTINGS = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "save_steps": 2, "log_steps": 1}


def difference(first: Trained, second: Trained) -> float:
    assert first.weights.keys() == second.weights.keys()
    return max(float((second.weights[name] - weight).abs().max()) for name, weight in first.weights.items())


@pytest.fixture
def break_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """Within, a run is interrupted after a step."""

    def at(step: int) -> Any:
        def on_step_end(self: object, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

        context = monkeypatch.context()
        patch = context.__enter__()
        patch.setattr(callbacks.WatchSteps, "on_step_end", on_step_end)
        return context

    return at


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({"adapter": {"init": "pissa"}}, {}),
        ({"adapter": {"method": "dora", "dropout": 0.1}}, {}),
        ({"adapter": {"rslora": True}}, {"lora_plus_ratio": 16.0}),
        ({"adapter": {"rank": 64}}, {"optimizer": "adamw_8bit"}),
        ({"adapter": {"dropout": 0.1}}, {"gradient_checkpointing": True}),
        ({"quantization": "nf4"}, {}),
    ],
    ids=["pissa", "dora", "lora+", "8-bit optimiser", "checkpointing", "nf4"],
)
def test_a_run_that_was_broken_off_ends_with_the_same_weights(
    train_on: TrainOn,
    make_rows: MakeRows,
    break_off: Callable[[int], Any],
    workplace: Path,
    model: dict[str, Any],
    train: dict[str, object],
) -> None:
    """Bit for bit. The interrupted run has a checkpoint at step 2 and has taken the third step."""
    rows, sections = make_rows(20), {"model": model, "train": {**SETTINGS, **train}}
    whole = train_on(rows, **sections)
    context = break_off(3)
    with pytest.raises(KeyboardInterrupt):
        train_on(rows, continued=workplace / "broken", **sections)
    context.__exit__(None, None, None)
    done = train_on(rows, continued=workplace / "broken", **sections)
    assert (done.result.continued_from_step, done.result.steps) == (2, 5)
    assert all(torch.equal(weight, done.weights[name]) for name, weight in whole.weights.items())


def test_gradient_checkpointing_changes_nothing(train_on: TrainOn, make_rows: MakeRows) -> None:
    """With an adapter, where the inputs of the first layer need no gradient, and without."""
    for adapter in ({"rank": 4, "dropout": 0.2}, None):
        plain, again = (
            train_on(make_rows(12), model={"adapter": adapter}, train={**SETTINGS, "gradient_checkpointing": on})
            for on in (False, True)
        )
        assert difference(plain, again) < 1e-6


def test_gradient_checkpointing_computes_the_layers_twice(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    plain, calls = LlamaMLP.forward, []

    def counted(self: LlamaMLP, hidden: torch.Tensor) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return plain(self, hidden)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    counts = []
    for on in (False, True):
        calls.clear()
        train_on(make_rows(4), train={**SETTINGS, "gradient_checkpointing": on})
        counts.append(sum(calls))
    # One step, two layers: each once more.
    assert counts[1] == counts[0] + 2


def test_b_matrices_learn_faster_with_lora_plus(train_on: TrainOn, make_rows: MakeRows) -> None:
    """Adam's first step is as long as the learning rate."""
    settings = {**SETTINGS, "batch_size": 8, "warmup": 0.0, "schedule": "constant"}
    plain, plus = (
        train_on(make_rows(8), train={**settings, "lora_plus_ratio": ratio}).weights for ratio in (None, 16.0)
    )
    b = [name for name in plain if "lora_B" in name]
    a = [name for name in plain if "lora_A" in name]
    assert len(a) == len(b) == len(plain) // 2
    assert all(torch.equal(plain[name], plus[name]) for name in a)
    for name in b:
        assert float(plain[name].abs().max()) == pytest.approx(1e-3, rel=0.01)
        assert float(plus[name].abs().max()) == pytest.approx(16e-3, rel=0.01)


def test_lora_plus_decays_as_the_recipe_says(tiny_family: Callable[..., PreTrainedModel]) -> None:
    from peft import LoraConfig, get_peft_model

    model: Any = get_peft_model(
        tiny_family("llama"), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    made = optimizer.lora_plus(model, torch.optim.AdamW, 4.0, 0.1, {"lr": 1e-3, "betas": (0.8, 0.9)})
    assert [(group["lr"], group["weight_decay"]) for group in made.param_groups] == [(1e-3, 0.1), (4e-3, 0.1)]
    held = sum(len(group["params"]) for group in made.param_groups)
    assert held == sum(weight.requires_grad for weight in model.parameters())


def test_lora_plus_needs_an_adapter(tiny_recipe: RecipeWriter) -> None:
    with pytest.raises(RequestError, match=r"train\.lora_plus_ratio: sets the learning rates of an adapter"):
        load_recipe(tiny_recipe(model={"adapter": None}, train={"lora_plus_ratio": 4.0}))


def test_eight_bits_hold_the_averages(train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near what float32 gives, and not the same."""
    plain, eight = (
        train_on(make_rows(12), model={"adapter": {"rank": 64}}, train={**SETTINGS, "optimizer": name})
        for name in ("adamw", "adamw_8bit")
    )
    assert 0 < difference(plain, eight) < 2e-3


@pytest.mark.parametrize("name", ["paged_adamw", "paged_adamw_8bit"])
def test_paged_optimisers_need_a_gpu(train_on: TrainOn, make_rows: MakeRows, name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RequestError, match=rf"train\.optimizer: {name} pages .*; use {name.removeprefix('paged_')}"):
        train_on(make_rows(4), train={**SETTINGS, "optimizer": name})


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["paged_adamw", "paged_adamw_8bit"])
def test_paged_optimisers_train_on_a_gpu(train_on: TrainOn, make_rows: MakeRows, name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    plain, paged = (train_on(make_rows(12), train={**SETTINGS, "optimizer": n}) for n in ("adamw", name))
    assert difference(plain, paged) < 2e-3


def test_what_runs_on_a_gpu_alone_is_refused_without_one(train_on: TrainOn, make_rows: MakeRows) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RequestError, match=r"train\.liger: .* on a GPU alone"):
        train_on(make_rows(4), train={**SETTINGS, "liger": True})
    with pytest.raises(RequestError, match=r"model\.precision: fp16 is trained on a GPU alone"):
        train_on(make_rows(4), model={"precision": "fp16"})


@pytest.mark.gpu
def test_float16_and_liger_train_on_a_gpu(train_on: TrainOn, make_rows: MakeRows) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    pytest.importorskip("liger_kernel")
    rows = make_rows(12)
    plain = train_on(rows, train=SETTINGS)
    for model, train in (({"precision": "fp16"}, {}), ({}, {"liger": True})):
        found = train_on(rows, model=model, train={**SETTINGS, **train})
        assert [line["loss"] for line in found.metrics] == pytest.approx(
            [line["loss"] for line in plain.metrics], abs=0.02
        )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_compiled_layers_give_the_same_gradients_whatever_batch_comes_first(
    tiny_family: Callable[..., PreTrainedModel],
) -> None:
    """A run that goes on meets its batches from another one on; kernels for one length would be others then."""
    from hfkit.training.collation import CollateTrainedPositions
    from hfkit.training.loss import TrainedTokenLoss

    batches = []
    for length in (20, 70, 130):
        rows: list[TrainingRow] = [
            {
                "input_ids": [(7 * place + length + line) % 500 for place in range(length - line)],
                "spans": [length - 9, length - 3],
            }
            for line in range(3)
        ]
        batch = CollateTrainedPositions(0, "padded")([[row] for row in rows])
        del batch["shift_labels"]
        batches.append(batch)
    assert len({batch["input_ids"].shape for batch in batches}) == 3

    def gradients_of(order: list[int], compiled: bool) -> dict[int, dict[str, torch.Tensor]]:
        torch.compiler.reset()
        model = tiny_family("llama", num_hidden_layers=1).train()
        if compiled:
            kernels.compile_layers(model)
        token_loss, found = TrainedTokenLoss(model), {}
        assert token_loss.way == "in the output layer"
        for number in order:
            with token_loss.of(batches[number]) as inputs:
                labels = inputs.pop("labels")
                token_loss(model(**inputs), labels).backward()
            found[number] = {name: weight.grad.clone() for name, weight in model.named_parameters()}
            model.zero_grad()
        return found

    plain, whole, resumed = gradients_of([0, 1, 2], False), gradients_of([0, 1, 2], True), gradients_of([2], True)
    for name, gradient in whole[2].items():
        assert "_orig_mod" not in name, "names of saved weights stay as they are"
        torch.testing.assert_close(gradient, plain[2][name], atol=1e-5, rtol=1e-4)
        assert torch.equal(gradient, resumed[2][name]), name
    assert any(not torch.equal(gradient, plain[2][name]) for name, gradient in whole[2].items()), "it was compiled"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_with_compiled_layers_trains_the_same(train_on: TrainOn, make_rows: MakeRows) -> None:
    plain, compiled = (train_on(make_rows(8), train={**SETTINGS, "compile": on}) for on in (False, True))
    assert 0 < difference(plain, compiled) < 1e-4


def test_layers_that_cannot_be_told_are_not_compiled() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2))
    for name, module in list(model.transformer.named_children()):
        if name == "h":
            setattr(model.transformer, name, torch.nn.ModuleList([torch.nn.Identity() for _ in module]))
    with pytest.raises(RequestError, match=r"train\.compile: the layers of bloom cannot be told"):
        kernels.compile_layers(model)


def test_the_names_of_optimisers_are_those_of_the_trainer() -> None:
    from transformers.training_args import OptimizerNames

    for name in optimizer._NAMES.values():
        assert OptimizerNames(name)
    assert set(optimizer._NAMES) == set(TrainSection.model_fields["optimizer"].annotation.__args__)  # type: ignore[union-attr]


def test_int8_is_not_asked_for_dora(tmp_path: Path) -> None:
    from pydantic import ValidationError

    for adapter, quantization in (({"method": "dora"}, "int8"), ({"init": "pissa"}, "nf4")):
        with pytest.raises(ValidationError, match=r"int8 weights|quantised ones do not allow"):
            ModelSection.model_validate({"base": "a", "quantization": quantization, "adapter": adapter})


def test_parameters_that_stand_two_in_a_byte_are_counted_one_by_one(make_rows: MakeRows, train_on: TrainOn) -> None:
    plain, nf4 = (
        train_on(make_rows(4), train={**SETTINGS, "max_steps": 1}, model=model).result
        for model in ({}, {"quantization": "nf4"})
    )
    assert nf4.parameters == plain.parameters and nf4.trained_parameters == plain.trained_parameters
