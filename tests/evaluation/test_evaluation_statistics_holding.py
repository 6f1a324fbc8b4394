"""Gates hold by a bound and not by luck, whichever way is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from hfkit.evaluation.holding import held, held_not_worse
from hfkit.evaluation.measuring import Measured
from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.statistics import Resampled, lower_bound, resample

BASE = np.random.default_rng(0).random(60)
GAIN = np.random.default_rng(1).normal(0.1, 0.1, 60)
DOCUMENTS = [f"d{row // 2}" for row in range(60)]


def resampled(metric: Metric, documents: Sequence[str] = DOCUMENTS, **models: NDArray[np.float64]) -> Resampled:
    width = 3 if metric.name == "perplexity" else 2
    numbers = {
        name: np.concatenate([scores[:, None], np.ones((len(scores), width - 1))], axis=1)
        for name, scores in models.items()
    }
    ids = tuple(f"r{row}" for row in range(len(documents)))
    return resample(Measured(metric, ids, tuple(documents), numbers), seed=5)


F1, PERPLEXITY = metric_named("token_f1"), metric_named("perplexity")


def test_a_lead_must_reach_the_margin_surely() -> None:
    found = resampled(F1, base=BASE, tuned=BASE + GAIN)
    expected = lower_bound(GAIN.tolist(), DOCUMENTS, confidence=0.95, seed=5)
    assert expected is not None and 0.06 < expected < 0.1 < GAIN.mean() + 0.02
    sure = held("g", found, "tuned", "base", margin=0.05)
    assert (sure.gate, sure.holds, sure.needed) == ("g", True, 0.05)
    assert sure.at_least == pytest.approx(expected, abs=1e-12)
    # The value passes, the bound does not.
    lucky = held("g", found, "tuned", "base", margin=float(GAIN.mean()) - 0.005)
    assert not lucky.holds
    weaker = held("g", found, "tuned", "base", margin=lucky.needed, confidence=0.5)
    assert weaker.holds and weaker.at_least is not None and weaker.at_least > expected


def test_a_value_must_reach_the_bound_surely() -> None:
    found = resampled(F1, tuned=BASE)
    at_least = held("g", found, "tuned", margin=0.0).at_least
    assert at_least == pytest.approx(lower_bound(BASE.tolist(), DOCUMENTS, confidence=0.95, seed=5))
    assert at_least is not None and at_least < BASE.mean()
    assert not held("g", found, "tuned", margin=float(BASE.mean())).holds


def test_less_is_better_for_perplexity() -> None:
    found = resampled(PERPLEXITY, base=2 + BASE, tuned=2 + BASE - GAIN)
    lead = found.values["tuned"] - found.values["base"]
    assert lead < -0.5
    at_most = held("g", found, "tuned", "base", relation="<=", margin=0.0)
    assert at_most.holds and at_most.at_least is not None and lead < at_most.at_least < 0
    assert not held("g", found, "base", "tuned", relation="<=", margin=0.0).holds
    assert held("g", found, "tuned", relation="<=", margin=found.values["tuned"] + 2).holds
    assert not held("g", found, "tuned", relation="<=", margin=found.values["tuned"]).holds


@pytest.mark.parametrize("metric", [F1, PERPLEXITY], ids=["more is better", "less is better"])
def test_not_worse_than(metric: Metric) -> None:
    toward = 1.0 if metric.higher_is_better else -1.0
    better = resampled(metric, base=1 + BASE, tuned=1 + BASE + toward * GAIN)
    worse = resampled(metric, base=1 + BASE, tuned=1 + BASE - toward * GAIN)
    same = resampled(metric, base=1 + BASE, tuned=1 + BASE)
    assert held_not_worse("g", better, "tuned", "base").holds
    assert held_not_worse("g", same, "tuned", "base").holds
    assert not held_not_worse("g", worse, "tuned", "base").holds
    loss = abs(worse.values["tuned"] - worse.values["base"])
    assert held_not_worse("g", worse, "tuned", "base", by=2 * loss).holds
    # A loss as large as what is allowed is not surely less than it.
    assert not held_not_worse("g", worse, "tuned", "base", by=loss).holds


def test_a_guard_of_noise_needs_rows() -> None:
    """Two models that are equally good, and too few rows to say so: the gate does not hold for want of evidence."""
    random = np.random.default_rng(3)
    few = resampled(F1, [f"d{row}" for row in range(8)], base=random.random(8), tuned=random.random(8))
    assert not held_not_worse("g", few, "tuned", "base", by=0.02).holds


def test_too_few_documents_or_no_value_do_not_hold() -> None:
    one = resampled(F1, ["d"] * 60, base=BASE, tuned=BASE + 1)
    assert held("g", one, "tuned", "base", margin=0.0).model_dump() == {
        "gate": "g",
        "at_least": None,
        "needed": 0.0,
        "holds": False,
        "why": "a confidence of 0.95 takes at least 5 test documents (groups of rows), and there are 1",
    }
    none = resampled(F1, [], base=np.empty(0), tuned=np.empty(0))
    assert not held("g", none, "tuned", margin=0.0).holds
    assert not held_not_worse("g", none, "tuned", "base", by=1).holds


@pytest.mark.parametrize("documents", [2, 3, 4])
def test_a_gate_is_not_met_by_fewer_documents_than_its_confidence_takes(documents: int) -> None:
    few = resampled(F1, [f"d{row % documents}" for row in range(60)], base=BASE, tuned=BASE + 0.5 + GAIN)
    for found in (
        held("g", few, "tuned", "base", margin=0.0),
        held("g", few, "tuned", margin=0.0),
        held("g", few, "tuned", margin=9.0, relation="<="),
        held_not_worse("g", few, "tuned", "base", by=1),
    ):
        assert (found.holds, found.at_least) == (False, None)
        assert found.why is not None and "at least 5 test documents" in found.why
        assert f"there are {documents}" in found.why
    enough = resampled(F1, [f"d{row % 5}" for row in range(60)], base=BASE, tuned=BASE + 0.5 + GAIN)
    met = held("g", enough, "tuned", "base", margin=0.0)
    assert met.holds and met.why is None
    assert held("g", few, "tuned", "base", margin=0.0, confidence=0.7).holds


def test_five_rows_that_are_all_right_do_not_prove_nine_in_ten() -> None:
    exact = metric_named("exact_match")
    few = resampled(exact, [f"d{row}" for row in range(5)], tuned=np.ones(5))
    found = held("g", few, "tuned", margin=0.9)
    assert (found.holds, found.at_least) == (False, pytest.approx(0.05 ** (1 / 5)))
    many = resampled(exact, [f"d{row}" for row in range(60)], tuned=np.ones(60))
    assert held("g", many, "tuned", margin=0.9).holds
