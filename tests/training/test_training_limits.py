"""What ends training before its time, which weights are left, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.errors import WorkError
from hfkit.training.collation import TrainingRow
from hfkit.training.course import Course
from hfkit.training.trainer import TrainedPositionsTrainer
from hfkit.training.weights import kept_steps, kept_weights, rotate_kept

if TYPE_CHECKING:
    from tests.training.conftest import Trained

MakeRows = Callable[..., list[TrainingRow]]
TrainOn = Callable[..., "Trained"]
WeightsOf = Callable[[Path], dict[str, torch.Tensor]]

TRAIN: dict[str, Any] = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "save_steps": 2, "log_steps": 3}


# Steps and time.


def test_the_schedule_ends_with_the_last_step_that_is_taken(train_on: TrainOn, make_rows: MakeRows) -> None:
    settings = {**TRAIN, "log_steps": 1, "warmup": 0.0}
    trained = train_on(make_rows(24), train={**settings, "epochs": 3, "max_steps": 8})
    assert (trained.result.steps, trained.result.planned_steps, trained.result.stopped_by) == (8, 8, "steps")
    assert [line["learning_rate"] for line in trained.metrics] == pytest.approx([1e-3 * (1 - n / 8) for n in range(8)])
    assert [line["epoch"] for line in trained.metrics] == pytest.approx([n / 6 for n in range(1, 9)])
    assert train_on(make_rows(24), train={**settings, "max_steps": 100}).result.steps == 6


def test_a_run_whose_time_is_up_is_finished_and_says_so(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(0, 10_000, 20))
    monkeypatch.setattr(Course, "clock", lambda self: float(next(ticks)))
    trained = train_on(make_rows(24), train={**TRAIN, "max_minutes": 1.0})
    assert trained.result.stopped_by == "time" and 1 <= trained.result.steps < trained.result.planned_steps == 6
    assert trained.result.deterministic.startswith("none: training ended after a time")
    assert trained.weights and trained.lines[-1]["step"] == trained.result.steps


def test_what_the_result_is_a_function_of_is_said(train_on: TrainOn, make_rows: MakeRows) -> None:
    result = train_on(make_rows(8), train=TRAIN).result
    assert f"{result.threads} thread" in result.deterministic and result.processes == 1
    assert not torch.are_deterministic_algorithms_enabled(), "it is switched off again"


@pytest.mark.parametrize(("schedule", "last"), [("inverse_sqrt", 0.5), ("wsd", 0.25)])
def test_other_schedules(train_on: TrainOn, make_rows: MakeRows, schedule: str, last: float) -> None:
    """20 steps, 5 of them to warm up; wsd lets the rate fall over the last 4."""
    settings = {**TRAIN, "batch_size": 1, "warmup": 0.25, "log_steps": 1, "schedule": schedule}
    rates = [line["learning_rate"] / 1e-3 for line in train_on(make_rows(20), train=settings).metrics]
    assert rates[:6] == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    if schedule == "wsd":
        assert rates[6:] == pytest.approx([1.0] * 11 + [0.75, 0.5, 0.25])
    else:
        assert rates[6:] == pytest.approx([(5 / step) ** 0.5 for step in range(6, 20)])
    assert rates[-1] == pytest.approx(last, abs=0.02)


def test_weight_decay_takes_from_the_weights(train_on: TrainOn, make_rows: MakeRows) -> None:
    settings = {**TRAIN, "schedule": "constant", "warmup": 0.0, "learning_rate": 1e-2}
    free, held = (
        train_on(make_rows(24), model={"adapter": None}, train={**settings, "weight_decay": decay}).weights
        for decay in (0.0, 5.0)
    )
    name = "model.layers.0.mlp.up_proj.weight"
    assert held[name].norm() < 0.9 * free[name].norm()


# The guard.


def test_a_loss_that_leaves_its_course_ends_the_run_and_the_weights_before_it_are_named(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, workplace: Path, weights_of: WeightsOf
) -> None:
    rows = make_rows(24)
    settings = {**TRAIN, "epochs": 10, "save_steps": 20, "log_steps": 10, "keep_checkpoints": "all"}
    step = TrainedPositionsTrainer.training_step

    def exploding(self: TrainedPositionsTrainer, *arguments: Any, **named: Any) -> torch.Tensor:
        loss = step(self, *arguments, **named)
        return loss + 30 if self.state.global_step >= 45 else loss

    monkeypatch.setattr(TrainedPositionsTrainer, "training_step", exploding)
    folder = workplace / "diverged"
    with pytest.raises(WorkError) as caught:
        train_on(rows, continued=folder, train=settings)
    message = str(caught.value)
    assert "the loss has left its course at step 46" in message and "(step 50)" in message
    assert f"The weights of step 40 are kept in {folder / 'checkpoints' / 'step-40'}" in message
    assert weights_of(folder / "checkpoints" / "step-40")
    assert not (folder / "adapter").exists()
    assert train_on(rows, train={**settings, "divergence_guard": False}).result.steps == 60


def test_a_gradient_that_is_no_number_ends_the_run(
    train_on: TrainOn, make_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    norm = TrainedPositionsTrainer._get_grad_norm

    def broken(self: TrainedPositionsTrainer, *arguments: Any, **named: Any) -> Any:
        found = norm(self, *arguments, **named)
        return found * float("nan") if self.state.global_step == 3 else found

    monkeypatch.setattr(TrainedPositionsTrainer, "_get_grad_norm", broken)
    with pytest.raises(WorkError, match=r"the gradient's norm is nan at step 4; .*The weights of step 2 are kept in"):
        train_on(make_rows(24), continued=workplace / "broken", train=TRAIN)
    kept = sorted(path.name for path in (workplace / "broken" / "checkpoints").iterdir())
    assert kept == ["step-2"], "nothing is kept of the step that went wrong"


# What is kept.


@given(
    saved=st.lists(st.integers(1, 99), unique=True, max_size=8).map(sorted),
    keep=st.integers(0, 9) | st.just("all"),
    best=st.none() | st.integers(0, 7),
)
@settings(deadline=None)
def test_the_newest_are_kept_and_the_best(
    tmp_path_factory: pytest.TempPathFactory, saved: list[int], keep: int | str, best: int | None
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    best_step = saved[best] if best is not None and best < len(saved) else None
    present: list[int] = []
    for step in saved:
        kept_weights(folder, step).mkdir(parents=True)
        present.append(step)
        # The best is known once it is saved.
        known = best_step if best_step in present else None
        rotate_kept(folder, keep, known)  # type: ignore[arg-type]
    newest = saved if keep == "all" else saved[max(0, len(saved) - int(keep)) :]
    # Until it is known as the best it is one among others; here it is known at once, so it is never lost.
    assert kept_steps(folder) == sorted({*newest, *([] if best_step is None else [best_step])})


@pytest.mark.parametrize(("keep", "left"), [(0, []), (2, [4, 6]), (3, [2, 4, 6]), ("all", [2, 4, 6])])
def test_so_many_checkpoints_are_kept(train_on: TrainOn, make_rows: MakeRows, keep: int | str, left: list[int]) -> None:
    trained = train_on(make_rows(24), train={**TRAIN, "keep_checkpoints": keep})
    assert list(trained.result.kept_steps) == left
    assert sorted(path.name for path in (trained.folder / "checkpoints").glob("*")) == [f"step-{step}" for step in left]


@pytest.mark.parametrize("adapter", [{"rank": 4, "alpha": 8}, None], ids=["adapter", "all weights"])
def test_kept_weights_load_like_the_result(
    train_on: TrainOn, make_rows: MakeRows, weights_of: WeightsOf, tiny_model: Path, adapter: dict[str, int] | None
) -> None:
    """And are those of a run that ends at their step, where the schedule does not look ahead."""
    from hfkit.models.tuned import load_tuned
    from hfkit.recipe import AdapterSection, ModelSection

    settings = {**TRAIN, "schedule": "constant", "warmup": 0.0}
    trained = train_on(make_rows(24), model={"adapter": adapter}, train=settings)
    short = train_on(make_rows(24), model={"adapter": adapter}, train={**settings, "max_steps": 4})
    kept = trained.folder / "checkpoints" / "step-4"
    assert all(torch.equal(weight, weights_of(kept)[name]) for name, weight in short.weights.items())
    model = ModelSection(
        base=str(tiny_model), precision="fp32", adapter=None if adapter is None else AdapterSection(**adapter)
    )
    ids = torch.arange(3, 20).unsqueeze(0)
    with torch.no_grad():
        logits = [load_tuned(model, folder)[0](input_ids=ids).logits for folder in (kept, short.folder, trained.folder)]
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


def test_the_log_has_one_schema_and_ends_with_the_last_step(train_on: TrainOn, make_rows: MakeRows) -> None:
    rows = make_rows(22)
    validation = {"share": 3, "steps": 4, "samples": 0}
    trained = train_on(rows, train={**TRAIN, "log_steps": 2, "validation": validation})
    keys = {
        *("split", "step", "epoch", "loss", "learning_rate", "grad_norm"),
        *("tokens", "tokens_per_second", "seconds", "memory_bytes", "metrics"),
    }
    assert all(line.keys() == keys for line in trained.lines)
    assert [(line["split"], line["step"]) for line in trained.lines] == [
        ("train", 2),
        ("train", 4),
        ("validation", 4),
        ("train", 5),
        ("validation", 5),
    ]
    assert trained.result.tokens == trained.lines[-1]["tokens"] < sum(len(row["input_ids"]) for row in rows)
    assert trained.result.loss == trained.metrics[-1]["loss"]
    assert (trained.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
