"""What is left when a run goes on under other conditions, or from nothing: what is said of it, and what is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.errors import WorkError
from hfkit.training.callbacks import WatchSteps
from hfkit.training.determinism import determinism_in_words
from hfkit.training.guard import JUDGED
from hfkit.training.state import Conditions, TrainingState
from hfkit.training.weights import kept_steps, kept_weights, rotate_kept

if TYPE_CHECKING:
    from transformers import TrainerState

    from hfkit.training.collation import TrainingRow
    from tests.training.conftest import Trained

ONE = Conditions(threads=1, processes=1, precision="fp32", device="a processor", versions={"torch": "2.13.0"})


# What is promised.


def test_a_run_under_the_same_conditions_promises_the_same_bits_however_often_it_went_on() -> None:
    state = TrainingState()
    assert state.go_on(0, ONE) == []
    # As a checkpoint holds it.
    state = TrainingState.model_validate_json(state.model_dump_json())
    assert state.go_on(4, ONE) == [] and len(state.parts) == 1
    promised = determinism_in_words(state.parts, limited_by_time=False)
    assert promised.startswith("the same bits") and "1 thread of one kind of processor" in promised


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"threads": 2}, "threads 2 instead of 1"),
        ({"processes": 2}, "processes 2 instead of 1"),
        ({"precision": "bf16"}, "precision bf16 instead of fp32"),
        ({"device": "another"}, "device another instead of a processor"),
        ({"versions": {"torch": "2.14.0"}}, "torch 2.14.0 instead of 2.13.0"),
        ({"versions": {"torch": "2.13.0", "peft": "0.21"}}, "peft 0.21 instead of none"),
    ],
)
def test_a_run_that_went_on_under_other_conditions_promises_nothing(changed: dict[str, Any], words: str) -> None:
    other = ONE.model_copy(update=changed)
    state = TrainingState()
    state.go_on(0, ONE)
    assert state.go_on(4, other) == [words]
    # Nor when it comes back to the first ones.
    for conditions in (other, ONE):
        state = TrainingState.model_validate_json(state.model_dump_json())
        state.go_on(6, conditions)
        promised = determinism_in_words(state.parts, limited_by_time=False)
        assert promised.startswith("none: the run was interrupted")
        assert f"after step 4 it went on with {words}" in promised and "the same bits" not in promised


# What is kept.


def test_where_no_checkpoint_is_whole_training_starts_over_and_loses_no_weights(
    train_on: Callable[..., Trained],
    make_rows: Callable[..., list[TrainingRow]],
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rows, folder = make_rows(24), workplace / "interrupted"
    sections: dict[str, Any] = {"train": {"epochs": 1, "batch_size": 4, "save_steps": 2}}

    def power_cut(self: object, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        if state.global_step == 5:
            raise WorkError("the power was cut")

    with monkeypatch.context() as patch:
        patch.setattr(WatchSteps, "on_step_end", power_cut)
        with pytest.raises(WorkError, match="the power was cut"):
            train_on(rows, continued=folder, **sections)
    for step in (2, 4):
        (folder / ".checkpoints" / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"")
    said: list[str] = []
    monkeypatch.setattr("hfkit.progress.Progress.say", lambda self, text: said.append(text))
    done = train_on(rows, continued=folder, **sections)
    assert done.result.continued_from_step == 0 and done.result.kept_steps == (2, 4, 6)
    told = "\n".join(said)
    assert "checkpoint-4 is damaged (optimizer.pt is not what was written); the one before it is looked at" in told
    assert "checkpoint-2 is damaged (optimizer.pt is not what was written); no whole checkpoint is left" in told
    aside = folder / "checkpoints-of-the-interrupted-run"
    assert f"training starts over; the weights that the interrupted run kept are now in {aside}" in told
    assert {path.name for path in aside.iterdir()} == {"step-2", "step-4"}
    assert all((path / "adapter" / "adapter_model.safetensors").is_file() for path in aside.iterdir())


# What the guard may send the user back to.


@given(save_steps=st.integers(1, 12), keep=st.integers(1, 4), last=st.integers(30, 60))
@settings(deadline=None, max_examples=25)
def test_under_the_guard_weights_from_before_the_judged_steps_stay(
    tmp_path_factory: pytest.TempPathFactory, save_steps: int, keep: int, last: int
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    for step in range(save_steps, last + 1, save_steps):
        kept_weights(folder, step).mkdir(parents=True)
        rotate_kept(folder, keep, None, guarded_to=step)
        kept = kept_steps(folder)
        assert kept[-keep:] == list(range(save_steps, step + 1, save_steps))[-keep:]
        assert len(kept) <= keep + 2
        if step >= save_steps + 2 * JUDGED:
            # Until the next ones are kept, the loss may turn out to have left its course at any of these steps.
            for following in range(step + 1, step + save_steps + 1):
                good = [each for each in kept if each < following - JUDGED + 1]
                assert good and good[-1] >= step - 2 * JUDGED - save_steps, "from before it, and not long before"
    rotate_kept(folder, keep, None)
    assert len(kept_steps(folder)) == min(keep, last // save_steps), "what a finished run leaves is what was asked for"
    shutil.rmtree(folder)
