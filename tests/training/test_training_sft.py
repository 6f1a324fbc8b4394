"""The train stage on a tiny model: what it leaves does not depend on how a step is split, nor on when it was killed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from hfkit.errors import RequestError, WorkError
from hfkit.training import layout, sft
from hfkit.training.callbacks import WatchSteps
from hfkit.training.collation import TrainingRow

if TYPE_CHECKING:
    from transformers import TrainerState

    from tests.training.conftest import Trained

MakeRows = Callable[..., list[TrainingRow]]
TrainOn = Callable[..., "Trained"]
WeightsOf = Callable[[Path], dict[str, torch.Tensor]]


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(
            second[name], weight, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max(float((second[name] - weight).abs().max()) for name, weight in first.items())


ADAPTERS = pytest.mark.parametrize(
    "adapter",
    [pytest.param({"rank": 4, "alpha": 8}, id="adapter"), pytest.param(None, id="all weights", marks=pytest.mark.slow)],
)


# 21 rows: the last step of an epoch has five of the eight.
@ADAPTERS
def test_the_weights_do_not_hang_on_the_micro_batch(
    train_on: TrainOn, make_rows: MakeRows, adapter: dict[str, int] | None
) -> None:
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "warmup": 0.2}
    trained = {
        size: train_on(make_rows(21), model={"adapter": adapter}, train={**settings, "micro_batch_size": size})
        for size in (1, 2, 8)
    }
    assert [run.result.steps for run in trained.values()] == [6, 6, 6]
    assert [run.result.micro_batches for run in trained.values()] == [8, 4, 1]
    for size in (2, 8):
        assert_same(trained[1].weights, trained[size].weights, 1e-5)
        assert [line["loss"] for line in trained[size].metrics] == pytest.approx(
            [line["loss"] for line in trained[1].metrics], abs=1e-4
        )
    other = train_on(make_rows(21), model={"adapter": adapter}, train={**settings, "learning_rate": 2e-3})
    assert distance(trained[1].weights, other.weights) > 1e-3, "training moves the weights by more than the tolerance"


def test_the_first_loss_is_that_of_the_base_model(train_on: TrainOn, make_rows: MakeRows, tiny_model: Path) -> None:
    """A new adapter adds nothing; one step over all rows sees the plain cross-entropy of their trained tokens."""
    from transformers import AutoModelForCausalLM

    rows = make_rows(8, seed=5)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    losses = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            logits = model(input_ids=ids).logits[0].log_softmax(-1)
            losses += [-float(logits[n - 1, ids[0, n]]) for n in range(row["spans"][0], ids.shape[1])]
    trained = train_on(rows, train={"epochs": 1, "batch_size": 8, "micro_batch_size": 2})
    assert trained.metrics[0]["step"] == 1 and trained.metrics[0]["split"] == "train"
    assert trained.metrics[0]["loss"] == pytest.approx(sum(losses) / len(losses), abs=2e-4)


@pytest.mark.parametrize(("adapter", "share"), [({"rank": 8, "alpha": 64}, 0.98), (None, 0.5)])
def test_the_loss_falls(train_on: TrainOn, make_rows: MakeRows, adapter: dict[str, int] | None, share: float) -> None:
    settings = {"epochs": 40, "batch_size": 8, "learning_rate": 2e-2, "schedule": "constant"}
    trained = train_on(make_rows(8, seed=3), train=settings, model={"adapter": adapter})
    losses = [line["loss"] for line in trained.metrics]
    assert len(losses) == trained.result.steps == 40
    assert losses[-1] < share * losses[0]
    assert trained.result.loss == losses[-1]
    assert trained.result.continued_from_step == 0
    assert (trained.result.trained_parameters < trained.result.parameters) == (adapter is not None)
    assert (trained.result.precision, trained.result.precision_reason) == ("fp32", "the recipe asks for it")


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.0, 0.5, *(1 - n / 8 for n in range(8))]),
        ("cosine", [0.0, 0.5, *(0.5 + 0.5 * math.cos(math.pi * n / 8) for n in range(8))]),
    ],
)
def test_the_learning_rate_runs_as_the_recipe_says(
    train_on: TrainOn, make_rows: MakeRows, schedule: str, rates: list[float]
) -> None:
    """Ten steps, two of which warm up."""
    settings = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-3, "warmup": 0.2, "schedule": schedule}
    trained = train_on(make_rows(20), train=settings)
    assert [line["learning_rate"] for line in trained.metrics] == pytest.approx([1e-3 * r for r in rates], abs=1e-9)


def test_a_gradient_is_cut_where_the_recipe_says(train_on: TrainOn, make_rows: MakeRows) -> None:
    """So short that Adam's epsilon, which is no longer small beside it, shows in the weights."""
    settings = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2}
    whole, cut = (train_on(make_rows(16), train={**settings, "max_grad_norm": norm}).weights for norm in (1.0, 1e-7))
    assert distance(whole, cut) > 1e-3


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(train_on: TrainOn, make_rows: MakeRows) -> None:
    settings = {"epochs": 1, "batch_size": 4}
    adapter = {"adapter": {"dropout": 0.2}}
    first, again, other = (
        train_on(make_rows(12), seed=seed, train=settings, model=adapter).weights for seed in (7, 7, 8)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert distance(first, other) > 1e-3


def test_what_is_left_is_the_adapter_and_its_tokenizer(train_on: TrainOn, make_rows: MakeRows) -> None:
    trained = train_on(make_rows(8))
    seen = sorted(path.name for path in trained.folder.iterdir() if not path.name.startswith("."))
    assert seen == ["adapter", "checkpoints", "loss.png", "metrics.jsonl"]
    left = {path.name for path in (trained.folder / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"} <= left
    assert not [name for name in left if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_all_weights_are_trained_where_there_is_no_adapter(
    train_on: TrainOn, make_rows: MakeRows, tiny_model: Path
) -> None:
    from safetensors.torch import load_file

    trained = train_on(make_rows(8), model={"adapter": None})
    assert trained.result.trained_parameters == trained.result.parameters
    before = load_file(tiny_model / "model.safetensors")
    assert before.keys() == trained.weights.keys()
    assert all(not torch.equal(before[name], weight) for name, weight in trained.weights.items())
    assert {weight.dtype for weight in trained.weights.values()} == {torch.float32}


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_an_adapter_is_trained_on_quantised_weights(train_on: TrainOn, make_rows: MakeRows, quantization: str) -> None:
    trained = train_on(make_rows(8), model={"quantization": quantization}, train={"epochs": 10, "learning_rate": 2e-2})
    losses = [line["loss"] for line in trained.metrics]
    assert losses[-1] < losses[0]
    assert all(weight.isfinite().all() for weight in trained.weights.values())


def test_quantised_weights_are_not_trained_themselves(train_on: TrainOn, make_rows: MakeRows) -> None:
    with pytest.raises(RequestError, match=r"model\.quantization: .*give model\.adapter"):
        train_on(make_rows(4), model={"quantization": "nf4", "adapter": None})


def test_targets_are_adapted_and_no_others(train_on: TrainOn, make_rows: MakeRows) -> None:
    trained = train_on(make_rows(4), model={"adapter": {"targets": ["q_proj", "down_proj"]}})
    assert {name.split(".")[-3] for name in trained.weights} == {"q_proj", "down_proj"}


@pytest.mark.parametrize("targets", [["nowhere"], ["model"], ["q_prj", "k_prj"]])
def test_targets_that_are_not_there_are_refused(train_on: TrainOn, make_rows: MakeRows, targets: list[str]) -> None:
    with pytest.raises(RequestError, match=r"model\.adapter\.targets"):
        train_on(make_rows(4), model={"adapter": {"targets": targets}})


def test_bfloat16_trains_an_adapter_that_is_kept_in_float32(train_on: TrainOn, make_rows: MakeRows) -> None:
    trained = train_on(make_rows(8), model={"precision": "bf16"})
    assert trained.result.precision == "bf16"
    assert {weight.dtype for weight in trained.weights.values()} == {torch.float32}


# The loss overflows at once. With the longer pause it would be logged for the first time after the last step.
@pytest.mark.parametrize("log_steps", [1, 3, 100])
def test_a_loss_that_is_no_number_stops_the_run(train_on: TrainOn, make_rows: MakeRows, log_steps: int) -> None:
    settings = {"learning_rate": 1e30, "epochs": 4, "warmup": 0.0, "log_steps": log_steps, "schedule": "constant"}
    with pytest.raises(WorkError, match=r"the loss is (nan|inf) at step \d+; lower train\.learning_rate"):
        train_on(make_rows(16), model={"adapter": None}, train=settings)


def test_a_model_that_cannot_choose_its_logits_trains_all_the_same(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More memory, the same weights."""
    from transformers import LlamaForCausalLM

    rows, settings = make_rows(12, turns=2), {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3}
    expected = train_on(rows, train=settings)
    plain = LlamaForCausalLM.forward

    def forward(self: LlamaForCausalLM, input_ids: torch.Tensor, **kwargs: object) -> object:
        assert "logits_to_keep" not in kwargs
        return plain(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    found = train_on(rows, train=settings)
    assert_same(expected.weights, found.weights, 1e-5)


# Micro-batches and packs.


def test_a_micro_batch_of_the_recipe_is_taken_or_refused(train_on: TrainOn, make_rows: MakeRows) -> None:
    with pytest.raises(RequestError, match=r"train\.micro_batch_size: 12 rows a step cannot be cut into batches of 5"):
        train_on(make_rows(12), train={"batch_size": 12, "micro_batch_size": 5})


# Packed, the same is trained. The rows have several trained spans and very different lengths.
MANY = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "warmup": 0.2}


@ADAPTERS
def test_packing_changes_nothing_but_speed(
    train_on: TrainOn, make_rows: MakeRows, adapter: dict[str, int] | None
) -> None:
    rows = make_rows(21, turns=3)
    trained = {
        (packing, micro): train_on(
            rows,
            model={"adapter": adapter},
            data={"packing": packing, "max_length": 256},
            train={**MANY, "micro_batch_size": micro},
        )
        for packing, micro in [(False, 1), (False, "auto"), (True, "auto"), (True, 2), (True, 1)]
    }
    alone = trained[False, 1]
    for (packing, micro), run in trained.items():
        assert run.result.packed is packing and run.result.steps == 6
        assert_same(alone.weights, run.weights, 1e-5)
        assert [line["loss"] for line in run.metrics] == pytest.approx(
            [line["loss"] for line in alone.metrics], abs=1e-4
        ), (packing, micro)


def test_a_small_budget_gives_some_steps_more_micro_batches_than_others(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(40, turns=2)
    whole = train_on(rows, train=MANY)
    monkeypatch.setattr(sft, "tokens_at_once", lambda kind, half: 256)
    cut = train_on(rows, train=MANY)
    assert (whole.result.micro_batches, cut.result.micro_batches) == (1, 3)
    assert_same(whole.weights, cut.weights, 1e-5)
    assert [line["loss"] for line in cut.metrics] == pytest.approx([line["loss"] for line in whole.metrics], abs=1e-4)


@pytest.mark.parametrize("packing", [False, True, "auto"])
def test_a_run_that_was_broken_off_goes_on_to_the_same_weights(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, workplace: Path, packing: object
) -> None:
    """Bit for bit: broken off in the first epoch, and again in the third, in the middle of a fraction of an epoch."""
    rows = make_rows(21, turns=2)
    sections = {
        "model": {"adapter": {"rank": 4, "alpha": 8, "dropout": 0.3}},
        "data": {"packing": packing, "max_length": 128},
        "train": {**MANY, "epochs": 2.5, "micro_batch_size": 4, "save_steps": 2, "log_steps": 1},
    }
    whole = train_on(rows, **sections)
    assert whole.result.steps == 8
    folder = workplace / "broken-off"
    for step in (3, 7):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(WatchSteps, "on_step_end", stop_at(step))
            train_on(rows, continued=folder, **sections)
    done = train_on(rows, continued=folder, **sections)
    assert done.result.continued_from_step == 6
    assert all(torch.equal(weight, done.weights[name]) for name, weight in whole.weights.items())
    assert [(line["step"], line["loss"]) for line in done.metrics] == [
        (line["step"], line["loss"]) for line in whole.metrics
    ]


def stop_at(step: int) -> Callable[..., None]:
    def on_step_end(self: object, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        if state.global_step == step:
            raise KeyboardInterrupt

    return on_step_end


def test_packing_that_the_model_cannot_bear_is_refused_before_training(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "why_not_packable", lambda *arguments, **named: "it would leak")
    with pytest.raises(RequestError, match=r"data\.packing: true is not possible with this model: it would leak"):
        train_on(make_rows(4), data={"packing": True})
    assert train_on(make_rows(4), data={"packing": "auto"}).result.packed is False


def test_what_is_left_says_where_to_stop(train_on: TrainOn, make_rows: MakeRows) -> None:
    """For whoever generates with the tuned model through another library."""
    from transformers import AutoTokenizer, GenerationConfig

    from hfkit.data.rendering import Renderer

    for adapter, name in (({"rank": 4}, "adapter"), (None, "model")):
        trained = train_on(make_rows(4), model={"adapter": adapter})
        tokenizer = AutoTokenizer.from_pretrained(trained.folder / name)
        kept = GenerationConfig.from_pretrained(trained.folder / name)
        stops = kept.eos_token_id if isinstance(kept.eos_token_id, list) else [kept.eos_token_id]
        assert stops == list(Renderer(tokenizer).stop_ids) and tokenizer.eos_token_id in stops
        assert kept.pad_token_id == tokenizer.pad_token_id
