"""Intervals that hold what they promise, p-values that are uniform where there is nothing to find."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.evaluation import resampling
from hfkit.evaluation.fewest_groups import fewest_groups
from hfkit.evaluation.statistics import Comparison, compare, interval, lower_bound

SIMULATED = 800


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hundred resamples: what chance adds to an interval is small beside what is asserted."""
    monkeypatch.setattr(resampling, "RESAMPLES", 500)


def clustered(
    random: np.random.Generator, documents: int = 50, rows: int | None = None
) -> tuple[list[float], list[str]]:
    """Differences between two models, of mean 0.1: rows of a document share most of theirs. A document has one to six
    rows, or as many as said."""
    sizes = random.integers(1, 7, size=documents) if rows is None else np.full(documents, rows)
    shared = np.repeat(random.normal(0, 0.3, size=documents), sizes)
    values = 0.1 + shared + random.normal(0, 0.2, size=len(shared))
    return values.tolist(), [f"d{number}" for number in np.repeat(np.arange(documents), sizes)]


def compared(differences: Sequence[float], documents: Sequence[str], seed: int) -> Comparison:
    return compare([0.0] * len(differences), differences, documents, seed=seed)


def holds(found: tuple[float, float] | None) -> bool:
    assert found is not None
    return found[0] <= 0.1 <= found[1]


def is_below(bound: float | None) -> bool:
    assert bound is not None
    return bound <= 0.1


def test_an_interval_holds_the_truth_as_often_as_it_says(fewer: None) -> None:
    held = held_by_rows = above = 0
    for seed in range(SIMULATED):
        differences, documents = clustered(np.random.default_rng([seed, 1]))
        held += holds(interval(differences, documents, seed=seed))
        above += is_below(lower_bound(differences, documents, confidence=0.9, seed=seed))
        held_by_rows += holds(interval(differences, [str(row) for row in range(len(differences))], seed=seed))
    assert held / SIMULATED == pytest.approx(0.95, abs=0.02)
    assert above / SIMULATED == pytest.approx(0.90, abs=0.02)
    # Were rows taken for independent, the interval would be far too narrow.
    assert held_by_rows / SIMULATED < 0.85


@pytest.mark.parametrize(("confidence", "bound_takes", "interval_takes"), [(0.9, 4, 5), (0.95, 5, 6)])
def test_few_documents_are_as_sure_as_they_say_or_say_nothing(
    fewer: None, confidence: float, bound_takes: int, interval_takes: int
) -> None:
    """One document fewer is not asked for a bound that it could not keep: by chance alone all of n lie on one side of
    the truth in 0.5 ** n of test sets."""
    assert (fewest_groups(confidence, sides=1), fewest_groups(confidence, sides=2)) == (bound_takes, interval_takes)
    assert 0.5**bound_takes <= 1 - confidence < 0.5 ** (bound_takes - 1)
    above = within = 0
    for seed in range(SIMULATED):
        random = np.random.default_rng([seed, 3])
        few, more = clustered(random, bound_takes, rows=3), clustered(random, interval_takes, rows=3)
        above += is_below(lower_bound(*few, confidence=confidence, seed=seed))
        within += holds(interval(*more, confidence=confidence, seed=seed))
    assert above / SIMULATED > confidence - 0.03
    assert within / SIMULATED > confidence - 0.03
    for documents in range(1, bound_takes):
        assert lower_bound(*clustered(random, documents), confidence=confidence) is None
    for documents in range(1, interval_takes):
        assert interval(*clustered(random, documents), confidence=confidence) is None


def test_p_values_are_uniform_where_there_is_no_difference(fewer: None) -> None:
    values = []
    for seed in range(SIMULATED):
        differences, documents = clustered(np.random.default_rng([seed, 2]))
        values.append(compared([value - 0.1 for value in differences], documents, seed).p_value)
    for level in (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9):
        # Four standard deviations of the share that a fair test would reject.
        allowed = 4 * (level * (1 - level) / SIMULATED) ** 0.5
        assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=allowed)


SCORES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("abcdefgh")),
    min_size=1,
    max_size=25,
)


def columns(rows: Sequence[tuple[float, float, str]]) -> tuple[list[float], list[float], list[str]]:
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def figures(found: Comparison) -> list[float]:
    return [found.base, found.tuned, found.difference, *(found.interval or ()), found.p_value]


@settings(deadline=None, max_examples=60)
@given(SCORES, st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(rows: list[tuple[float, float, str]], seed: int) -> None:
    found = compare(*columns(rows), seed=seed)
    shuffled = sorted(rows, key=lambda row: (row[1], row[2], row[0]))
    assert figures(compare(*columns(shuffled), seed=seed)) == pytest.approx(figures(found), abs=1e-9)
    assert figures(compare(*columns(rows[::-1]), seed=seed)) == pytest.approx(figures(found), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(SCORES, st.integers(0, 99))
def test_exchanging_the_models_turns_the_difference_round(rows: list[tuple[float, float, str]], seed: int) -> None:
    base, tuned, documents = columns(rows)
    found, turned = compare(base, tuned, documents, seed=seed), compare(tuned, base, documents, seed=seed)
    assert (turned.base, turned.tuned) == (found.tuned, found.base)
    assert turned.difference == pytest.approx(-found.difference, abs=1e-12)
    assert turned.p_value == pytest.approx(found.p_value, abs=1e-12)
    if found.interval is None:
        assert turned.interval is None
    else:
        assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(SCORES, st.integers(0, 99))
def test_what_a_comparison_says_fits_together(rows: list[tuple[float, float, str]], seed: int) -> None:
    base, tuned, documents = columns(rows)
    found = compare(base, tuned, documents, seed=seed)
    assert found.difference == pytest.approx(found.tuned - found.base, abs=1e-12)
    assert 0 < found.p_value <= 1
    assert (found.rows, found.documents, found.confidence) == (len(rows), len(set(documents)), 0.95)
    assert compare(base, tuned, documents, seed=seed) == found
    narrow = compare(base, tuned, documents, seed=seed, confidence=0.5)
    assert (found.interval is None) == (len(set(documents)) < 6)
    if found.interval is None or narrow.interval is None:
        return
    assert min(t - b for b, t in zip(base, tuned, strict=True)) - 1e-9 <= found.interval[0]
    assert found.interval[0] <= narrow.interval[0] <= narrow.interval[1] <= found.interval[1]


@pytest.mark.parametrize("seed", range(6))
def test_a_p_value_is_that_of_all_exchanges(seed: int) -> None:
    """With nine documents all 512 ways to exchange the models can be counted."""
    random = np.random.default_rng(seed)
    documents = [str(name) for name in random.integers(0, 9, size=40)]
    differences = random.normal(0.15, 0.5, size=40)
    sums = [differences[[name == document for name in documents]].sum() for document in sorted(set(documents))]
    totals = [abs(np.dot(signs, sums)) for signs in product((-1, 1), repeat=len(sums))]
    exact = np.mean([total >= abs(sum(sums)) - 1e-12 for total in totals])
    assert compared(differences.tolist(), documents, seed).p_value == pytest.approx(exact, abs=0.02)


def test_a_clear_difference_and_none() -> None:
    documents = [f"d{row // 2}" for row in range(60)]
    base = [0.2, 0.4] * 30
    better = compare(base, [score + 0.3 for score in base], documents)
    assert better.difference == pytest.approx(0.3)
    assert better.interval == pytest.approx((0.3, 0.3))
    assert better.p_value < 0.001
    worse = compare([score + 0.3 for score in base], base, documents)
    assert worse.interval == pytest.approx((-0.3, -0.3))
    same = compare(base, base, documents)
    assert (same.difference, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)


@pytest.mark.parametrize("documents", [1, 2, 3])
def test_a_few_documents_prove_nothing(documents: int) -> None:
    """Whatever they say: with three, one comparison in four comes out on one side by chance."""
    names = [f"d{row % documents}" for row in range(30)]
    found = compare([0.0] * 30, [1.0] * 30, names)
    assert found.p_value >= 0.2


def test_the_mean_is_over_rows_and_not_over_documents() -> None:
    found = compare([0.0] * 4, [1.0, 0.0, 0.0, 0.0], ["a", "b", "b", "b"])
    assert (found.tuned, found.difference) == (0.25, 0.25)


@settings(deadline=None, max_examples=40)
@given(SCORES, st.integers(0, 99))
def test_a_lower_bound_is_lower_the_surer_it_is(rows: list[tuple[float, float, str]], seed: int) -> None:
    _, scores, documents = columns(rows)
    levels = (0.5, 0.9, 0.95, 0.99)
    found_bounds = [lower_bound(scores, documents, confidence=level, seed=seed) for level in levels]
    # Too few say nothing about others.
    possible = [len(set(documents)) >= fewest_groups(level, sides=1) for level in levels]
    assert [bound is not None for bound in found_bounds] == possible
    bounds = [bound for bound in found_bounds if bound is not None]
    assert bounds == sorted(bounds, reverse=True)
    assert all(min(scores) - 1e-9 <= bound <= max(scores) + 1e-9 for bound in bounds)
    found = compare([0.0] * len(scores), scores, documents, seed=seed, confidence=0.9)
    assert (found.interval is not None) == possible[2]
    if found.interval is not None:
        assert found_bounds[2] == pytest.approx(found.interval[0], abs=1e-9)
        assert lower_bound([0.5] * len(scores), documents, confidence=0.95) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("base", "tuned", "documents"),
    [
        ([], [], []),
        ([1.0], [], ["a"]),
        ([1.0], [1.0, 0.0], ["a"]),
        ([1.0, 0.0], [1.0, 0.0], ["a"]),
        ([1.0], [1.0], []),
    ],
)
def test_rows_that_do_not_match_are_refused(base: list[float], tuned: list[float], documents: list[str]) -> None:
    with pytest.raises(ValueError, match="the same rows, at least one"):
        compare(base, tuned, documents)
