"""Rows that count and rows that do not: what a metric may do wrong, and which rows are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from hfkit.errors import WorkError
from hfkit.evaluation.measuring import measure
from hfkit.evaluation.metric import Numbers
from hfkit.evaluation.metrics import metric_named
from hfkit.evaluation.metrics.row_mean import RowMean
from hfkit.evaluation.rows import Answer, Failed, Generation, GenerationRow, Row
from hfkit.evaluation.statistics import resample


def asked(*references: str) -> list[Row]:
    return [
        GenerationRow(id=f"r{place}", group=f"g{place // 2}", messages=(), references=(text,) if text else ())
        for place, text in enumerate(references)
    ]


def says(*texts: str) -> list[Answer]:
    return [Generation(text=text, stopped=True) for text in texts]


def scored_by(score: Callable[[str], float | None]) -> RowMean:
    def of(row: Row, answer: Answer) -> float | None:
        assert isinstance(answer, Generation)
        return score(answer.text)

    return RowMean("mine", "mine", of)


def test_numbers_are_by_model_and_row() -> None:
    found = measure(
        metric_named("exact_match"),
        asked("a1", "b1", "c1"),
        {"base": says("x", "b1", "x"), "tuned": says("a1", "b1", "x")},
    )
    assert (found.ids, found.groups, found.faults) == (("r0", "r1", "r2"), ("g0", "g0", "g1"), ())
    assert found.numbers["tuned"].tolist() == [[1, 1], [1, 1], [0, 1]]
    assert found.row_values("base") == {"r0": 0.0, "r1": 1.0, "r2": 0.0}
    part = found.only({"r2", "r1", "elsewhere"})
    assert (part.ids, part.groups) == (("r1", "r2"), ("g0", "g1"))
    assert part.numbers["base"].tolist() == [[1, 1], [0, 1]]
    assert part.only([]).ids == () and part.only([]).numbers["base"].shape == (0, 2)


def test_a_row_that_is_not_scored_for_one_model_is_compared_for_none() -> None:
    metric = scored_by(lambda text: None if text == "skip" else 1.0)
    found = measure(metric, asked("a", "b"), {"base": says("a", "skip"), "tuned": says("a", "b")})
    assert (found.ids, found.faults) == (("r0",), ())


def test_rows_without_a_reference_are_not_scored_and_failed_answers_count_as_wrong() -> None:
    answers: list[Answer] = [*says("a1"), Failed(reason="timed out"), *says("c1")]
    found = measure(metric_named("token_f1"), asked("a1", "b1", ""), {"base": answers})
    assert found.row_values("base") == {"r0": 1.0, "r1": 0.0}


class Boo(Exception):
    """An error of a user's own."""


def _raise(error: type[BaseException]) -> float:
    raise error("no such word")


@pytest.mark.parametrize("error", [ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, Boo, SystemExit])
def test_a_row_at_which_a_metric_raises_is_left_out_for_all_models_and_named(error: type[BaseException]) -> None:
    metric = scored_by(lambda text: _raise(error) if text == "bad" else 1.0)
    found = measure(metric, asked("a", "b", "c"), {"base": says("a", "b", "c"), "tuned": says("a", "bad", "c")})
    assert found.ids == ("r0", "r2")
    assert found.faults == (f"mine: row r1: {error.__name__}: no such word, at the answer of tuned",)
    assert [len(numbers) for numbers in found.numbers.values()] == [2, 2]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_left_out_and_named(number: float) -> None:
    metric = scored_by(lambda text: number if text == "bad" else 1.0)
    found = measure(metric, asked("a", "b"), {"base": says("bad", "b"), "tuned": says("a", "b")})
    assert found.ids == ("r1",)
    assert found.faults == ("mine: row r0: what it gives is not a number, at the answer of base",)


def test_a_metric_that_always_raises_has_no_rows_and_names_each() -> None:
    found = measure(scored_by(lambda text: _raise(ValueError)), asked("a", "b"), {"base": says("a", "b")})
    assert found.ids == () and len(found.faults) == 2
    assert found.row_values("base") == {}


def test_a_fault_of_an_interrupt_is_not_caught() -> None:
    def interrupted(text: str) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(scored_by(interrupted), asked("a"), {"base": says("a")})


@dataclass(frozen=True)
class Odd:
    """A metric of a user that breaks the contract in the way that `how` says."""

    how: str
    name: str = "odd"
    title: str = "odd"
    higher_is_better: bool = True
    is_binary: bool = False

    def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
        if self.how == "together" and len(rows) > 1:
            raise RuntimeError("one at a time")
        if self.how == "short":
            return [(1.0, 1.0)]
        if self.how == "silent":
            return None  # type: ignore[return-value]
        if self.how == "leaving out":
            return [(1.0, 1.0) for row in rows if row.id != "r1"]
        return [(1.0,) * (1 + place) if self.how == "uneven" else (1.0, 1.0) for place in range(len(rows))]

    def value(self, sums: Numbers) -> Numbers:
        if self.how == "no value":
            raise Boo("no sum")
        return sums if self.how == "too many values" else sums[..., 0]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("together", "the metric odd failed on the answers of base: RuntimeError: one at a time"),
        ("short", "the metric odd failed on the answers of base: it gave 1 entries for 2 rows"),
        ("uneven", "the metric odd gave now 1 numbers for a row and now 2"),
    ],
)
def test_a_metric_that_breaks_the_contract_is_named(how: str, said: str) -> None:
    with pytest.raises(WorkError) as caught:
        measure(Odd(how), asked("a", "b"), {"base": says("a", "b")})
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (("a", 1.0), "it gave a tuple where a list of numbers belongs (ValueError: could not convert string to float"),
        (0.5, "it gave a float where a list of numbers belongs, at"),
        ((), "it gave a tuple where a list of numbers belongs, at"),
        ([[1.0, 1.0]], "it gave a list where a list of numbers belongs, at"),
        ([[1.0], 1.0], "it gave a list where a list of numbers belongs (ValueError"),
        ((10**5000, 1.0), "it gave a tuple where a list of numbers belongs (OverflowError"),
    ],
)
def test_what_is_no_list_of_numbers_is_left_out_and_named(entry: object, said: str) -> None:
    class Entries(Odd):
        def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
            return [entry if row.id == "r1" else (1.0, 1.0) for row in rows]  # type: ignore[misc]

    found = measure(Entries("odd"), asked("a", "b", "c"), {"base": says("a", "b", "c")})
    assert found.ids == ("r0", "r2")
    assert len(found.faults) == 1 and found.faults[0].startswith(f"odd: row r1: {said}")


def test_a_metric_that_gives_nothing_and_one_that_gives_too_few_are_named_by_row() -> None:
    found = measure(Odd("silent"), asked("a", "b"), {"base": says("a", "b")})
    said = "it gave a NoneType where a list with an entry for each row belongs, at the answer of base"
    assert (found.ids, found.faults) == ((), (f"odd: row r0: {said}", f"odd: row r1: {said}"))
    found = measure(Odd("leaving out"), asked("a", "b", "c"), {"base": says("a", "b", "c")})
    assert found.ids == ("r0", "r2")
    assert found.faults == ("odd: row r1: it gave 0 entries for 1 rows, at the answer of base",)


@pytest.mark.parametrize(
    ("how", "said"),
    [("no value", "Boo: no sum"), ("too many values", "it gave values of shape (2, 2) for sums of shape (2, 2)")],
)
def test_a_metric_without_a_value_is_named(how: str, said: str) -> None:
    found = measure(Odd(how), asked("a", "b"), {"base": says("a", "b")})
    with pytest.raises(WorkError) as caught:
        found.row_values("base")
    assert str(caught.value) == f"the metric odd gives no value for sums of its numbers: {said}"
    with pytest.raises(WorkError, match="the metric odd gives no value"):
        resample(found)


def test_what_a_metric_prints_is_not_in_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    metric = scored_by(lambda text: float(print("looking at", text) is None))
    assert measure(metric, asked("a"), {"base": says("a")}).row_values("base") == {"r0": 1.0}
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "looking at a\n")


def test_no_rows_are_no_fault() -> None:
    found = measure(metric_named("bleu"), [], {"base": [], "tuned": []})
    assert (found.ids, found.faults) == ((), ())
    assert np.asarray(found.numbers["base"]).shape[0] == 0


def test_numbers_may_be_an_array() -> None:
    class Arrays(Odd):
        def rows(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Sequence[float] | None]:
            return [np.array([0.0, 1.0]) for _ in rows]  # type: ignore[misc]

    found = measure(Arrays("array"), asked("a", "b"), {"base": says("a", "b")})
    assert found.numbers["base"].tolist() == [[0, 1], [0, 1]]
