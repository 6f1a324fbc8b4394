"""When a loss has left its course, and when it is only odd."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.recipe import TrainSection
from hfkit.training.callbacks import WatchSteps
from hfkit.training.course import Course
from hfkit.training.guard import BEFORE, JUDGED, MOST_SKIPPED, find_divergence, what_is_no_number
from hfkit.training.state import TrainingState


def judged_at_every_step(losses: list[float]) -> list[int]:
    """The steps at which a run with these losses would be ended, the first step being 1."""
    window = BEFORE + JUDGED
    return [step for step in range(1, len(losses) + 1) if find_divergence(losses[max(0, step - window) : step], step)]


@given(course=st.floats(0.01, 12), noise=st.lists(st.floats(0.5, 1.99), min_size=80, max_size=160))
@settings(deadline=None)
def test_noise_around_a_course_is_no_divergence(course: float, noise: list[float]) -> None:
    assert judged_at_every_step([course * one for one in noise]) == []


@given(start=st.floats(1, 12), falling=st.floats(0.8, 1.0))
@settings(deadline=None)
def test_a_falling_loss_is_no_divergence(start: float, falling: float) -> None:
    assert judged_at_every_step([start * falling**step for step in range(150)]) == []


@given(places=st.sets(st.integers(0, 149), max_size=30), height=st.floats(10, 1e6))
@settings(deadline=None)
def test_odd_steps_are_no_divergence_however_odd(places: set[int], height: float) -> None:
    """But for four in any ten."""
    losses = [1.0] * 150
    for place in sorted(places):
        if sum(loss > 1 for loss in losses[max(0, place - 9) : place]) < 4:
            losses[place] = height
    assert judged_at_every_step(losses) == []


def test_a_loss_that_doubles_near_zero_is_no_divergence() -> None:
    assert judged_at_every_step([0.01] * 60 + [0.5] * 60) == []


@given(course=st.floats(0.01, 5), more=st.floats(0.01, 100), before=st.integers(60, 100))
@settings(deadline=None)
def test_a_loss_that_left_its_course_is_found_within_ten_steps(course: float, more: float, before: int) -> None:
    losses = [course] * before + [2 * course + 1 + more] * 12
    steps = judged_at_every_step(losses)
    assert steps and before < steps[0] <= before + 10
    found = find_divergence(losses[: steps[0]][-(BEFORE + JUDGED) :], steps[0])
    assert found is not None
    assert found.step == before + 1, "the step is named at which it left, not that at which it was seen"
    assert found.before == pytest.approx(course) and found.now > 2 * found.before + 1


def test_a_young_run_has_no_course_to_leave() -> None:
    assert judged_at_every_step([1.0] * 15 + [100.0] * 10) == []


def test_steps_that_float16_skips_are_counted_until_one_is_taken() -> None:
    state = TrainingState()
    for norm in (math.inf, math.nan, math.inf):
        state.count_skipped(norm)
    assert state.skipped == 3
    state.count_skipped(1.0)
    assert state.skipped == 0
    # Its scale begins at 2^16 and is halved with each.
    assert MOST_SKIPPED > 17


def test_a_run_of_which_every_step_is_skipped_is_ended(tmp_path: Path) -> None:
    course = Course(TrainSection(), tmp_path, TrainingState(), [], is_main=True)
    watch: Any = SimpleNamespace(course=course)
    logs = {"loss": 1.0, "grad_norm": math.inf}
    faults = [WatchSteps._fault(watch, step, logs, scaled=True) for step in range(1, MOST_SKIPPED + 1)]
    assert not any(faults[:-1])
    assert faults[-1] is not None and f"the gradient's norm is inf at step {MOST_SKIPPED}" in faults[-1]


def test_what_is_no_number_is_named() -> None:
    assert what_is_no_number(1.0, 2.0) is None and what_is_no_number(1.0, None) is None
    assert what_is_no_number(math.nan, 2.0) == "the loss is nan"
    assert what_is_no_number(1.0, math.inf) == "the gradient's norm is inf"
