"""A source's rows onto the disk as canonical examples, so that nothing later depends on what fits into memory.

What later steps ask of every row (its content's key, its group, its stratum, its time) is a few bytes and stays in
memory; the examples themselves are read again, in order, when they are needed.
"""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from hfkit.data.duplicates import content_key
from hfkit.data.examples import EXAMPLE, Example, Kind, LabelledText
from hfkit.data.formats import SAMPLE, ChosenFormat, choose_format
from hfkit.data.ledger import Ledger, RowFault
from hfkit.data.mixing import Numbers
from hfkit.data.prepared import ShardWriter, example_batch, example_schema
from hfkit.data.quality import examine
from hfkit.data.sources import read_source
from hfkit.data.sources.batch import Row
from hfkit.recipe import (
    CallableSource,
    HubSource,
    PathSource,
    QualitySection,
    ReadSource,
    SplitsSection,
    SqlSource,
)

if TYPE_CHECKING:
    import pyarrow as pa

_EXAMPLES_A_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Landed:
    """One source on disk. The arrays hold one value for each example that was kept, in order.

    Attributes:
        name: as messages call the source.
        folder: where its shards lie.
        kind: of all its examples; None where none was kept.
        why: what the format was detected from.
        read: rows that the source gave, whatever became of them.
        use: "split", or the side that all rows are on.
        weight, rows: as the recipe says.
        keys: uint64, equal for equal content.
        groups: uint64, equal for rows that must not be on two sides.
        strata: int64 codes of the value that splits keep in proportion; all 0 where the recipe asks for none.
        times: float64 seconds, or None where the recipe does not split by time.
    """

    name: str
    folder: Path
    kind: Kind | None
    why: str
    read: int
    use: Literal["split", "train", "test"]
    weight: float
    rows: int | None
    keys: npt.NDArray[np.uint64]
    groups: npt.NDArray[np.uint64]
    strata: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64] | None

    def examples(self, numbers: Numbers | None = None) -> Iterator[Example]:
        """The examples at these ascending places, or all of them."""
        for text in self.texts(numbers):
            yield EXAMPLE.validate_json(text)

    def texts(self, numbers: Numbers | None = None) -> Iterator[str]:
        """As `examples`, as JSON."""
        import pyarrow.parquet as pq

        wanted = np.arange(len(self.keys)) if numbers is None else numbers
        before = at = 0
        for path in sorted(self.folder.glob("rows-*.parquet")):
            for batch in pq.ParquetFile(path).iter_batches(batch_size=_EXAMPLES_A_BATCH, columns=["example"]):
                after = before + batch.num_rows
                end = int(np.searchsorted(wanted, after))
                if end > at:
                    yield from batch.column(0).take(_indices(wanted[at:end] - before)).to_pylist()
                before, at = after, end


class Strata:
    """Numbers for the values of the field that splits keep in proportion, the same in all sources."""

    def __init__(self, field: str | None) -> None:
        self.field = field
        self._codes: dict[object, int] = {}

    def code(self, example: Example) -> int:
        """Raises RowFault where the example has no such field."""
        if self.field is None:
            return 0
        if self.field in example.metadata:
            value: object = example.metadata[self.field]
        elif self.field == "label" and isinstance(example, LabelledText):
            value = example.label
        else:
            raise RowFault("no value to stratify by", f"data.splits.stratify names {self.field}; keep that column")
        return self._codes.setdefault(value, len(self._codes))


class _Columns:
    """The arrays of a Landed, growing."""

    def __init__(self) -> None:
        self.keys, self.groups, self.strata, self.times = array("Q"), array("Q"), array("q"), array("d")

    def add(self, example: Example, group: str, stratum: int, time: float) -> None:
        self.keys.append(content_key(example))
        digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self.groups.append(int.from_bytes(digest, "big"))
        self.strata.append(stratum)
        self.times.append(time)


def land_source(
    source: ReadSource,
    number: int,
    folder: Path,
    *,
    splits: SplitsSection,
    quality: QualitySection,
    strata: Strata,
    allow_code: bool,
    ledger: Ledger,
) -> Landed:
    """Read source `number` of the recipe, convert its rows and keep those without fault in `folder`.

    Raises:
        RequestError: the source cannot be read, gives no rows, or is of no format that is known for certain.
    """
    key = f"data.sources.{number}"
    before = ledger.rows_dropped
    batches = read_source(source, ledger, allow_code=allow_code)
    first = next(batches)  # a source without rows raises
    chosen = choose_format(first.rows[:SAMPLE], source.format, source.fields, key)
    for note in chosen.notes:
        ledger.note(note, first.places[0])
    columns = _Columns()
    with ShardWriter(folder, "rows", example_schema()) as writer:
        for batch in itertools.chain([first], batches):
            kept: list[Example] = []
            for row, place in zip(batch.rows, batch.places, strict=True):
                for inner, where in _expanded(chosen, row, place):
                    try:
                        example, time = _converted(chosen, inner, where, source, splits, ledger)
                        stratum = strata.code(example)
                    except RowFault as fault:
                        ledger.drop(fault.reason, where, fault.detail)
                        continue
                    good = _without_faults(example, where, quality, ledger)
                    if good is not None:
                        kept.append(good)
                        columns.add(good, where if splits.by == "row" else good.document, stratum, time)
            if kept:
                writer.write(example_batch(kept))
    return Landed(
        name=_name_of(key, source),
        folder=folder,
        kind=chosen.kind if columns.keys else None,
        why=chosen.why,
        # Those that the source itself could not read are in the ledger alone.
        read=len(columns.keys) + ledger.rows_dropped - before,
        use=source.use,
        weight=source.weight,
        rows=source.rows,
        keys=np.array(columns.keys, dtype=np.uint64),
        groups=np.array(columns.groups, dtype=np.uint64),
        strata=np.array(columns.strata, dtype=np.int64),
        times=np.array(columns.times, dtype=np.float64) if splits.by == "time" else None,
    )


def land_examples(
    examples: Sequence[Example],
    name: str,
    folder: Path,
    *,
    use: Literal["train", "test"],
    splits: SplitsSection,
    strata: Strata,
) -> Landed:
    """The same for examples that were written by hfkit itself, whose side is known."""
    columns = _Columns()
    with ShardWriter(folder, "rows", example_schema()) as writer:
        for start in range(0, len(examples), _EXAMPLES_A_BATCH):
            part = examples[start : start + _EXAMPLES_A_BATCH]
            writer.write(example_batch(part))
            for example in part:
                group = example.id if splits.by == "row" else example.document
                columns.add(example, group, strata.code(example), 0.0)
    return Landed(
        name=name,
        folder=folder,
        kind=examples[0].kind if examples else None,
        why="written from the documents",
        read=len(examples),
        use=use,
        weight=1.0,
        rows=None,
        keys=np.array(columns.keys, dtype=np.uint64),
        groups=np.array(columns.groups, dtype=np.uint64),
        strata=np.array(columns.strata, dtype=np.int64),
        times=None,
    )


def _expanded(chosen: ChosenFormat, row: Row, place: str) -> Iterator[tuple[Row, str]]:
    """The rows that a row stands for, with their places."""
    inner = list(chosen.expand(row))
    if len(inner) == 1:
        yield inner[0], place
    else:
        yield from ((one, f"{place}/{number}") for number, one in enumerate(inner))


def _converted(
    chosen: ChosenFormat, row: Row, place: str, source: ReadSource, splits: SplitsSection, ledger: Ledger
) -> tuple[Example, float]:
    """The example and its time. Raises RowFault."""
    example = chosen.convert(
        row,
        id=place,
        document=None if source.group is None else _group(row, source.group),
        metadata={name: _scalar(row, name) for name in source.keep},
        system=source.system,
        ledger=ledger,
    )
    return example, _seconds(row, splits.key) if splits.by == "time" and splits.key is not None else 0.0


def _without_faults(example: Example, place: str, quality: QualitySection, ledger: Ledger) -> Example | None:
    """The example as the quality gates leave it, None where they drop it; all of it is counted."""
    examined = examine(example, quality)
    for reason, detail in examined.noted:
        ledger.note(reason, place, detail)
    if examined.dropped:
        # Counted once, by what was found first: a row is dropped once.
        reason, detail = examined.dropped[0]
        ledger.drop(reason, place, detail)
        return None
    return examined.example


def _indices(numbers: Numbers) -> pa.Array:
    import pyarrow as pa

    return pa.array(numbers)


def _scalar(row: Row, name: str) -> str | int | float | bool | None:
    if name not in row:
        raise RowFault("a column to keep is missing", _columns_of(row, name))
    value = row[name]
    if value is not None and not isinstance(value, str | int | float | bool):
        raise RowFault("a column to keep holds no plain value", f"{name} is a {type(value).__name__}")
    return value


def _group(row: Row, name: str) -> str:
    if row.get(name) is None:
        raise RowFault("no group", _columns_of(row, name))
    return str(row[name])


def _seconds(row: Row, name: str) -> float:
    """Seconds since 1970 of a number, or of a date as ISO 8601 writes it; without a zone it is taken for UTC."""
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        raise RowFault("no time", _columns_of(row, name))
    try:
        when = datetime.fromisoformat(value.strip().removesuffix("Z"))
    except ValueError as error:
        raise RowFault("no time", f"{name} is {value!r}, which is no number and no ISO 8601 date") from error
    return (when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)).timestamp()


def _columns_of(row: Row, name: str) -> str:
    return f"{name} is null" if name in row else f"there is no {name} among {', '.join(sorted(row))[:200]}"


def _name_of(key: str, source: ReadSource) -> str:
    match source:
        case PathSource():
            return f"{key} ({source.path})"
        case HubSource():
            return f"{key} ({source.hub})"
        case SqlSource():
            return f"{key} (sql)"
        case CallableSource():
            return f"{key} ({source.callable})"
