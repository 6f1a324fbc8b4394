"""The data card: what was read, kept and dropped, how long the rows are, and how much of them is trained."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from hfkit.data.conversation import Conversation
from hfkit.data.distribution import imbalance, label_counts, length_outliers
from hfkit.data.examples import Example
from hfkit.data.ledger import Account
from hfkit.data.prepared import Side
from hfkit.markdown import escaped

if TYPE_CHECKING:
    import pyarrow as pa

CARD = "card.md"
LENGTHS_PLOT = "lengths.png"
# From so many rows to one, a model that always gives the frequent label looks good.
_IMBALANCED = 10.0
_BINS = 40
_QUANTILES = (5, 25, 50, 75, 95, 99)


class SourceSummary(BaseModel):
    """A source: what its rows were taken for and why, how many it gave, how many became examples, how many of those are
    for training, and how many times rows were drawn from these (weights and mixing repeat rows, or leave some out)."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str | None
    why: str
    read: int
    kept: int
    train: int
    used: int


class SideSummary(BaseModel):
    """One side of the split.

    Attributes:
        rows: examples.
        documents: distinct documents (or groups) that they come from.
        unanswerable: rows over passages that do not answer.
        sequences: what they were rendered to; 0 for kinds that are not rendered.
        tokens, trained_tokens: of all sequences, and those that the loss is computed on.
        longest: tokens of the longest sequence.
        length_quantiles: percent -> tokens.
        short_outliers, long_outliers: sequences that are far shorter or longer than most.
        labels: label -> rows, for labelled text and rated replies.
    """

    model_config = ConfigDict(frozen=True)

    rows: int
    documents: int
    unanswerable: int
    sequences: int
    tokens: int
    trained_tokens: int
    longest: int
    length_quantiles: Mapping[int, int]
    short_outliers: int
    long_outliers: int
    labels: Mapping[str, int]


class DataResult(BaseModel):
    """What the data stage came to.

    Attributes:
        content: hex SHA-256 over all shards: the same for the same prepared data.
        tokens_too_long: tokens of the sequences that were left out because they are longer than data.max_length.
        dropped: rows that were left out, by reason.
        noted: rows that stayed and should be known of, by reason.
        remarks: what should be known of the chat template.
    """

    model_config = ConfigDict(frozen=True)

    content: str
    sources: tuple[SourceSummary, ...]
    train: SideSummary
    test: SideSummary
    tokens_too_long: int
    dropped: tuple[Account, ...]
    noted: tuple[Account, ...]
    remarks: tuple[str, ...]


class Tally:
    """Counts one side while it is written. `shown` names the test rows that were found in it, and where."""

    def __init__(self) -> None:
        self.rows = 0
        self.unanswerable = 0
        self.tokens_too_long = 0
        self.remarks: tuple[str, ...] = ()
        self.shown: dict[int, str] = {}
        self.lengths = array("i")
        self.trained = array("i")
        self._documents: set[str] = set()
        self._labels: Counter[str] = Counter()

    def add(self, examples: Sequence[Example], sequences: pa.RecordBatch | None, tokens_too_long: int) -> None:
        self.rows += len(examples)
        self.tokens_too_long += tokens_too_long
        self._labels.update(label_counts(examples))
        for example in examples:
            self._documents.add(example.document)
            if isinstance(example, Conversation) and example.grounding is not None:
                self.unanswerable += example.grounding.gold is None
        if sequences is not None:
            self.lengths.extend(sequences.column("length").to_pylist())
            self.trained.extend(sequences.column("trained").to_pylist())

    def summary(self) -> SideSummary:
        quantiles = np.percentile(self.lengths, _QUANTILES).round().astype(int).tolist() if self.lengths else []
        outliers = length_outliers(self.lengths)
        return SideSummary(
            rows=self.rows,
            documents=len(self._documents),
            unanswerable=self.unanswerable,
            sequences=len(self.lengths),
            tokens=sum(self.lengths),
            trained_tokens=sum(self.trained),
            longest=max(self.lengths, default=0),
            length_quantiles=dict(zip(_QUANTILES, quantiles, strict=False)),
            short_outliers=len(outliers.short),
            long_outliers=len(outliers.long),
            labels=dict(sorted(self._labels.items())),
        )


def write_card(result: DataResult, tallies: Mapping[Side, Tally], name: str, folder: Path) -> None:
    """`card.md` and, where there are sequences, the histogram that it shows."""
    plotted = any(tally.lengths for tally in tallies.values())
    if plotted:
        _plot(tallies, folder / LENGTHS_PLOT)
    (folder / CARD).write_text(card_text(result, name, plotted=plotted), encoding="utf-8")


def card_text(result: DataResult, name: str, *, plotted: bool) -> str:
    """The card as Markdown."""
    parts = [
        f"# Training data of {name}",
        f"Content {result.content[:16]} (SHA-256 over all shards). The folder holds nothing that is not derived from "
        "the sources, the recipe and the tokenizer.",
        "## Sources",
        _table(
            ("source", "taken for", "rows read", "kept", "for training", "drawn"),
            [(s.name, s.why, f"{s.read:,}", f"{s.kept:,}", f"{s.train:,}", f"{s.used:,}") for s in result.sources],
        ),
        "## What is trained and tested",
        _table(("", "train", "test"), _sides(result)),
    ]
    if plotted:
        parts.append(f"![Tokens a sequence]({LENGTHS_PLOT})")
    if result.train.labels:
        total = result.train.rows
        rows = [
            (label, f"{count:,}", f"{count / total:.1%}", f"{result.test.labels.get(label, 0):,}")
            for label, count in result.train.labels.items()
        ]
        parts += ["## Labels", _table(("label", "train", "share", "test"), rows), _imbalance(result.train.labels)]
    parts.append("## What was left out")
    if result.train.sequences:
        lost = result.tokens_too_long / (result.tokens_too_long + result.train.tokens + result.test.tokens)
        if lost:
            parts.append(f"{lost:.1%} of all tokens stand in sequences that are longer than `data.max_length`.")
    parts += [
        _accounts(result.dropped, "No row was dropped."),
        "## What stayed and should be known of",
        *([] if result.remarks and not result.noted else [_accounts(result.noted, "Nothing.")]),
        *(f"- {escaped(remark)}" for remark in result.remarks),
    ]
    return "\n\n".join(parts) + "\n"


def _sides(result: DataResult) -> list[tuple[str, ...]]:
    def row(title: str, *values: str) -> tuple[str, ...]:
        return (title, *values)

    both = (result.train, result.test)
    rows = [
        row("rows", *(f"{side.rows:,}" for side in both)),
        row("documents or groups", *(f"{side.documents:,}" for side in both)),
    ]
    if result.train.sequences:
        rows += [
            row("sequences", *(f"{side.sequences:,}" for side in both)),
            row("tokens", *(f"{side.tokens:,}" for side in both)),
            row(
                "trained tokens",
                *(f"{side.trained_tokens:,} ({side.trained_tokens / max(1, side.tokens):.1%})" for side in both),
            ),
        ]
        rows += [
            row(f"{percent}th percentile, tokens", *(f"{side.length_quantiles.get(percent, 0):,}" for side in both))
            for percent in _QUANTILES
        ]
        rows += [
            row("longest, tokens", *(f"{side.longest:,}" for side in both)),
            row("far shorter than most", *(f"{side.short_outliers:,}" for side in both)),
            row("far longer than most", *(f"{side.long_outliers:,}" for side in both)),
        ]
    return rows


def _imbalance(labels: Mapping[str, int]) -> str:
    times = imbalance(labels)
    if times < _IMBALANCED:
        return f"The most frequent label has {times:.1f} rows for each of the rarest."
    return (
        f"The labels are out of balance: the most frequent has {times:.0f} rows for each of the rarest. A model can be "
        "right most of the time without learning anything; look at each label's own figures."
    )


def _accounts(accounts: Sequence[Account], none: str) -> str:
    if not accounts:
        return none
    ordered = sorted(accounts, key=lambda account: -account.rows)
    return _table(("reason", "rows", "such as"), [(a.reason, f"{a.rows:,}", "; ".join(a.first[:3])) for a in ordered])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(_cell(cell) for cell in cells)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *(line(row) for row in rows)])


def _cell(text: str) -> str:
    """On one line, and without what would end the cell or be more than text: names of files and rows stand in it."""
    flat = " ".join(text.split())
    return escaped(flat if len(flat) <= 300 else flat[:299] + "…")


def whole_bins(low: int, high: int) -> list[float]:
    """The edges of at most _BINS bins from `low` to `high` that each hold equally many whole numbers: others would be
    empty by turns."""
    width = (high - low) // _BINS + 1
    return [edge - 0.5 for edge in range(low, high + width + 1, width)]


def _plot(tallies: Mapping[Side, Tally], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for at, (title, unit) in enumerate(
        (("Tokens of a sequence", "tokens"), ("Trained tokens of a sequence", "tokens"))
    ):
        drawn = {side: tally.lengths if at == 0 else tally.trained for side, tally in tallies.items()}
        drawn = {side: values for side, values in drawn.items() if values}
        bins = whole_bins(min(map(min, drawn.values())), max(map(max, drawn.values())))
        for side, values in drawn.items():
            shares = [1 / len(values)] * len(values)
            axes[at].hist(values, bins=bins, weights=shares, histtype="step", label=f"{side} ({len(values):,})")
        axes[at].set(title=title, xlabel=unit, ylabel="share of sequences")
        axes[at].spines[["top", "right"]].set_visible(False)
        axes[at].legend(frameon=False)
    # Without the version of the library in it, the same data give the same bytes.
    figure.savefig(path, dpi=120, metadata={"Software": None})
