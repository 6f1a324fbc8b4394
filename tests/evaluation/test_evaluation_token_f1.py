"""Token F1 against another writing of it, and against SQuAD's own cases."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfkit.evaluation.metrics import token_f1 as module
from hfkit.evaluation.metrics.token_f1 import TokenF1, token_f1, tokens

# What makes a difference: articles, punctuation inside and around words, case, repetition, spaces of several kinds.
PIECES = [
    *("a", "an", "the", "The", "AN", "cat", "Cat", "cat's", "cats", "theatre", "a-b", "U.S.", "3.5", "--", "[2]", "ß"),
    *("naïve", "(the)", "", "\n", "\t", "dog", "dog,", '"dog"', "a.", "ana", "«the»", "日本"),
]


def plainly(prediction: str, reference: str) -> float:
    """As section 6.1 of Rajpurkar et al. says it, without the tools that the module uses."""

    def words(text: str) -> list[str]:
        kept = "".join(c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
        found, word = [], ""
        for character in kept + " ":
            if character.isspace():
                found.append(word)
                word = ""
            else:
                word += character
        # An article is one where it stands between characters that belong to no word.
        parts = []
        for one in found:
            run, runs = "", []
            for character in one + "\0":
                if character.isalnum() or character == "_":
                    run += character
                else:
                    runs += [run if run not in ("a", "an", "the") else " ", character]
                    run = ""
            parts += "".join(runs)[:-1].split()
        return parts

    said, meant = words(prediction), words(reference)
    if not said and not meant:
        return 1.0
    left, shared = list(meant), 0
    for word in said:
        if word in left:
            left.remove(word)
            shared += 1
    if shared == 0:
        return 0.0
    precision, recall = shared / len(said), shared / len(meant)
    return 2 / (1 / precision + 1 / recall)


def test_two_thousand_random_pairs() -> None:
    choose = random.Random(7)
    seen = set()
    for _ in range(2000):
        prediction, reference = (
            choose.choice([" ", "  ", " , "]).join(choose.choices(PIECES, k=choose.randrange(9))) for _ in range(2)
        )
        expected = plainly(prediction, reference)
        assert token_f1(prediction, reference) == pytest.approx(expected, abs=1e-12), (prediction, reference)
        seen.add(round(expected, 3))
    assert {0.0, 1.0} < seen and len(seen) > 20


@given(st.text(), st.text())
def test_any_texts(prediction: str, reference: str) -> None:
    value = token_f1(prediction, reference)
    assert 0 <= value <= 1
    assert value == pytest.approx(token_f1(reference, prediction))
    assert token_f1(prediction, prediction) == 1
    assert value == pytest.approx(token_f1(f" {prediction}!", f"The {reference} ."))


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("Denver Broncos", "Denver Broncos", 1.0),
        ("the Denver Broncos", "Denver Broncos.", 1.0),
        ("Denver", "Denver Broncos", 2 / 3),
        ("The Carolina Panthers", "Denver Broncos", 0.0),
        ("Santa Clara, California", "Santa Clara", 0.8),
        ("golden anniversary", "gold", 0.0),
        ("1854-1855", "18541855", 1.0),
        ("cat cat cat", "cat", 0.5),
        ("cat cat dog", "cat cat", 0.8),
        ("", "", 1.0),
        ("the", "", 1.0),
        ("", "cat", 0.0),
        ("cat", "", 0.0),
        ("!?", "...", 1.0),
    ],
)
def test_known_cases(prediction: str, reference: str, expected: float) -> None:
    assert token_f1(prediction, reference) == pytest.approx(expected)


def test_the_example_of_the_handbook() -> None:
    """docs/evaluate-stage.md: 8 words against 10, 6 of them shared."""
    prediction = "one two three four five six seven eight"
    reference = "one two three four five six uno dos tres cuatro"
    assert (len(tokens(prediction)), len(tokens(reference))) == (8, 10)
    assert round(token_f1(prediction, reference), 2) == 0.67


def test_the_metric_gives_the_mean_and_each_row() -> None:
    computed = TokenF1().compute(predictions=["Denver", "", "cat"], references=["Denver Broncos", "", "dog"])
    assert computed == {"token_f1": pytest.approx(5 / 9), "rows": [pytest.approx(2 / 3), 1.0, 0.0]}


def test_it_loads_by_its_path_without_a_network(tmp_path: Path) -> None:
    path = Path(str(module.__file__))
    code = (
        "import sys, evaluate\n"
        "metric = evaluate.load(sys.argv[1])\n"
        "print(metric.compute(predictions=['the cat', 'a b c'], references=['Cat!', 'c d']))\n"
    )
    # Nothing that another process cached, no Hub, and a proxy that nobody answers at.
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=tmp_path, env=os.environ | offline, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'token_f1': 0.75, 'rows': [1.0, 0.5]}"
