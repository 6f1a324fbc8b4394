"""Statistics of any metric: coverage, p-values, words, power, and what bad numbers do to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from hfkit.evaluation import resampling
from hfkit.evaluation.measuring import Measured
from hfkit.evaluation.metric import Metric, Numbers
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.metrics.row_mean import RowMean, ratio
from hfkit.evaluation.power import rows_needed, smallest_shown
from hfkit.evaluation.resampling import bootstrap, group_sums, permutation
from hfkit.evaluation.result import Difference
from hfkit.evaluation.rows import Answer, Row
from hfkit.evaluation.significance import effect_size, exact_interval, holm, mcnemar
from hfkit.evaluation.statistics import Pair, Resampled, bound, differences, resample, score

SIMULATED = 800


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hundred resamples: what chance adds to an interval is small beside what is asserted."""
    monkeypatch.setattr(resampling, "RESAMPLES", 500)


def _score(row: Row, answer: Answer) -> float:
    raise NotImplementedError


MEAN = RowMean("mean", "mean", _score)
SHARE = RowMean("share", "share", _score, is_binary=True)


def measured(metric: Metric, groups: Sequence[object] | None = None, **numbers: object) -> Measured:
    """Numbers of models by name: [rows, numbers], or the scores of a mean [rows]."""
    given: dict[str, Numbers] = {}
    for model, entries in numbers.items():
        array = np.asarray(entries, np.float64)
        given[model] = np.stack([array, np.ones(len(array))], axis=1) if array.ndim == 1 else array
    count = len(next(iter(given.values())))
    names = [f"g{group}" for group in (range(count) if groups is None else groups)]
    return Measured(metric, tuple(f"r{row}" for row in range(count)), tuple(names), given)


def compared(one: Measured, seed: int = 0) -> Difference:
    (found,) = differences([Pair(resample(one, seed=seed), "tuned", "base")])
    assert found is not None
    return found


# Coverage


Drawn = Callable[[np.random.Generator], Measured]


def _difference(random: np.random.Generator) -> Measured:
    """Scores of two models on 120 rows, which they find hard or easy alike; tuned is 0.1 better."""
    hard = random.normal(0, 0.4, 120)
    return measured(MEAN, base=0.4 + hard + random.normal(0, 0.3, 120), tuned=0.5 + hard + random.normal(0, 0.3, 120))


def _clustered(random: np.random.Generator) -> Measured:
    """From 1 to 6 rows of each of 40 documents, which share most of what is special about them."""
    sizes = random.integers(1, 7, 40)
    of = np.repeat(np.arange(40), sizes)
    return measured(MEAN, of, tuned=0.1 + random.normal(0, 0.3, 40)[of] + random.normal(0, 0.2, len(of)))


def _perplexity(random: np.random.Generator) -> Measured:
    """Texts of 20 to 200 tokens; the long ones are not harder."""
    tokens = random.integers(20, 200, 60).astype(float)
    return measured(
        metric_named("perplexity"), tuned=np.stack([tokens * random.normal(3, 0.6, 60), tokens, 4 * tokens], axis=1)
    )


def _bleu(random: np.random.Generator) -> Measured:
    """Replies of 5 to 30 words: each n-gram hits with a probability that differs from reply to reply."""
    said = random.integers(5, 30, 60)
    luck = random.beta(8, 4, 60)
    totals = np.stack([said - order for order in range(4)], axis=1)
    hits = random.binomial(totals, luck[:, None] ** np.arange(1, 5))
    return measured(metric_named("bleu"), tuned=np.concatenate([said[:, None], said[:, None], hits, totals], axis=1))


def _bleu_truth() -> float:
    luck = np.random.default_rng(0).beta(8, 4, 2_000_000)
    return float(100 * np.exp(np.mean([np.log((luck**order).mean()) for order in range(1, 5)])))


def _few(random: np.random.Generator) -> Measured:
    return measured(MEAN, tuned=random.normal(0.5, 0.3, 12))


@pytest.mark.parametrize(
    ("drawn", "truth", "lead"),
    [
        (_clustered, 0.1, False),
        (_difference, 0.1, True),
        (_perplexity, math.exp(3), False),
        (_bleu, _bleu_truth(), False),
        (_few, 0.5, False),
    ],
    ids=["clustered mean", "difference", "perplexity", "BLEU", "twelve rows"],
)
def test_an_interval_holds_the_truth_as_often_as_it_says(fewer: None, drawn: Drawn, truth: float, lead: bool) -> None:
    held = above = below = 0
    for seed in range(SIMULATED):
        found = resample(drawn(np.random.default_rng([seed, 3])), seed=seed)
        names = ("tuned", "base") if lead else ("tuned", None)
        interval = compared_interval(found) if lead else score(found, "tuned").interval
        assert interval is not None
        held += interval[0] <= truth <= interval[1]
        lowest, highest = (bound(found, *names, confidence=0.9, upper=upper) for upper in (False, True))
        assert lowest is not None and highest is not None
        above += lowest <= truth
        below += truth <= highest
    assert held / SIMULATED == pytest.approx(0.95, abs=0.02)
    assert above / SIMULATED == pytest.approx(0.90, abs=0.03)
    assert below / SIMULATED == pytest.approx(0.90, abs=0.03)


def compared_interval(found: Resampled) -> tuple[float, float]:
    return resampling.interval_of(found.lead_draws("tuned", "base"), found.groups, 0.95)


def test_percentiles_as_they_are_would_be_too_narrow_for_few_rows(fewer: None) -> None:
    """Why interval_of widens them: without that, one interval in ten misses where one in twenty may."""
    held = 0
    for seed in range(SIMULATED):
        draws = resample(_few(np.random.default_rng([seed, 3])), seed=seed).draws["tuned"]
        low, high = np.quantile(draws, [0.025, 0.975])
        held += low <= 0.5 <= high
    assert held / SIMULATED < 0.925


def test_rows_that_are_all_right_leave_room_for_wrong_ones() -> None:
    """Clopper and Pearson's interval: 3 of 100 by the rule of three, and nothing is certain after ten rows."""
    found = resample(measured(SHARE, tuned=[1] * 10, base=[0] * 10))
    interval = score(found, "tuned").interval
    assert interval == pytest.approx((0.025 ** (1 / 10), 1.0))
    assert bound(found, "tuned", confidence=0.95) == pytest.approx(0.05 ** (1 / 10))
    assert bound(found, "base", confidence=0.95, upper=True) == pytest.approx(1 - 0.05 ** (1 / 10))
    hundred = resample(measured(SHARE, tuned=[1] * 100))
    assert bound(hundred, "tuned", confidence=0.95) == pytest.approx(1 - 3 / 100, abs=0.001)
    # Ten rows of two documents are two trials, not ten.
    two = resample(measured(SHARE, [0, 1] * 5, tuned=[1] * 10))
    assert bound(two, "tuned", confidence=0.95) == pytest.approx(0.05 ** (1 / 2))


def test_clopper_and_pearsons_published_interval() -> None:
    """For 10 of 100, from the tables that textbooks print (Altman, Machin, Bryant and Gardner 2000)."""
    assert exact_interval(10, 100, 0.95) == pytest.approx((0.0490, 0.1762), abs=0.0001)


# The bootstrap and the permutation by hand


@dataclass(frozen=True)
class Longest:
    """A metric whose value is no mean: the ratio of sums, squared, and NaN without a denominator."""

    name: str = "longest"
    title: str = "longest"
    higher_is_better: bool = True
    is_binary: bool = False
    seen: list[int] = field(default_factory=list)

    def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
        raise NotImplementedError

    def value(self, sums: Numbers) -> Numbers:
        self.seen.append(sums.size)
        return ratio(sums[..., 0], sums[..., 1]) ** 2


def test_the_draws_are_those_of_drawing_groups_one_by_one() -> None:
    random = np.random.default_rng(4)
    numbers = random.random((30, 2))
    groups = [f"d{group}" for group in random.integers(0, 7, 30)]
    sums = group_sums(numbers, groups)
    names = sorted(set(groups))
    draws = bootstrap(Longest().value, sums, seed=9)
    assert len(draws) == resampling.RESAMPLES
    drawn = np.random.default_rng(9).integers(0, len(names), size=(1000, len(names)))
    for place in range(50):
        rows = np.concatenate([numbers[[group == names[which] for group in groups]] for which in drawn[place]])
        assert draws[place] == pytest.approx((rows[:, 0].sum() / rows[:, 1].sum()) ** 2)


def test_memory_does_not_grow_with_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same draws, however many are made at a time."""
    sums = np.random.default_rng(5).random((40, 3, 2))
    whole = bootstrap(Longest().value, sums, seed=1)
    monkeypatch.setattr(resampling, "_HELD", 40 * 7)
    metric = Longest()
    assert bootstrap(metric.value, sums, seed=1) == pytest.approx(whole, rel=1e-12)
    assert whole.shape == (resampling.RESAMPLES, 3)
    assert max(metric.seen) == 7 * 3 * 2


@pytest.mark.parametrize("seed", range(4))
def test_a_p_value_is_that_of_all_exchanges_of_a_ratio(seed: int) -> None:
    """With nine groups all 512 ways to exchange the models can be counted."""
    random = np.random.default_rng(seed)
    first, second = random.random((9, 2)) + 0.1, random.random((9, 2)) + 0.2
    value = Longest().value
    observed = abs(value(first.sum(axis=0)) - value(second.sum(axis=0)))
    as_large = []
    for swapped in product((False, True), repeat=9):
        mask = np.array(swapped)[:, None]
        one, other = np.where(mask, second, first), np.where(mask, first, second)
        as_large.append(abs(value(one.sum(axis=0)) - value(other.sum(axis=0))) >= observed - 1e-12)
    assert permutation(value, first, second, seed) == pytest.approx(np.mean(as_large), abs=0.02)


def test_a_sign_flip_p_value_is_scipys() -> None:
    """scipy's own paired permutation test, which counts all exchanges."""
    random = np.random.default_rng(8)
    base, tuned = random.normal(0.5, 0.2, 12), random.normal(0.6, 0.2, 12)
    reference = scipy.stats.permutation_test(
        (tuned, base), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    found = compared(measured(MEAN, base=base, tuned=tuned))
    assert (found.p_value, found.test) == (pytest.approx(reference.pvalue, abs=0.015), "permutation")


@pytest.mark.parametrize("name", ["bleu", "perplexity"])
def test_p_values_are_uniform_where_there_is_no_difference(fewer: None, name: str) -> None:
    draw = _bleu if name == "bleu" else _perplexity
    values = []
    for seed in range(SIMULATED):
        random = np.random.default_rng([seed, 6])
        base, tuned = draw(random), draw(random)
        first, second = (group_sums(one.numbers["tuned"], one.groups) for one in (base, tuned))
        values.append(permutation(base.metric.value, first, second, seed))
    for level in (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9):
        # Four standard deviations of the share that a fair test would reject.
        allowed = 4 * (level * (1 - level) / SIMULATED) ** 0.5
        assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=allowed)


# McNemar, Holm, effect sizes


@pytest.mark.parametrize("gained", range(8))
@pytest.mark.parametrize("lost", range(8))
def test_mcnemar_is_the_binomial_test_of_the_rows_that_changed(gained: int, lost: int) -> None:
    changed = gained + lost
    ways = [math.comb(changed, count) / 2**changed for count in range(changed + 1)]
    expected = min(1.0, 2 * sum(ways[: min(gained, lost) + 1])) if changed else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected)


def test_mcnemar_of_a_published_table() -> None:
    """Fagerland, Lydersen and Laake 2013, table 1 and 3: airway hyper-responsiveness before (1 changed) and after
    (7 changed) stem cell transplantation; the exact conditional test gives 0.0703."""
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=0.00005)


def test_a_binary_metric_is_tested_by_mcnemar_only_where_rows_stand_by_themselves() -> None:
    base, tuned = [1, 0, 0, 0, 0, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    alone = compared(measured(SHARE, base=base, tuned=tuned))
    assert (alone.test, alone.p_value) == ("mcnemar", pytest.approx(0.0703, abs=0.0001))
    assert alone.effect_size == pytest.approx(7 / 8 - 0.5)
    together = compared(measured(SHARE, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], base=base, tuned=tuned))
    assert together.test == "permutation"
    assert compared(measured(MEAN, base=base, tuned=tuned)).test == "permutation"


def test_holms_published_example() -> None:
    """Holm 1979, as worked out by Wright 1992 (Biometrics 48, table 1): 0.015, 0.04, 0.04 from 0.005, 0.02, 0.04."""
    assert holm([0.02, 0.005, 0.04]) == pytest.approx([0.04, 0.015, 0.04])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@settings(deadline=None)
@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=12))
def test_holm_by_its_definition(values: list[float]) -> None:
    """Step down: stop at the first that fails; the adjusted p-value is the smallest level at which one is rejected."""
    adjusted = holm(values)
    for level in (0.01, 0.05, 0.2):
        rejected: set[int] = set()
        for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
            if values[place] * (len(values) - rank) > level:
                break
            rejected.add(place)
        assert {place for place, p in enumerate(adjusted) if p <= level} == rejected
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))


def test_effect_sizes() -> None:
    base, tuned = np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 5, 5])
    assert effect_size(measured(MEAN, base=base, tuned=tuned), "tuned", "base") == pytest.approx(1 / (2 / 3) ** 0.5)
    assert effect_size(measured(MEAN, base=base, tuned=base + 1), "tuned", "base") is None
    assert effect_size(measured(MEAN, base=[1], tuned=[2]), "tuned", "base") is None
    assert effect_size(measured(SHARE, base=[1, 0], tuned=[1, 0]), "tuned", "base") is None
    texts = measured(metric_named("perplexity"), base=[[3, 2, 9], [4, 2, 9]], tuned=[[2, 2, 9], [4, 2, 9]])
    assert effect_size(texts, "tuned", "base") is None


# Power


def test_power_of_a_published_example() -> None:
    """Cohen 1988, section 2.4, as every power program gives it: an effect of half a standard deviation takes 32 pairs
    by the normal distribution (34 by t) at the two-sided level 0.05 and a power of 0.8."""
    assert rows_needed(1, 0.5, 1.0, 0.05) == 32
    assert smallest_shown(1 / 32**0.5, 0.05) == pytest.approx(0.5, abs=0.005)
    assert rows_needed(10, 0.0, 1.0, 0.05) is None and rows_needed(10, 0.1, 0.0, 0.05) is None
    assert rows_needed(1, 0.01, 1.0, 0.05) == 79_000


def test_so_many_rows_show_it_in_four_cases_of_five(fewer: None) -> None:
    """A difference of 0.4 standard deviations: what one small test set says is needed is enough."""
    asked = compared(measured(MEAN, base=[0.0] * 20, tuned=_scores(np.random.default_rng(4), 20)))
    assert asked.rows_needed is not None and asked.rows_needed > 20 and "no evidence" in asked.in_words
    needed = rows_needed(1, 0.4, 1.0, 0.05)
    assert needed == 50
    found = [
        compared(measured(MEAN, base=[0.0] * needed, tuned=_scores(np.random.default_rng([seed, 2]), needed)), seed)
        for seed in range(400)
    ]
    assert np.mean([one.rows_needed is None for one in found]) == pytest.approx(0.8, abs=0.06)


def _scores(random: np.random.Generator, count: int) -> list[float]:
    return random.normal(0.4, 1.0, count).tolist()


# Words


def test_words_for_better_worse_and_nothing() -> None:
    base = np.random.default_rng(2).random(40)
    assert compared(measured(MEAN, base=base, tuned=base + 0.2)).in_words == "tuned is better"
    assert compared(measured(MEAN, base=base, tuned=base - 0.2)).in_words == "tuned is worse"
    texts = np.stack([base + 2, np.ones(40), np.ones(40)], axis=1)
    lower = compared(measured(metric_named("perplexity"), base=texts, tuned=texts - [0.2, 0, 0]))
    assert (lower.in_words, lower.difference < 0) == ("tuned is better", True)
    same = compared(measured(MEAN, base=base, tuned=base))
    assert same.in_words == "no evidence of a difference: both do the same on every row"
    assert (same.rows_needed, same.p_value, same.interval) == (None, 1.0, (0.0, 0.0))
    noise = compared(measured(MEAN, base=base, tuned=np.random.default_rng(3).random(40)))
    assert noise.rows_needed is not None
    assert noise.in_words.startswith("no evidence of a difference: 40 rows can show one of about 0.1")
    assert noise.in_words.endswith(f"takes about {noise.rows_needed:,} rows")
    one = compared(measured(MEAN, [0] * 40, base=base, tuned=base + 0.2))
    assert one.in_words == "no evidence of a difference: one group of rows cannot show any"
    few = compared(measured(MEAN, [0, 1, 2] * 10, base=[0] * 30, tuned=[1] * 30))
    assert few.in_words == "no evidence of a difference: 3 groups of rows are too few to show any"


def test_what_is_shown_alone_may_not_be_among_many() -> None:
    random = np.random.default_rng(12)
    base = random.normal(0, 1, 60)
    real = measured(MEAN, base=base, tuned=base + random.normal(0.34, 1, 60))
    alone = compared(real)
    assert alone.in_words == "tuned is better" and 0.005 < alone.p_value < 0.05
    noise = [Pair(resample(measured(MEAN, base=base, tuned=base[::-1])), "tuned", "base") for _ in range(9)]
    found, *_ = differences([Pair(resample(real), "tuned", "base"), *noise])
    assert found is not None
    assert (found.p_value, found.p_adjusted) == (alone.p_value, pytest.approx(min(1, 10 * alone.p_value)))
    assert f"p = {alone.p_value:.2g} is not small enough among 10 comparisons" in found.in_words
    assert found.rows_needed is not None and found.rows_needed > 60


def test_a_family_of_no_differences_rarely_gives_an_alarm(fewer: None) -> None:
    alarms = 0
    for seed in range(150):
        random = np.random.default_rng([seed, 7])
        base = random.normal(0, 1, 30)
        pairs = [
            Pair(resample(measured(MEAN, base=base, tuned=base + random.normal(0, 1, 30)), seed=seed), "tuned", "base")
            for _ in range(5)
        ]
        found = differences(pairs)
        alarms += any(one is not None and "no evidence" not in one.in_words for one in found)
    assert alarms / 150 <= 0.05 + 4 * (0.05 * 0.95 / 150) ** 0.5


# Bad numbers


def test_no_rows_have_no_score_and_no_difference() -> None:
    empty = resample(measured(MEAN, base=[], tuned=[]))
    assert score(empty, "tuned").model_dump() == {"value": None, "interval": None, "rows": 0, "groups": 0}
    full = resample(measured(MEAN, base=[0, 1, 0], tuned=[1, 1, 1]))
    found = differences([Pair(empty, "tuned", "base"), Pair(full, "tuned", "base")])
    assert found[0] is None and found[1] is not None
    assert found[1].p_adjusted == found[1].p_value
    assert bound(empty, "tuned", confidence=0.95) is None


def test_a_metric_without_a_value_has_no_score() -> None:
    none = np.zeros((4, 2))
    some = none + np.array([[0, 1], [0, 0], [1, 1], [0, 0]])
    found = resample(measured(Longest(), base=none, tuned=some))
    assert score(found, "base").value is None and score(found, "base").rows == 4
    assert differences([Pair(found, "tuned", "base")]) == [None]
    assert bound(found, "tuned", "base", confidence=0.95) is None
    # One draw in sixteen misses both rows that count and has no value: too many for a sure claim, not for a weak one.
    tuned = score(found, "tuned")
    assert tuned.value == 0.25 and tuned.interval is None
    assert score(found, "tuned", confidence=0.8).interval == (0.0, 1.0)
    assert np.isnan(found.draws["tuned"]).any()
    assert bound(found, "tuned", confidence=0.95) is None
    assert bound(found, "tuned", confidence=0.7) == 0.0


@pytest.mark.parametrize("groups", [2, 3, 4, 5])
def test_too_few_groups_have_a_value_and_no_interval_and_say_so(groups: int) -> None:
    base = np.random.default_rng(2).random(40)
    numbers = measured(MEAN, [row % groups for row in range(40)], base=base, tuned=base + 0.2 + base / 10)
    found = resample(numbers)
    assert score(found, "tuned").value is not None and score(found, "tuned").interval is None
    one = compared(numbers)
    assert (one.interval, one.p_value > 0.05) == (None, True)
    assert f": {groups} groups of rows are too few to show any, which takes at least 6" in one.in_words
    assert score(found, "tuned", confidence=0.5).interval is not None


def test_one_group_has_a_value_and_no_interval() -> None:
    found = resample(measured(MEAN, [0, 0], base=[0, 1], tuned=[1, 1]))
    assert (score(found, "tuned").value, score(found, "tuned").interval) == (1.0, None)
    assert bound(found, "tuned", "base", confidence=0.95) is None


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from("abcd")), min_size=2, max_size=15))
def test_neither_the_order_of_rows_nor_that_of_models_matters(
    rows: list[tuple[int, int, str]],
) -> None:
    groups = [row[2] for row in rows]
    given_first = measured(MEAN, groups, base=[row[0] for row in rows], tuned=[row[1] for row in rows])
    turned = measured(MEAN, groups[::-1], tuned=[row[1] for row in rows[::-1]], base=[row[0] for row in rows[::-1]])
    found, other = compared(given_first, seed=3), compared(turned, seed=3)
    assert found == compared(given_first, seed=3)
    assert other.difference == pytest.approx(found.difference, abs=1e-12)
    assert other.interval == pytest.approx(found.interval, abs=1e-9)
    assert other.p_value == found.p_value
