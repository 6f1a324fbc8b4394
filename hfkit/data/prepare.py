"""The data stage: sources in, the prepared dataset out, and an account of every row that was dropped.

    sources -> rows -> canonical examples on disk -> duplicates, splits, contamination -> one mixed order -> sequences

Only a few bytes a row are held in memory; the examples are read from disk again, in order, wherever they are needed.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hfkit.data.card import DataResult, SourceSummary, Tally, write_card
from hfkit.data.examples import EXAMPLE, Kind
from hfkit.data.grounding import write_grounded_examples
from hfkit.data.landing import Landed, Strata, land_examples, land_source
from hfkit.data.ledger import Ledger
from hfkit.data.mixing import Numbers, mixed
from hfkit.data.prepared import (
    EXAMPLES,
    SEQUENCES,
    ShardWriter,
    Side,
    content_hash,
    example_batch,
    example_schema,
    sequence_schema,
)
from hfkit.data.rendering_pool import BATCH, RenderedBatch, RenderSettings, render_batches, unrendered_batches
from hfkit.data.selection import Sides, choose_rows, drop_shown
from hfkit.data.sources import place_names
from hfkit.errors import RequestError
from hfkit.recipe import Recipe, SynthesizeSource
from hfkit.stage import StageContext

# What supervised fine-tuning takes; other kinds are kept as examples, for the methods that take them.
_RENDERED: tuple[Kind, ...] = ("conversation", "text")
_LANDED = ".landed"
# The share of dropped rows from which the user should think twice.
_MANY = 0.1

Order = Iterable[tuple[int, int]]
"""(source, row number) of each row, in the order in which it is written."""


def prepare(context: StageContext) -> DataResult:
    """Make the prepared dataset in `context.folder`.

    Raises:
        RequestError: a source is at fault, more rows were dropped than the recipe allows, or nothing is left to train
            or to test on.
    """
    recipe = context.recipe
    assert recipe.data is not None
    for leftover in (_LANDED, EXAMPLES, SEQUENCES):
        shutil.rmtree(context.folder / leftover, ignore_errors=True)
    ledger = Ledger()
    landed = _land(context, ledger)
    read = sum(source.read for source in landed)
    _hold_limit(recipe, ledger, read)
    rendered = _one_task(landed, recipe)
    sides = choose_rows(landed, recipe.data, recipe.seed, ledger)
    tested = _write_tested(context.folder / _LANDED, landed, sides)
    used = [0] * len(landed)
    order = _counted(mixed(sides.train, [source.weight for source in landed], recipe.data.mix, recipe.seed), used)
    train = _write(context, "train", landed, order, ledger, rendered=rendered, rows=_count(sides.train), tested=tested)
    if recipe.data.quality.contamination == "drop":
        drop_shown(landed, sides, train.shown, ledger)
    left = ((at, number) for at, numbers in enumerate(sides.test) for number in numbers.tolist())
    test = _write(context, "test", landed, left, ledger, rendered=rendered, rows=_count(sides.test), tested=None)
    tallies: dict[Side, Tally] = {"train": train, "test": test}
    _hold_limit(recipe, ledger, read)
    for side, tally in tallies.items():
        if not tally.rows:
            why = (
                in_words(ledger) or "no source gives any: look at their use and weight, and at data.mix and data.splits"
            )
            raise RequestError(f"data: no rows are left to {side} on ({why})")
    result = DataResult(
        content=content_hash(context.folder),
        sources=_sources(landed, sides, used),
        train=tallies["train"].summary(),
        test=tallies["test"].summary(),
        tokens_too_long=sum(tally.tokens_too_long for tally in tallies.values()),
        dropped=ledger.dropped,
        noted=ledger.noted,
        remarks=tallies["train"].remarks,
    )
    write_card(result, tallies, recipe.name, context.folder)
    _say(context, result, ledger)
    return result


def _land(context: StageContext, ledger: Ledger) -> list[Landed]:
    recipe = context.recipe
    assert recipe.data is not None
    folder = context.folder / _LANDED
    strata = Strata()
    read: set[str] = set()
    landed = []
    for number, source in enumerate(recipe.data.sources):
        if isinstance(source, SynthesizeSource):
            continue
        names = place_names(source)
        one = land_source(
            source,
            number,
            folder / str(number),
            splits=recipe.data.splits,
            quality=recipe.data.quality,
            strata=strata,
            allow_code=recipe.allow_code,
            ledger=ledger,
            read_before=not read.isdisjoint(names),
        )
        read |= names
        context.progress.say(f"  {one.name}: {len(one.keys):,} of {one.read:,} rows kept; {one.why}")
        if not len(one.keys):
            raise RequestError(f"{one.name}: none of its {one.read:,} rows can be used:\n{in_words(ledger)}")
        landed.append(one)
    synthesized = [source.synthesize for source in recipe.data.sources if isinstance(source, SynthesizeSource)]
    if synthesized:
        train, test = write_grounded_examples(context, synthesized)
        use: Side
        for use, written in (("train", train), ("test", test)):
            name = f"synthesize ({use})"
            splits = recipe.data.splits
            landed.append(land_examples(written, name, folder / name, use=use, splits=splits, strata=strata))
    return landed


def _one_task(landed: Sequence[Landed], recipe: Recipe) -> bool:
    """Whether the examples are rendered into sequences. Raises RequestError where sources do not belong together, or
    the recipe's method cannot train on them."""
    kinds = {source.kind: source.name for source in landed if source.kind is not None}
    rendered = [kind for kind in kinds if kind in _RENDERED]
    others = [kind for kind in kinds if kind not in _RENDERED]
    if len(others) + bool(rendered) > 1:
        said = ", ".join(f"{name} holds {kind}" for kind, name in kinds.items())
        raise RequestError(f"data.sources: examples of different tasks cannot be trained together: {said}")
    if others and recipe.train is not None:
        raise RequestError(
            f"data.sources: {kinds[others[0]]} holds {others[0]} examples, and train.method={recipe.train.method} "
            "trains on conversations and plain text; name another format, or leave train out to prepare them only"
        )
    if rendered and recipe.model is None:
        raise RequestError("data: conversations and text are prepared for a model's tokenizer; give model.base")
    return bool(rendered)


def _write(
    context: StageContext,
    side: Side,
    landed: Sequence[Landed],
    order: Order,
    ledger: Ledger,
    *,
    rendered: bool,
    rows: int,
    tested: Path | None,
) -> Tally:
    """Write one side. `rows` is about how many there are, for the bar; `tested` the test rows to look for in it."""
    recipe = context.recipe
    assert recipe.data is not None
    tally = Tally()
    # Whether a row is met for the first time: what is said of it is counted once, however often it is used.
    new: list[list[bool]] = []
    batches = _batches(_texts(landed, order), new)
    if rendered:
        assert recipe.model is not None
        settings = RenderSettings(
            model=recipe.model,
            max_length=recipe.data.max_length,
            special_tokens=recipe.data.quality.special_tokens,
            chat=any(source.kind == "conversation" for source in landed),
            tested=tested,
        )
        prepared: Iterator[RenderedBatch] = render_batches(batches, settings, rows)
    else:
        prepared = unrendered_batches(batches, tested)
    seen = 0
    with (
        ShardWriter(context.folder / EXAMPLES, side, example_schema()) as examples_file,
        ShardWriter(context.folder / SEQUENCES, side, sequence_schema()) as sequences_file,
        context.progress.bar(f"preparing {side} rows") as update,
    ):
        update(0, rows)
        for batch in prepared:
            seen += len(batch.texts)
            texts = [text for text, kept in zip(batch.texts, batch.outcome.kept, strict=True) if kept]
            examples = [EXAMPLE.validate_json(text) for text in texts]
            examples_file.write(example_batch(examples))
            sequences_file.write(batch.sequences)
            first_time = new.pop(0)
            too_long = batch.outcome.tokens_too_long
            tally.add(examples, batch.sequences, sum(n for place, n in too_long.items() if first_time[place]))
            tally.remarks = batch.outcome.remarks
            for number, where in batch.outcome.shown.items():
                tally.shown.setdefault(number, where)
            for said, count in ((batch.outcome.dropped, ledger.drop), (batch.outcome.noted, ledger.note)):
                for remark in said:
                    if first_time[remark.place]:
                        count(remark.reason, remark.id, remark.detail)
            update(seen, max(seen, rows))
    return tally


def _write_tested(folder: Path, landed: Sequence[Landed], sides: Sides) -> Path:
    """The test rows in one file, so that whoever renders training rows can look for them there."""
    path = folder / "tested.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for source, numbers in zip(landed, sides.test, strict=True):
            file.writelines(f"{text}\n" for text in source.texts(numbers))
    return path


def _texts(landed: Sequence[Landed], order: Order) -> Iterator[tuple[str, bool]]:
    """The examples in this order, as JSON, and whether each comes for the first time; a source is read on from where it
    was, and again when it starts over."""
    readers = [_Reader(source) for source in landed]
    seen = [np.zeros(len(source.keys), dtype=bool) for source in landed]
    for at, number in order:
        yield readers[at].read(number), not seen[at][number]
        seen[at][number] = True


class _Reader:
    """Reads a landed source forwards; asked for a row that has passed, it starts at the beginning again."""

    def __init__(self, landed: Landed) -> None:
        self._landed = landed
        self._texts = landed.texts()
        self._next = 0

    def read(self, number: int) -> str:
        if number < self._next:
            self._texts = self._landed.texts()
            self._next = 0
        for text in self._texts:
            self._next += 1
            if self._next > number:
                return text
        raise IndexError(number)


def _batches(texts: Iterator[tuple[str, bool]], new: list[list[bool]]) -> Iterator[list[str]]:
    """Batches of texts; the flags of each are put at the end of `new`."""
    while batch := list(itertools.islice(texts, BATCH)):
        new.append([first for _, first in batch])
        yield [text for text, _ in batch]


def _hold_limit(recipe: Recipe, ledger: Ledger, read: int) -> None:
    assert recipe.data is not None
    allowed = recipe.data.quality.allowed(read)
    if ledger.rows_dropped > allowed:
        raise RequestError(
            f"data.quality.max_dropped: {ledger.rows_dropped:,} of {read:,} rows were dropped, and "
            f"{recipe.data.quality.max_dropped} may be:\n{in_words(ledger)}"
        )


def in_words(ledger: Ledger) -> str:
    """Each reason on a line, with the first rows that have it."""
    return "\n".join(f"  {a.rows:,} rows: {a.reason}, such as {'; '.join(a.first[:3])}" for a in ledger.dropped)


def _count(numbers: Sequence[Numbers]) -> int:
    return sum(len(here) for here in numbers)


def _counted(order: Order, used: list[int]) -> Iterator[tuple[int, int]]:
    for at, number in order:
        used[at] += 1
        yield at, number


def _sources(landed: Sequence[Landed], sides: Sides, used: Sequence[int]) -> tuple[SourceSummary, ...]:
    return tuple(
        SourceSummary(
            name=source.name,
            kind=source.kind,
            why=source.why,
            read=source.read,
            kept=len(train) + len(test),
            train=len(train),
            used=times,
        )
        for source, train, test, times in zip(landed, sides.train, sides.test, used, strict=True)
    )


def _say(context: StageContext, result: DataResult, ledger: Ledger) -> None:
    train, test = result.train, result.test
    context.progress.say(
        f"  {train.rows:,} rows to train on ({train.trained_tokens:,} trained of {train.tokens:,} tokens), "
        f"{test.rows:,} test rows from {test.documents:,} documents that training never sees"
    )
    if ledger.rows_dropped > _MANY * (train.rows + test.rows + ledger.rows_dropped):
        context.progress.say("  many rows were dropped; data.quality.max_dropped can make that an error")
    for remark in result.remarks:
        context.progress.say(f"  note on the chat template: {remark}")
    for source in result.sources:
        if source.used != source.train:
            context.progress.say(f"  {source.name}: {source.used:,} training rows drawn from {source.train:,}")
    for account in ledger.dropped:
        context.progress.say(f"  dropped {account.rows:,} rows: {account.reason}, such as {account.first[0]}")
    for account in ledger.noted:
        context.progress.say(f"  note, {account.rows:,} rows: {account.reason}, such as {account.first[0]}")
