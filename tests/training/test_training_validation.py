"""Validation while a model trains: on rows that training never sees, and without a trace in what is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.data.conversation import Conversation, Turn
from hfkit.data.prepared import EXAMPLES, ShardWriter, example_batch, example_schema
from hfkit.errors import RequestError, WorkError
from hfkit.recipe.problems import RecipeError
from hfkit.training.collation import TrainingRow
from hfkit.training.validation import Validated, Validation
from hfkit.training.validation_rows import hold_out, read_held_out

if TYPE_CHECKING:
    from hfkit.training.trainer import TrainedPositionsTrainer
    from tests.training.conftest import Trained

MakeRows = Callable[..., list[TrainingRow]]
TrainOn = Callable[..., "Trained"]

DROPOUT = {"adapter": {"rank": 4, "alpha": 8, "dropout": 0.3}}
TRAIN: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "save_steps": 3}
LOSS_ALONE = {"share": 6, "steps": 2, "samples": 0}
REPLIES = {"share": 6, "steps": 2, "metrics": ["loss", "token_f1"], "samples": 2, "max_new_tokens": 4}


# Which rows.


def write_examples(folder: Path, documents: Sequence[int]) -> None:
    examples = [
        Conversation(id=f"row-{number}", document=f"document-{document}", messages=(Turn(role="user", content="?"),))
        for number, document in enumerate(documents)
    ]
    with ShardWriter(folder / EXAMPLES, "train", example_schema()) as shards:
        shards.write(example_batch(examples))


@given(
    documents=st.lists(st.integers(0, 7), min_size=2, max_size=40).filter(lambda each: len(set(each)) > 1),
    share=st.floats(0.01, 0.99) | st.integers(1, 39),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_whole_documents_are_kept_out_and_something_is_left(
    tmp_path_factory: pytest.TempPathFactory, documents: list[int], share: float | int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("prepared")
    write_examples(folder, documents)
    if isinstance(share, int) and share >= len(documents):
        with pytest.raises(RequestError, match=r"train\.validation\.share: .* which has"):
            hold_out(folder, share, seed)
        return
    held_out = hold_out(folder, share, seed)
    out = {document for number, document in enumerate(documents) if f"row-{number}" in held_out}
    left = {document for number, document in enumerate(documents) if f"row-{number}" not in held_out}
    assert out and left and not out & left
    assert held_out == hold_out(folder, share, seed)
    assert [example.id for example in read_held_out(folder, held_out)] == sorted(
        held_out, key=lambda row: int(row.removeprefix("row-"))
    )


def test_rows_of_one_document_cannot_be_kept_out(tmp_path: Path) -> None:
    write_examples(tmp_path, [3, 3, 3])
    with pytest.raises(RequestError, match=r"train\.validation: .*all training rows are of one document"):
        hold_out(tmp_path, 0.5, 7)


# What it does not do.


def test_what_is_measured_changes_no_bit_of_what_is_trained(
    train_on: TrainOn, make_rows: MakeRows, write_prepared: Callable[[Sequence[TrainingRow]], Path]
) -> None:
    """Not with replies and samples, and not at all: training on the rows that are left gives the same weights."""
    rows = make_rows(24)
    alone = train_on(rows, model=DROPOUT, train={**TRAIN, "validation": LOSS_ALONE})
    replies = train_on(rows, model=DROPOUT, train={**TRAIN, "validation": REPLIES})
    held_out = hold_out(write_prepared(rows), 6, 7)
    left = [row for number, row in enumerate(rows, start=1) if f"rows.jsonl:{number}" not in held_out]
    assert len(left) == 18 and alone.result.validation_rows == 6
    without = train_on(left, model=DROPOUT, train=TRAIN)
    for other in (replies, without):
        assert all(torch.equal(weight, other.weights[name]) for name, weight in alone.weights.items())
    assert [line["loss"] for line in alone.metrics] == [line["loss"] for line in without.metrics]


# What it measures.


def test_the_validation_loss_is_that_of_the_trained_tokens(
    train_on: TrainOn,
    make_rows: MakeRows,
    write_prepared: Callable[[Sequence[TrainingRow]], Path],
    tiny_model: Path,
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    rows = make_rows(24, turns=2)
    trained = train_on(rows, train={**TRAIN, "validation": REPLIES})
    lines = [line for line in trained.lines if line["split"] == "validation"]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
    assert all(line["metrics"].keys() == {"loss", "token_f1"} for line in lines)
    assert all(line["loss"] == line["metrics"]["loss"] for line in lines)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), trained.folder / "adapter"
    ).eval()
    held_out = hold_out(write_prepared(rows), 6, 7)
    losses = []
    with torch.no_grad():
        for number, row in enumerate(rows, start=1):
            if f"rows.jsonl:{number}" not in held_out:
                continue
            ids = torch.tensor([row["input_ids"]])
            logits = model(input_ids=ids).logits[0].log_softmax(-1)
            for start, end in zip(row["spans"][::2], row["spans"][1::2], strict=True):
                losses += [-float(logits[n - 1, ids[0, n]]) for n in range(start, end)]
    assert lines[-1]["loss"] == pytest.approx(sum(losses) / len(losses), abs=2e-4)


@pytest.mark.parametrize("decoded_by", ["hfkit", "transformers"])
def test_an_adapter_is_validated_in_half_precision(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, decoded_by: str
) -> None:
    """Before the first step too, where nothing casts for the Trainer yet, and inside of what it casts for."""
    if decoded_by == "transformers":
        monkeypatch.setattr("hfkit.evaluation.generation.can_share", lambda model: False)
    sections: dict[str, Any] = {"model": {"precision": "bf16", "adapter": {"rank": 4, "alpha": 8}}}
    trained = train_on(make_rows(24), **sections, train={**TRAIN, "validation": REPLIES, "max_steps": 4})
    lines = [line for line in trained.lines if line["split"] == "validation"]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(0 < line["loss"] < 20 for line in lines)
    samples = [json.loads(line) for line in (trained.folder / "samples.jsonl").read_text("utf-8").splitlines()]
    assert all(sample["failed"] is None for sample in samples)


def test_samples_are_kept_with_their_step(train_on: TrainOn, make_rows: MakeRows) -> None:
    trained = train_on(make_rows(24), train={**TRAIN, "validation": REPLIES})
    samples = [json.loads(line) for line in (trained.folder / "samples.jsonl").read_text("utf-8").splitlines()]
    assert [sample["step"] for sample in samples] == [2, 2, 4, 4, 6, 6, 8, 8, 10, 10]
    assert {sample["row"] for sample in samples[:2]} == {sample["row"] for sample in samples[2:4]}
    assert all(sample["prompt"].startswith("Question") and sample["references"] == ["A bee."] for sample in samples)


def test_a_fault_in_validation_shows_before_the_first_step(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    def broken(self: Validation, trainer: TrainedPositionsTrainer) -> Validated:
        raise WorkError("the metric is broken")

    monkeypatch.setattr(Validation, "measure", broken)
    with pytest.raises(WorkError, match="the metric is broken"):
        train_on(make_rows(24), continued=workplace / "broken", train={**TRAIN, "validation": REPLIES})
    assert not (workplace / "broken" / "metrics.jsonl").exists()


# What comes of it.


def scripted(values: Sequence[float]) -> Callable[[Validation, TrainedPositionsTrainer], Validated]:
    """Validations that give these losses; the first, before training, is the rehearsal's."""
    left = [float("inf"), *values]

    def measure(self: Validation, trainer: TrainedPositionsTrainer) -> Validated:
        loss = left.pop(0)
        return Validated(loss, {"loss": loss, "token_f1": -loss}, ())

    return measure


@pytest.mark.parametrize("best", ["loss", "token_f1"])
def test_training_ends_when_there_is_no_more_gain_and_leaves_the_best(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, best: str
) -> None:
    monkeypatch.setattr(Validation, "measure", scripted([3.0, 2.0, 2.5, 2.0, 1.9]))
    settings = {**TRAIN, "epochs": 9, "save_steps": 100, "keep_checkpoints": 0, "schedule": "constant", "warmup": 0.0}
    validation = {**REPLIES, "samples": 0}
    trained = train_on(make_rows(24), train={**settings, "validation": validation, "best": best, "patience": 2})
    # Best at step 4, no gain at 6, equal at 8, which is no gain either.
    assert (trained.result.steps, trained.result.stopped_by, trained.result.planned_steps) == (8, "patience", 45)
    assert (trained.result.best_step, trained.result.best_metric) == (4, best)
    assert trained.result.best_value == (2.0 if best == "loss" else -2.0)
    monkeypatch.setattr(Validation, "measure", scripted([3.0, 2.0]))
    short = train_on(make_rows(24), train={**settings, "validation": validation, "max_steps": 4})
    assert all(torch.equal(weight, trained.weights[name]) for name, weight in short.weights.items())
    assert trained.result.kept_steps == () and not (trained.folder / "checkpoints").exists()


def test_without_best_the_last_weights_are_left(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(24)
    monkeypatch.setattr(Validation, "measure", scripted([1.0] + [2.0] * 9))
    trained = train_on(rows, train={**TRAIN, "validation": LOSS_ALONE})
    monkeypatch.undo()
    assert trained.result.best_step is None and trained.result.stopped_by == "steps"
    other = train_on(rows, train={**TRAIN, "validation": LOSS_ALONE})
    assert all(torch.equal(weight, other.weights[name]) for name, weight in trained.weights.items())


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"best": "loss"}, r"train\.best: needs train\.validation"),
        ({"patience": 2}, r"train\.patience: needs train\.validation"),
        ({"validation": {}, "best": "token_f1"}, r"train\.best: token_f1 is not among train\.validation\.metrics"),
        ({"validation": {"metrics": ["tokn_f1"]}}, r"train\.validation\.metrics: .*did you mean token_f1"),
        ({"validation": {"metrics": ["perplexity"]}}, r"train\.validation\.metrics: perplexity scores"),
        ({"validation": {"share": 1.5}}, r"train\.validation\.share: expected"),
    ],
)
def test_a_recipe_that_asks_for_what_cannot_be_measured_is_refused(
    tiny_recipe: Callable[..., Path], train: dict[str, Any], message: str
) -> None:
    from hfkit.recipe import load_recipe

    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny_recipe(train=train))
