"""What every metric has in common: its name and settings, how its numbers add up, and the module of `evaluate`."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.evaluation.metric import Metric
from hfkit.evaluation.metrics import METRIC_NAMES, METRICS, metric_named
from hfkit.evaluation.metrics.words import token_f1, words
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

SETTINGS: dict[str, dict[str, object]] = {"regex": {"pattern": "[0-9]"}, "json_schema": {"schema": {"type": "integer"}}}


def made(name: str) -> Metric:
    return metric_named(name, **SETTINGS.get(name, {}))  # type: ignore[arg-type]


def cases(name: str, count: int, seed: int = 1) -> tuple[list[Row], list[Answer]]:
    """Rows of the metric's kind, and answers to them; every fifth has failed."""
    choose = random.Random(seed)
    rows: list[Row] = []
    answers: list[Answer] = []
    for place in range(count):
        of = {"id": f"r{place}", "group": f"g{place // 3}"}
        likelihoods = [
            Likelihood(log_likelihood=-choose.random() * 9, tokens=choose.randint(1, 5), bytes=9, is_greedy=False)
            for _ in range(3)
        ]
        reply = choose.choice(["1", "2 cats [1]", "the cat sat on the mat", "The documents do not say.", "[2] 3", ""])
        if METRICS[name].kind == "choice":
            rows.append(ChoiceRow(**of, choices=("a", "b", "c"), correct=choose.randrange(3)))
            answers.append(Likelihoods(of=tuple(likelihoods)))
        elif METRICS[name].kind == "preference":
            rows.append(PreferenceRow(**of, messages=(), chosen="a", rejected="b"))
            answers.append(Likelihoods(of=tuple(likelihoods[:2])))
        elif METRICS[name].kind == "text":
            rows.append(TextRow(**of, text="a" * 9))
            answers.append(Likelihoods(of=tuple(likelihoods[:1])))
        else:
            gold: dict[str, object] = {"gold": choose.choice([1, 2, None])} if "c" in name[:1] or "abst" in name else {}
            asked = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
            facts = asked if name.startswith("constraints") else gold
            references = (choose.choice(["1", "2 cats", "the cat sat on a mat"]),)
            rows.append(GenerationRow(**of, messages=(), references=references, facts=facts))  # type: ignore[arg-type]
            answers.append(Generation(text=reply, stopped=True))
        if place % 5 == 4:
            answers[-1] = Failed(reason="timed out")
    return rows, answers


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_numbers_add_up_to_a_value_of_any_number_of_sums_at_once(name: str) -> None:
    metric = made(name)
    assert (metric.name, metric.higher_is_better) == (name, METRICS[name].higher_is_better)
    assert metric.title and (METRICS[name].is_share or not metric.is_binary)
    rows, answers = cases(name, 30)
    numbers = metric.rows(rows, answers)
    assert len(numbers) == 30
    array = np.asarray([entry for entry in numbers if entry is not None], np.float64)
    assert array.ndim == 2 and np.isfinite(array).all()
    weights = np.random.default_rng(2).integers(0, 3, (4, 5, len(array))).astype(np.float64)
    weights[0, 0] = 0
    values = metric.value(weights @ array)
    assert values.shape == (4, 5)
    for place in np.ndindex(4, 5):
        # Rows that are drawn twice count twice, in one value at a time as in all at once.
        repeated = np.repeat(array, weights[place].astype(int), axis=0)
        assert values[place] == pytest.approx(float(metric.value(repeated.sum(axis=0))), nan_ok=True)
    # Nothing drawn is nothing to say, or nothing found.
    assert np.isnan(values[0, 0]) or values[0, 0] == 0
    if metric.is_binary:
        assert set(np.unique(metric.value(array))) <= {0.0, 1.0}
    if METRICS[name].is_share:
        assert np.nanmin(values) >= 0 and np.nanmax(values) <= 1


# These know no worst answer: a longer one, or another wrong label, may always cost more. See below.
WITHOUT_A_WORST = ("bleu", "chrf", "macro_f1", "reply_macro_f1")


@pytest.mark.parametrize("name", [name for name in METRIC_NAMES if name not in WITHOUT_A_WORST])
def test_no_model_gains_by_failing(name: str) -> None:
    metric = made(name)
    rows, answers = cases(name, 30, seed=3)
    scored = [place for place, entry in enumerate(metric.rows(rows, answers)) if entry is not None]
    whole = _value(metric, rows, answers)
    for place in scored:
        lost = [Failed(reason="timed out") if other == place else answer for other, answer in enumerate(answers)]
        numbers = metric.rows(rows, lost)
        assert numbers[place] is not None
        worse = _value(metric, rows, lost)
        assert worse <= whole + 1e-9 if metric.higher_is_better else worse >= whole - 1e-9


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_failing_is_worth_no_more_than_a_wrong_reply_as_long_as_the_reference(name: str) -> None:
    metric = made(name)
    rows, answers = cases(name, 30, seed=3)
    for place, row in enumerate(rows):
        assert isinstance(row, GenerationRow)
        wrong = "".join("q" if character != " " else " " for character in row.references[0])
        by_failing, by_saying, by_knowing = (
            _value(metric, rows, [other if at != place else answer for at, other in enumerate(answers)])
            for answer in (
                Failed(reason="timed out"),
                Generation(text=wrong, stopped=True),
                Generation(text=row.references[0], stopped=True),
            )
        )
        assert by_failing == pytest.approx(by_saying) if name == "bleu" else by_failing <= by_saying + 1e-9
        assert by_failing < by_knowing


def test_failing_is_worth_no_more_than_a_wrong_label_drawn_at_random() -> None:
    metric = made("macro_f1")
    rows, answers = cases("macro_f1", 30, seed=3)
    for place, row in enumerate(rows):
        assert isinstance(row, ChoiceRow)
        said = {
            label: Likelihoods(
                of=tuple(
                    Likelihood(log_likelihood=-float(one != label), tokens=1, bytes=1, is_greedy=False)
                    for one in range(3)
                )
            )
            for label in range(3)
        }
        values = {
            label: _value(metric, rows, [answer if at == place else other for at, other in enumerate(answers)])
            for label, answer in [*said.items(), (-1, Failed(reason="timed out"))]
        }
        wrong = [values[label] for label in range(3) if label != row.correct]
        assert values[-1] <= np.mean(wrong) + 1e-12
        assert values[-1] < values[row.correct]


def _value(metric: Metric, rows: Sequence[Row], answers: Sequence[Answer]) -> float:
    numbers = [entry for entry in metric.rows(rows, answers) if entry is not None]
    return float(metric.value(np.asarray(numbers, np.float64).sum(axis=0)))


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("tokenf1", {}, "unknown metric tokenf1, did you mean token_f1; there are exact_match, "),
        ("rougel", {}, "unknown metric rougel, did you mean rougeL"),
        ("regex", {"patern": "a"}, "regex has no setting patern, did you mean pattern; it takes pattern"),
        ("token_f1", {"stemmer": True}, "token_f1 has no setting stemmer; it takes none"),
        ("numeric", {"tolerance": -1}, "numeric: tolerance: Input should be greater than or equal to 0; got -1"),
        ("numeric", {"tolerance": "a"}, "numeric: tolerance: Input should be a valid number"),
        ("chrf", {"word_order": 3}, "chrf: word_order: Input should be 0, 1 or 2; got 3"),
        ("bleu", {"tokenizer": "13b"}, "bleu has no tokenizer 13b; there are "),
        ("json_schema", {"schema": [1]}, "json_schema: schema: Input should be a valid dictionary"),
    ],
)
def test_a_name_or_a_setting_that_is_wrong_is_said(name: str, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        metric_named(name, **settings)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_names_are_there_without_the_libraries_that_compute_them() -> None:
    code = (
        "import sys, hfkit.evaluation.metrics as m; m.METRIC_NAMES; print(sorted(set(sys.argv[1:]) & set(sys.modules)))"
    )
    heavy = ["sacrebleu", "rouge_score", "nltk", "jsonschema", "scipy", "torch", "evaluate", "datasets", "transformers"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Token F1, in more depth


@given(st.text(), st.text())
def test_token_f1_of_any_texts(prediction: str, reference: str) -> None:
    value = token_f1(prediction, reference)
    assert 0 <= value <= 1
    assert value == pytest.approx(token_f1(reference, prediction))
    assert token_f1(prediction, prediction) == 1
    assert value == pytest.approx(token_f1(f" {prediction}!", f"The {reference} ."))


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("Santa Clara, California", "Santa Clara", 0.8),
        ("golden anniversary", "gold", 0.0),
        ("1854-1855", "18541855", 1.0),
        ("cat cat cat", "cat", 0.5),
        ("cat cat dog", "cat cat", 0.8),
        ("!?", "...", 1.0),
    ],
)
def test_token_f1_of_known_cases(prediction: str, reference: str, expected: float) -> None:
    assert token_f1(prediction, reference) == pytest.approx(expected)


def test_the_example_of_the_handbook() -> None:
    """docs/evaluate-stage.md: 8 words against 10, 6 of them shared."""
    prediction = "one two three four five six seven eight"
    reference = "one two three four five six uno dos tres cuatro"
    assert (len(words(prediction)), len(words(reference))) == (8, 10)
    assert round(token_f1(prediction, reference), 2) == 0.67


# As a module of `evaluate`

CODE = """
import json, sys
import evaluate
found = {}
for name in (None, "exact_match", "rougeL", "bleu"):
    metric = evaluate.load(sys.argv[1], name)
    found[str(name)] = metric.compute(predictions=["the cat", "a b c"], references=["Cat!", "c d"])
several = evaluate.load(sys.argv[1], "chrf")
found["chrf"] = several.compute(predictions=["the cat"], references=[["a dog", "the cat"]], word_order=2)
print(json.dumps(found))
"""


def test_metrics_load_with_evaluate_by_their_path_without_a_network(tmp_path: Path) -> None:
    import json

    import hfkit.evaluation.metrics

    path = Path(str(hfkit.evaluation.metrics.__file__)).with_name("as_evaluate.py")
    # Nothing that another process cached, no Hub, and a proxy that nobody answers at.
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path)], cwd=tmp_path, env=os.environ | offline, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["None"] == {"token_f1": 0.75, "rows": [1.0, 0.5]}
    assert found["exact_match"] == {"exact_match": 0.5, "rows": [1.0, 0.0]}
    assert found["rougeL"]["rows"] == pytest.approx([2 / 3, 0.4])
    assert found["bleu"]["bleu"] == pytest.approx(_bleu())
    assert found["chrf"] == {"chrf": 100.0, "rows": [100.0]}


def _bleu() -> float:
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(["the cat", "a b c"], [["Cat!", "c d"]]).score)
