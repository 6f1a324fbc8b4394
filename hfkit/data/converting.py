"""Rows into canonical examples: converted, looked at by the gates that need no other row, and what is kept of each in
memory worked out. Done on workers where there are many."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter

from hfkit.data.duplicates import content_key
from hfkit.data.examples import Example, LabelledText
from hfkit.data.formats import choose_format
from hfkit.data.ledger import Account, Ledger, RowFault
from hfkit.data.prepared import example_schema
from hfkit.data.quality import examine
from hfkit.data.sources.batch import Batch, Row
from hfkit.data.workers import Job
from hfkit.recipe import DataSource, QualitySection, ReadSource, SplitsSection, SynthesizeSource

if TYPE_CHECKING:
    import pyarrow as pa

_SOURCE: TypeAdapter[DataSource] = TypeAdapter(DataSource)


class Conversion(BaseModel):
    """What converting depends on.

    Attributes:
        source, key: of the recipe, and where it stands there.
        sample: the first rows of the source, as JSON, from which its format is told.
        mark: what is put behind each row's id, where a source before this one reads rows of the same places: an id
            names one example. What a row belongs to stays what it is, so that no row stands on both sides.
    """

    model_config = ConfigDict(frozen=True)

    source: JsonValue
    key: str
    sample: str
    splits: SplitsSection
    quality: QualitySection
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a batch. `examples` has the columns of `example_schema` and key, group (uint64), stratum (JSON of
    the value that splits keep in proportion) and time (float64 seconds)."""

    examples: pa.RecordBatch
    dropped: tuple[Account, ...]
    noted: tuple[Account, ...]


class Converter:
    """Converts batches of one source in this process."""

    def __init__(self, settings: Conversion) -> None:
        source = _SOURCE.validate_python(settings.source)
        assert not isinstance(source, SynthesizeSource)
        self._source: ReadSource = source
        self._splits, self._quality, self._mark = settings.splits, settings.quality, settings.mark
        # How rows are dealt matters to those alone that are.
        dealt = source.use == "split"
        self._time = settings.splits.key if dealt and settings.splits.by == "time" else None
        self._stratum = settings.splits.stratify if dealt else None
        self.chosen = choose_format(json.loads(settings.sample), source.format, source.fields, settings.key)

    def convert(self, batch: Batch) -> Converted:
        ledger = Ledger()
        kept: list[Example] = []
        groups: list[str] = []
        strata: list[str] = []
        times: list[float] = []
        for row, place in zip(batch.rows, batch.places, strict=True):
            for inner, where in self.chosen.expand(row, place):
                try:
                    example = self._example(inner, where, ledger)
                    time = 0.0 if self._time is None else _seconds(inner, self._time)
                    stratum = _stratum_of(example, self._stratum)
                except RowFault as fault:
                    ledger.drop(fault.reason, where, fault.detail)
                    continue
                good = _without_faults(example, where, self._quality, ledger)
                if good is not None:
                    groups.append(group_of(good, self._splits))
                    kept.append(good.model_copy(update={"id": f"{good.id}{self._mark}"}) if self._mark else good)
                    strata.append(stratum)
                    times.append(time)
        return Converted(landed_batch(kept, groups, strata, times), ledger.dropped, ledger.noted)

    def _example(self, row: Row, place: str, ledger: Ledger) -> Example:
        """Raises RowFault."""
        source = self._source
        return self.chosen.convert(
            row,
            id=place,
            document=None if source.group is None else _group(row, source.group),
            metadata={name: _scalar(row, name) for name in source.keep},
            system=source.system,
            ledger=ledger,
        )


def group_of(example: Example, splits: SplitsSection) -> str:
    """What the example must stay together with on one side."""
    return example.id if splits.by == "row" else example.document


def landed_batch(
    examples: Sequence[Example], groups: Sequence[str], strata: Sequence[str], times: Sequence[float]
) -> pa.RecordBatch:
    """Examples and what is remembered of each, as `Converted` describes them."""
    import pyarrow as pa

    columns = {
        "id": pa.array([example.id for example in examples], pa.string()),
        "document": pa.array([example.document for example in examples], pa.string()),
        "kind": pa.array([example.kind for example in examples], pa.string()),
        "example": pa.array([example.model_dump_json() for example in examples], pa.string()),
        "key": pa.array([content_key(example) for example in examples], pa.uint64()),
        "group": pa.array([_hashed(group) for group in groups], pa.uint64()),
        "stratum": pa.array(strata, pa.string()),
        "time": pa.array(times, pa.float64()),
    }
    return pa.RecordBatch.from_pydict(columns, schema=landed_schema())


def landed_schema() -> pa.Schema:
    import pyarrow as pa

    remembered = [("key", pa.uint64()), ("group", pa.uint64()), ("stratum", pa.string()), ("time", pa.float64())]
    return pa.schema([*example_schema(), *(pa.field(name, kind) for name, kind in remembered)])


def conversion_job(settings: str) -> Job:
    """What a worker does with a batch: rows and their places as JSON in, accounts and examples out."""
    converter = Converter(Conversion.model_validate_json(settings))

    def job(work: bytes) -> bytes:
        import pyarrow as pa

        rows, places = json.loads(work)
        converted = converter.convert(Batch(rows, places))
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, converted.examples.schema) as stream:
            stream.write_batch(converted.examples)
        accounts = [[one.model_dump() for one in some] for some in (converted.dropped, converted.noted)]
        said = json.dumps(accounts).encode()
        return len(said).to_bytes(8, "big") + said + sink.getvalue()

    return job


def packed(batch: Batch) -> bytes:
    """A batch as the job takes it."""
    return json.dumps([list(batch.rows), list(batch.places)]).encode()


def unpacked(answer: bytes) -> Converted:
    """What the job answered."""
    import pyarrow as pa

    end = 8 + int.from_bytes(answer[:8], "big")
    dropped, noted = (tuple(Account.model_validate(one) for one in some) for some in json.loads(answer[8:end]))
    with pa.ipc.open_stream(pa.py_buffer(answer)[end:]) as stream:
        return Converted(stream.read_next_batch(), dropped, noted)


def _stratum_of(example: Example, field: str | None) -> str:
    """The value that splits keep in proportion, as JSON. Raises RowFault where the example has no such field."""
    if field is None:
        return ""
    if field in example.metadata:
        return json.dumps(example.metadata[field])
    if field == "label" and isinstance(example, LabelledText):
        return json.dumps(example.label)
    raise RowFault("no value to stratify by", f"data.splits.stratify names {field}; keep that column")


def _hashed(group: str) -> int:
    return int.from_bytes(hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


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
        try:
            return float(value)
        except OverflowError:
            raise RowFault("no time", f"{name} is a number of {len(str(value))} digits") from None
    if not isinstance(value, str):
        raise RowFault("no time", _columns_of(row, name))
    if value.strip().isdigit():
        raise RowFault("no time", f"{name} is {value!r}, digits in quotes; a time is a number or an ISO 8601 date")
    try:
        when = datetime.fromisoformat(value.strip().removesuffix("Z"))
    except ValueError as error:
        raise RowFault("no time", f"{name} is {value!r}, which is no number and no ISO 8601 date") from error
    return (when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)).timestamp()


def _columns_of(row: Row, name: str) -> str:
    return f"{name} is null" if name in row else f"there is no {name} among {', '.join(sorted(row))[:200]}"
