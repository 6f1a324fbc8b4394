"""Metrics of likelihoods and labels: against numpy and scikit-learn on random cases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.rows import (
    Answer,
    ChoiceRow,
    Failed,
    Generation,
    GenerationRow,
    Likelihood,
    Likelihoods,
    PreferenceRow,
    Row,
    TextRow,
)
from rag.answer import ABSTENTION

FAILED = Failed(reason="timed out")


def likelihood(log_likelihood: float, tokens: int = 1, size: int = 1) -> Likelihood:
    return Likelihood(log_likelihood=log_likelihood, tokens=tokens, bytes=size, is_greedy=False)


def value(metric: Metric, rows: Sequence[Row], answers: Sequence[Answer]) -> float:
    numbers = [entry for entry in metric.rows(rows, answers) if entry is not None]
    return float(metric.value(np.asarray(numbers, np.float64).sum(axis=0)))


def choice(place: int, count: int, correct: int) -> ChoiceRow:
    return ChoiceRow(id=f"r{place}", group=f"r{place}", choices=tuple("abcdefg"[:count]), correct=correct)


def test_accuracies_are_those_of_the_likeliest_on_1000_random_choices() -> None:
    random = np.random.default_rng(1)
    rows, answers, best = [], [], {"accuracy": [], "accuracy_norm": [], "accuracy_per_token": []}
    for place in range(1000):
        count = int(random.integers(2, 6))
        logs, tokens = -random.exponential(9, count), random.integers(1, 9, count)
        sizes = tokens * random.integers(1, 5, count)
        rows.append(choice(place, count, int(random.integers(count))))
        answers.append(Likelihoods(of=tuple(map(likelihood, logs, tokens.tolist(), sizes.tolist()))))
        for name, length in (("accuracy", 1), ("accuracy_norm", sizes), ("accuracy_per_token", tokens)):
            best[name].append(int(np.argmax(logs / length)))
    for name, said in best.items():
        expected = accuracy_score([row.correct for row in rows], said)
        assert value(metric_named(name), rows, answers) == pytest.approx(expected, abs=1e-12)
    assert len({tuple(said) for said in best.values()}) == 3


def test_what_has_no_likelihood_is_not_right() -> None:
    metric = metric_named("accuracy")
    first = choice(0, 2, 0)
    for answer in (FAILED, Likelihoods(of=(likelihood(math.nan), likelihood(math.nan)))):
        assert metric.rows([first], [answer]) == [(0.0, 1.0)]
    assert metric.rows([first], [Likelihoods(of=(likelihood(-3), likelihood(-math.inf)))]) == [(1.0, 1.0)]
    with pytest.raises(ValueError, match="asks for 2 likelihoods and has 1"):
        metric.rows([first], [Likelihoods(of=(likelihood(-1),))])
    with pytest.raises(TypeError, match="is a reply"):
        metric.rows([first], [Generation(text="a", stopped=True)])
    with pytest.raises(TypeError, match="a row of kind text"):
        metric.rows([TextRow(id="t", group="t", text="a")], [Likelihoods(of=(likelihood(-1),))])


def test_a_preference_is_for_the_likelier_reply() -> None:
    random = np.random.default_rng(2)
    rows = [PreferenceRow(id=str(n), group=str(n), messages=(), chosen="a", rejected="b") for n in range(1000)]
    logs, sizes = -random.exponential(5, (1000, 2)), random.integers(1, 30, (1000, 2))
    answers: list[Answer] = [
        Likelihoods(of=(likelihood(one[0], 1, int(size[0])), likelihood(one[1], 1, int(size[1]))))
        for one, size in zip(logs, sizes, strict=True)
    ]
    assert value(metric_named("preference_accuracy"), rows, answers) == np.mean(logs[:, 0] > logs[:, 1])
    per_byte = logs / sizes
    found = value(metric_named("preference_accuracy_norm"), rows, answers)
    assert found == np.mean(per_byte[:, 0] > per_byte[:, 1])
    same = Likelihoods(of=(likelihood(-1), likelihood(-1)))
    assert value(metric_named("preference_accuracy"), rows[:2], [same, FAILED]) == 0


# Texts


def texts(*written: str) -> list[Row]:
    return [TextRow(id=str(place), group=str(place), text=text) for place, text in enumerate(written)]


def test_perplexity_is_exp_of_cross_entropy_on_1000_random_texts() -> None:
    """Against torch's own cross-entropy over all tokens."""
    import torch

    random = torch.Generator().manual_seed(3)
    answers, losses = [], []
    for _ in range(1000):
        tokens = int(torch.randint(1, 9, (), generator=random))
        logits = torch.randn(tokens, 11, generator=random, dtype=torch.float64)
        wanted = torch.randint(11, (tokens,), generator=random)
        losses.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
        answers.append(Likelihoods(of=(likelihood(-float(losses[-1].sum()), tokens, 3 * tokens),)))
    rows = texts(*["x"] * 1000)
    mean = float(torch.cat(losses).mean())
    assert value(metric_named("perplexity"), rows, answers) == pytest.approx(math.exp(mean), rel=1e-12)
    assert value(metric_named("bits_per_byte"), rows, answers) == pytest.approx(mean / 3 / math.log(2), rel=1e-12)


def test_a_model_that_knows_nothing_has_as_many_bits_per_byte_as_its_vocabulary() -> None:
    rows = texts("abcd")
    answers = [Likelihoods(of=(likelihood(4 * math.log(1 / 256), 4, 4),))]
    assert value(metric_named("bits_per_byte"), rows, answers) == pytest.approx(8)
    assert value(metric_named("perplexity"), rows, answers) == pytest.approx(256)


@pytest.mark.parametrize("lost", [FAILED, Likelihoods(of=(likelihood(math.nan, 4, 4),))])
@pytest.mark.parametrize("name", ["perplexity", "bits_per_byte"])
def test_a_text_without_a_likelihood_is_worse_than_any_a_model_would_give(name: str, lost: Answer) -> None:
    metric = metric_named(name)
    assert not metric.higher_is_better
    good = Likelihoods(of=(likelihood(-3.0, 4, 16),))
    rows = texts("a" * 16, "b" * 16)
    whole, part = value(metric, rows, [good, good]), value(metric, rows, [good, lost])
    assert math.isfinite(part) and part > 1.5 * whole
    assert value(metric_named("bits_per_byte"), rows, [lost, lost]) == pytest.approx(8)


# Labels


def test_macro_f1_is_scikit_learns_on_1000_random_sets_of_labels() -> None:
    random, metric = np.random.default_rng(5), metric_named("macro_f1")
    seen = set()
    for _ in range(1000):
        labels, count = int(random.integers(2, 5)), int(random.integers(1, 12))
        right, said = random.integers(labels, size=(2, count))
        rows = [choice(place, labels, int(label)) for place, label in enumerate(right)]
        answers: list[Answer] = [
            Likelihoods(of=tuple(likelihood(float(place == label) - 2) for place in range(labels))) for label in said
        ]
        expected = f1_score(right, said, average="macro", zero_division=0)
        assert value(metric, rows, answers) == pytest.approx(expected, abs=1e-12)
        seen.add(round(expected, 2))
    assert len(seen) > 30


def test_macro_f1_of_replies() -> None:
    metric = metric_named("reply_macro_f1")
    rows: list[Row] = [
        GenerationRow(id=str(place), group=str(place), messages=(), references=(label,) if label else ())
        for place, label in enumerate(["Yes", "yes.", "no", "maybe", ""])
    ]
    answers: list[Answer] = [Generation(text=text, stopped=True) for text in ("yes", "no", "No!", "perhaps", "yes")]
    # yes: one of two found, nothing else said so; no: found, and said once too often; maybe: not found.
    assert value(metric, rows, answers) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert value(metric, rows[:2], [FAILED, FAILED]) == 0


def test_labels_that_differ_from_row_to_row_have_no_f1() -> None:
    answers = [Likelihoods(of=tuple(likelihood(-1.0) for _ in range(count))) for count in (2, 3)]
    with pytest.raises(ValueError, match="the same labels in every row; r1 has others than a, b"):
        metric_named("macro_f1").rows([choice(0, 2, 0), choice(1, 3, 0)], answers)


# Grounded answers


def grounded(place: int, gold: object) -> GenerationRow:
    facts = {"gold": gold}
    return GenerationRow(id=str(place), group=str(place), messages=(), references=("",), facts=facts)  # type: ignore[arg-type]


def test_citations_are_scored_as_scikit_learn_scores_sets_on_1000_random_replies() -> None:
    random = np.random.default_rng(7)
    rows, answers, truth, said = [], [], np.zeros((1000, 6), int), np.zeros((1000, 6), int)
    for place in range(1000):
        gold = {int(n) for n in random.integers(1, 5, random.integers(1, 4))}
        cited = random.integers(1, 6, random.integers(0, 4)).tolist()
        truth[place, list(gold)], said[place, cited] = 1, 1
        fact = min(gold) if len(gold) == 1 and place % 2 else sorted(gold)
        rows.append(grounded(place, fact))
        answers.append(Generation(text=" and ".join(f"so [{n}]" for n in cited), stopped=True))
    expected = {
        "accuracy": accuracy_score(truth, said),
        "precision": precision_score(truth, said, average="samples", zero_division=0),
        "recall": recall_score(truth, said, average="samples"),
    }
    for name, of in expected.items():
        assert value(metric_named(f"citation_{name}"), rows, answers) == pytest.approx(of, abs=1e-12)
        assert 0.02 < of < 0.95


def test_abstention_is_scored_as_scikit_learn_scores_it_on_1000_random_sets() -> None:
    random = np.random.default_rng(9)
    precision, recall = metric_named("abstention_precision"), metric_named("abstention_recall")
    for count in range(1, 9):
        asked, said = random.integers(0, 2, (2, count, 125))
        with np.errstate(invalid="ignore"):
            precisions = precision_score(asked, said, average=None, zero_division=0)
            recalls = recall_score(asked, said, average=None, zero_division=np.nan)
        for column in range(125):
            rows = [grounded(place, None if none else 1) for place, none in enumerate(asked[:, column])]
            answers = [Generation(text=ABSTENTION if none else "so [1]", stopped=True) for none in said[:, column]]
            if not asked[:, column].any():  # no row asks for it: there is nothing to be right about
                precisions[column] = np.nan
            assert value(precision, rows, answers) == pytest.approx(precisions[column], nan_ok=True)
            assert value(recall, rows, answers) == pytest.approx(recalls[column], nan_ok=True)
            right = value(metric_named("abstention_accuracy"), rows, answers)
            assert right == pytest.approx(np.mean(asked[:, column] == said[:, column]))


def test_no_answer_neither_cites_nor_abstains_rightly() -> None:
    rows = [grounded(0, 1), grounded(1, None)]
    for name in ("citation_accuracy", "citation_precision", "citation_recall", "abstention_accuracy"):
        assert value(metric_named(name), rows, [FAILED, FAILED]) == 0
    for name in ("abstention_precision", "abstention_recall"):
        assert value(metric_named(name), rows, [FAILED, FAILED]) == 0
    abstains = Generation(text=ABSTENTION, stopped=True)
    assert value(metric_named("abstention_precision"), rows, [FAILED, abstains]) == 0.5


@pytest.mark.parametrize("fact", ["1", 1.5, True, [1, 1], {"a": 1}])
def test_a_gold_passage_that_is_none_is_named(fact: object) -> None:
    with pytest.raises(ValueError, match="the fact gold must be"):
        metric_named("citation_recall").rows([grounded(0, fact)], [Generation(text="", stopped=True)])
    unknown = GenerationRow(id="r", group="r", messages=(), references=("a",))
    assert metric_named("citation_recall").rows([unknown], [FAILED]) == [None]
