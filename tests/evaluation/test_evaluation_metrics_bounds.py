"""Metrics on what would hold them up: patterns that backtrack without end, and long texts."""

from __future__ import annotations

import random
import re

import psutil
import pytest

from hfkit.evaluation.measuring import measure
from hfkit.evaluation.metrics import bounded_search, metric_named
from hfkit.evaluation.metrics.bounded_search import Searcher
from hfkit.evaluation.metrics.rouge import common_length
from hfkit.evaluation.rows import Answer, Generation, GenerationRow, Row

ENDLESS = "^(a+)+$"
TRAP = "a" * 60 + "!"

# What people write, and what other engines read otherwise.
PATTERNS = [
    *(r"\bcats?\b", r"^(\d+)$", r"(\d*)", r"(?i)answer is (\w+)", r"(?m)^(\w+):", r"(?s)<answer>(.*)</answer>"),
    *(r"\\boxed\{(.*?)\}", r"\\frac{d}{(\w)}", r"x{e}", r"(x{e})", r"{s}", r"a{,2}b", r"(\w+)\W*$", r"(\W)\w+"),
    *(r"(?:(a)|b)*", r"(a)?b", r"(?<=: )(\S+)", r"""(['"])(.*?)\1""", r"(?P<said>yes|no|c)(?!.*\b(?:yes|no)\b)"),
    *(r"(\d{1,3}(?:,\d{3})*)(?:\.\d+)?", r"(\s)", r"[^\W\d_]+", r"(i)(?i:İ)"),
    *(r"(?x) ( \d+ )  # a number", r"\Z", ""),
]
TEXTS = [
    *("", "two cats", "The answer is B. No, the ANSWER is c.", "yes: no. c", "12 345,678.9", "77", "ab", "aab\nb: c\n"),
    *("हिन्दी भाषा", "e\u0301te\u0301 naïve Straße", "m² ½ ٣", "a\x1cb\x85c", "iİ İi ıI", "\ud800 half", "😀 cat"),
    *("x{e} and x and xy", r"\frac{d}{x}", r"so \boxed{42} and \boxed{7}", "<answer>1\n2</answer>", 'said "it\'s"'),
    "word " * 20_000,
]


def by_re(pattern: str, text: str) -> str | None:
    found = list(re.finditer(pattern, text))
    if not found:
        return None
    return (found[-1].group(1) or "") if found[-1].re.groups else ""


def test_a_pattern_means_what_pythons_re_means() -> None:
    searcher = Searcher()
    for pattern in PATTERNS:
        for text in TEXTS:
            assert searcher.last_group(pattern, text) == by_re(pattern, text), (pattern, text[:40])


def rows(*patterns: str | None) -> list[Row]:
    return [
        GenerationRow(
            id=f"r{place}",
            group=f"g{place}",
            messages=(),
            references=("a",),
            facts={} if pattern is None else {"pattern": pattern},
        )
        for place, pattern in enumerate(patterns)
    ]


def says(*texts: str) -> list[Answer]:
    return [Generation(text=text, stopped=True) for text in texts]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("settings", "asked"), [({"pattern": ENDLESS}, rows(None, None, None)), ({}, rows("a", ENDLESS, "b"))]
)
def test_a_pattern_without_end_is_the_fault_of_its_row(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], asked: list[Row]
) -> None:
    monkeypatch.setattr(bounded_search, "SECONDS", 0.5)
    found = measure(metric_named("regex", **settings), asked, {"base": says("a", TRAP, "ab")})
    assert found.ids == ("r0", "r2")
    assert found.row_values("base")["r0"] == 1
    (fault,) = found.faults
    assert "row r1" in fault and ENDLESS in fault and "had not come to an end after 0.5 seconds" in fault


@pytest.mark.timeout(60)
def test_a_pattern_without_end_on_every_row_is_given_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SECONDS", 0.3), ("PATIENCE", 2), ("HURRIED", 0.1)):
        monkeypatch.setattr(bounded_search, name, value)
    searcher = Searcher()
    for number, seconds in enumerate(("0.3", "0.3", "0.1", "0.1")):
        with pytest.raises(TimeoutError, match=f"after {seconds} seconds"):
            searcher.last_group(ENDLESS, number * "a" + TRAP)
    monkeypatch.undo()
    assert searcher.last_group("(!)", TRAP) == "!"


@pytest.mark.timeout(60)
def test_who_asks_again_is_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are asked for all rows, for each, and for all sound ones: none may fail the last time alone."""
    monkeypatch.setattr(bounded_search, "SECONDS", 0.3)
    searcher = Searcher()
    assert searcher.last_group("(a)!", TRAP) == "a" and searcher.last_group("b", TRAP) is None
    with pytest.raises(TimeoutError, match=r"0\.3 seconds"):
        searcher.last_group(ENDLESS, TRAP)
    monkeypatch.setattr(Searcher, "_search", lambda *asked: pytest.fail("it was searched again"))
    assert searcher.last_group("(a)!", TRAP) == "a" and searcher.last_group("b", TRAP) is None
    with pytest.raises(TimeoutError, match=r"0\.3 seconds"):
        searcher.last_group(ENDLESS, TRAP)


def test_searching_takes_one_process_that_ends_with_it() -> None:
    before = set(psutil.Process().children())
    searcher = Searcher()
    assert searcher.last_group("b", "ab") == ""
    (started,) = set(psutil.Process().children()) - before
    started.kill()
    started.wait()
    assert searcher.last_group("(b)", "ab") == "b"
    (again,) = set(psutil.Process().children()) - before
    del searcher
    assert not again.is_running()


def test_the_longest_common_subsequence_is_googles_on_random_cases() -> None:
    from rouge_score.rouge_scorer import _lcs_table

    choose = random.Random(11)
    for _ in range(150):
        vocabulary = [f"w{number}" for number in range(choose.choice([1, 2, 5, 40, 300]))]
        one, other = (choose.choices(vocabulary, k=choose.randrange(140)) for _ in range(2))
        assert common_length(one, other) == _lcs_table(one, other)[-1][-1], (one, other)


def test_rouge_l_of_long_texts_needs_no_table_of_all_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*texts: object) -> None:
        raise AssertionError("54 million cells")

    monkeypatch.setattr("rouge_score.rouge_scorer._lcs_table", refuse)
    reference = [f"word{place}" for place in range(9_000)]
    reply = [word for place, word in enumerate(reference) if place % 3]
    row = GenerationRow(id="r", group="g", messages=(), references=(" ".join(reference),))
    ((score, weight),) = (one for one in metric_named("rougeL").rows([row], says(" ".join(reply))) if one is not None)
    # All of the reply is in the reference, and two thirds of the reference in the reply.
    assert (score, weight) == (pytest.approx(0.8), 1)
