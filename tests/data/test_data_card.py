"""The data card shows names of files and rows as they are, and none of them as markup."""

from __future__ import annotations

import itertools

import pytest

from hfkit.data.card import DataResult, SideSummary, SourceSummary, card_text, whole_bins
from hfkit.data.ledger import Account

FILE = "<img src=x onerror=alert(1)> [we](javascript:alert(1)) a|b `x`.jsonl"


def test_names_from_elsewhere_are_no_markup() -> None:
    side = SideSummary(
        rows=2,
        documents=2,
        unanswerable=0,
        sequences=0,
        tokens=0,
        trained_tokens=0,
        longest=0,
        length_quantiles={},
        short_outliers=0,
        long_outliers=0,
        labels={"<b>good</b>": 1, "bad|er": 1},
    )
    account = Account(reason="the column <i>", rows=1, first=(f"{FILE}:1",))
    result = DataResult(
        content="0" * 64,
        sources=(SourceSummary(name=FILE, kind=None, why="<u>", read=2, kept=2, train=2, used=2),),
        train=side,
        test=side,
        tokens_too_long=0,
        dropped=(account,),
        noted=(account,),
        remarks=("The tokenizer begins plain text with <s>.",),
    )

    card = card_text(result, "tiny", plotted=False)

    assert "<" not in card
    assert "[we](" not in card and r"\[we\](" in card
    assert r"&lt;img src=x onerror=alert(1)\> \[we\](javascript:alert(1)) a\|b \`x\`.jsonl" in card
    assert r"| bad\|er | 1 | 50.0% | 1 |" in card
    assert "&lt;s\\>" in card


@pytest.mark.parametrize("values", [[43, 65], [7], [1, 2048], [5, 44], [0, 40]])
def test_bins_hold_equally_many_whole_numbers_and_all_values(values: list[int]) -> None:
    edges = whole_bins(min(values), max(values))
    (width,) = {right - left for left, right in itertools.pairwise(edges)}
    assert width == int(width) >= 1 and len(edges) <= 41
    assert edges[0] < min(values) and max(values) < edges[-1]
