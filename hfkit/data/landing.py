"""A source's rows onto the disk as canonical examples, so that nothing later depends on what fits into memory.

What later steps ask of every row (its content's key, its group, its stratum, its time) is a few bytes and stays in
memory; the examples themselves are read again, in order, when they are needed.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from hfkit.data.converting import (
    Conversion,
    Converted,
    Converter,
    conversion_job,
    group_of,
    landed_batch,
    landed_schema,
    packed,
    unpacked,
)
from hfkit.data.cores import cores
from hfkit.data.examples import EXAMPLE, Example, Kind
from hfkit.data.formats import SAMPLE
from hfkit.data.ledger import Ledger
from hfkit.data.mixing import Numbers
from hfkit.data.prepared import ShardWriter
from hfkit.data.sources import read_source
from hfkit.data.sources.batch import Batch
from hfkit.data.sources.sql import sql_name
from hfkit.data.workers import on_workers
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
_BATCHES_ALONE = 3


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
    """Numbers for the values that splits keep in proportion, the same in all sources."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def codes(self, values: Sequence[str]) -> list[int]:
        return [self._codes.setdefault(value, len(self._codes)) for value in values]


class _Columns:
    """The arrays of a Landed, growing."""

    def __init__(self, strata: Strata) -> None:
        self._strata = strata
        self.keys, self.groups, self.strata, self.times = array("Q"), array("Q"), array("q"), array("d")

    def add(self, batch: pa.RecordBatch) -> None:
        self.keys.extend(batch.column("key").to_pylist())
        self.groups.extend(batch.column("group").to_pylist())
        self.strata.extend(self._strata.codes(batch.column("stratum").to_pylist()))
        self.times.extend(batch.column("time").to_pylist())


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
    read_before: bool = False,
) -> Landed:
    """Read source `number` of the recipe, convert its rows and keep those without fault in `folder`. `read_before` says
    that a source before it reads rows of the same places, under other columns for example: ids tell them apart.

    Raises:
        RequestError: the source cannot be read, gives no rows, or is of no format that is known for certain.
    """
    key = f"data.sources.{number}"
    before = ledger.rows_dropped
    batches = read_source(source, ledger, allow_code=allow_code)
    first = next(batches)  # a source without rows raises
    settings = Conversion(
        source=source.model_dump(mode="json"),
        key=key,
        sample=json.dumps(list(first.rows[:SAMPLE])),
        splits=splits,
        quality=quality,
        mark=f" ({key})" if read_before else "",
    )
    converter = Converter(settings)
    for note in converter.chosen.notes:
        ledger.note(note, first.places[0])
    columns = _Columns(strata)
    with ShardWriter(folder, "rows", landed_schema()) as writer:
        for converted in _converted(converter, settings, first, batches):
            for account in converted.dropped:
                ledger.merge_dropped(account)
            for account in converted.noted:
                ledger.merge_noted(account)
            if converted.examples.num_rows:
                writer.write(converted.examples)
                columns.add(converted.examples)
    return Landed(
        name=_name_of(key, source),
        folder=folder,
        kind=converter.chosen.kind if columns.keys else None,
        why=converter.chosen.why,
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
    columns = _Columns(strata)
    with ShardWriter(folder, "rows", landed_schema()) as writer:
        for start in range(0, len(examples), _EXAMPLES_A_BATCH):
            part = examples[start : start + _EXAMPLES_A_BATCH]
            groups = [group_of(example, splits) for example in part]
            # Neither a stratum nor a time: these rows are dealt already.
            batch = landed_batch(part, groups, [""] * len(part), [0.0] * len(part))
            writer.write(batch)
            columns.add(batch)
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


def _indices(numbers: Numbers) -> pa.Array:
    import pyarrow as pa

    return pa.array(numbers)


def _converted(
    converter: Converter, settings: Conversion, first: Batch, batches: Iterator[Batch]
) -> Iterator[Converted]:
    """The batches, converted, in order; on workers once there are so many that starting them is worth it."""
    for batch in itertools.chain([first], itertools.islice(batches, _BATCHES_ALONE - 1)):
        yield converter.convert(batch)
    following = next(batches, None)
    if following is None:
        return
    work = (packed(batch) for batch in itertools.chain([following], batches))
    job = f"{conversion_job.__module__}:{conversion_job.__name__}"
    for answer in on_workers(job, settings.model_dump_json(), work, cores()):
        yield unpacked(answer)


def _name_of(key: str, source: ReadSource) -> str:
    match source:
        case PathSource():
            return f"{key} ({source.path})"
        case HubSource():
            return f"{key} ({source.hub})"
        case SqlSource():
            return f"{key} ({sql_name(source)})"
        case CallableSource():
            return f"{key} ({source.callable})"
