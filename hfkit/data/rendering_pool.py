"""Batches of examples into batches of sequences, on all cores where that is worth it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

from hfkit.data.contamination import Contamination
from hfkit.data.conversation import Conversation
from hfkit.data.cores import cores
from hfkit.data.examples import EXAMPLE, Example, PlainText
from hfkit.data.ledger import RowFault
from hfkit.data.prepared import sequence_schema
from hfkit.data.rendering import Rendered, Renderer, SpecialTokens
from hfkit.data.workers import Job, on_workers
from hfkit.models.loading import load_renderer
from hfkit.recipe import ModelSection

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 500

# A worker imports the tokenizer's library first, which takes seconds: for fewer rows that is not worth it.
_ROWS_WORTH_WORKERS = 8_000


class RenderSettings(BaseModel):
    """What rendering depends on: the model's tokenizer and template, the longest sequence, what is done with content
    that spells special tokens, and whether there are conversations, which need a template. `tested` is a file of test
    examples, a line of JSON each, that are looked for in what is rendered."""

    model_config = ConfigDict(frozen=True)

    model: ModelSection
    max_length: int
    special_tokens: SpecialTokens
    chat: bool
    tested: Path | None = None


class Remark(NamedTuple):
    """Something said of one row: its place in the batch, its id, the kind of thing, and what it is in this row."""

    place: int
    id: str
    reason: str
    detail: str


class Outcome(BaseModel):
    """What a batch gave beside its sequences.

    Attributes:
        kept: for each example, whether at least one sequence came of it.
        dropped, noted: what is at fault with rows, and what should be known of them.
        tokens_too_long: place in the batch -> tokens of sequences that were longer than may be.
        shown: number of a test example -> where its question or answer stands in this batch; each worker names an
            example once.
        remarks: what should be known of the template, the same for every batch.
    """

    model_config = ConfigDict(frozen=True)

    kept: tuple[bool, ...]
    dropped: tuple[Remark, ...]
    noted: tuple[Remark, ...]
    tokens_too_long: Mapping[int, int] = {}
    shown: Mapping[int, str] = {}
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RenderedBatch:
    """`texts` are the examples of the batch that was rendered, as JSON, in order."""

    texts: Sequence[str]
    sequences: pa.RecordBatch
    outcome: Outcome


def unrendered_batches(batches: Iterable[Sequence[str]], tested: Path | None) -> Iterator[RenderedBatch]:
    """Batches of examples of a kind that is not rendered: all kept, without sequences."""
    contamination = None if tested is None else Contamination(read_tested(tested))
    for texts in batches:
        shown: Mapping[int, str] = {}
        if contamination is not None:
            shown = contamination.look_at(EXAMPLE.validate_json(text) for text in texts)
        kept = Outcome(kept=(True,) * len(texts), dropped=(), noted=(), shown=shown)
        yield RenderedBatch(texts, _record_batch([]), kept)


def render_batches(batches: Iterable[Sequence[str]], settings: RenderSettings, rows: int) -> Iterator[RenderedBatch]:
    """The batches (examples as JSON), rendered, in order; `rows` is about how many examples there will be.

    Raises:
        RequestError: no row can be rendered with this template, or a row spells a special token and that is refused.
        WorkError: a worker died.
    """
    # In this process first, so that a template that cannot be used is told before any worker is started.
    renderer = BatchRenderer(settings)
    if rows < _ROWS_WORTH_WORKERS:
        for texts in batches:
            sequences, outcome = renderer.render(texts)
            yield RenderedBatch(texts, sequences, outcome)
        return
    sent: list[Sequence[str]] = []

    def work() -> Iterator[bytes]:
        for texts in batches:
            sent.append(texts)
            yield json.dumps(list(texts)).encode()

    for answer in on_workers(f"{__name__}:batch_job", settings.model_dump_json(), work(), cores()):
        sequences, outcome = _unpacked(answer)
        yield RenderedBatch(sent.pop(0), sequences, outcome)


def batch_job(settings: str) -> Job:
    """What a worker does with a batch: examples as JSON in, the outcome and the sequences out."""
    renderer = BatchRenderer(RenderSettings.model_validate_json(settings))

    def job(batch: bytes) -> bytes:
        return _packed(*renderer.render(json.loads(batch)))

    return job


def _packed(sequences: pa.RecordBatch, outcome: Outcome) -> bytes:
    import pyarrow as pa

    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, sequences.schema) as stream:
        stream.write_batch(sequences)
    said = outcome.model_dump_json().encode()
    return len(said).to_bytes(8, "big") + said + sink.getvalue()


def _unpacked(answer: bytes) -> tuple[pa.RecordBatch, Outcome]:
    import pyarrow as pa

    end = 8 + int.from_bytes(answer[:8], "big")
    with pa.ipc.open_stream(pa.py_buffer(answer)[end:]) as stream:
        return stream.read_next_batch(), Outcome.model_validate_json(answer[8:end])


class BatchRenderer:
    """Renders batches in this process."""

    def __init__(self, settings: RenderSettings) -> None:
        self._renderer = load_renderer(settings.model, special_tokens=settings.special_tokens, chat=settings.chat)
        self._max_length = settings.max_length
        self._chat = settings.chat
        self._contamination = None if settings.tested is None else Contamination(read_tested(settings.tested))

    def render(self, texts: Sequence[str]) -> tuple[pa.RecordBatch, Outcome]:
        examples = [EXAMPLE.validate_json(text) for text in texts]
        dropped: list[Remark] = []
        noted: list[Remark] = []
        too_long: dict[int, int] = {}
        rows: list[tuple[str, Rendered]] = []
        kept = []
        for place, (example, rendered) in enumerate(zip(examples, self._rendered(examples), strict=True)):
            if isinstance(rendered, RowFault):
                dropped.append(Remark(place, example.id, rendered.reason, rendered.detail))
                kept.append(False)
                continue
            spelled = self._renderer.spelled_specials(example)
            if spelled:
                noted.append(Remark(place, example.id, "special tokens in content, kept as text", " ".join(spelled)))
            if isinstance(example, Conversation):
                for left_out in self._renderer.left_out(example):
                    noted.append(Remark(place, example.id, "left out by the chat template", left_out))
            fitting = [one for one in rendered if len(one.input_ids) <= self._max_length]
            if not rendered:
                dropped.append(Remark(place, example.id, "nothing in it would be trained", ""))
            elif len(fitting) < len(rendered):
                longest = max(len(one.input_ids) for one in rendered)
                too_long[place] = sum(len(one.input_ids) for one in rendered if len(one.input_ids) > self._max_length)
                # An example of which one turn is too long may still train on its others.
                reason = f"longer than data.max_length ({self._max_length} tokens)"
                (noted if fitting else dropped).append(Remark(place, example.id, reason, f"{longest} tokens"))
            rows += [(example.id, one) for one in fitting]
            kept.append(bool(fitting))
        # A row that is not trained gives nothing away.
        trained = (example for example, stays in zip(examples, kept, strict=True) if stays)
        outcome = Outcome(
            kept=tuple(kept),
            dropped=tuple(dropped),
            noted=tuple(noted),
            tokens_too_long=too_long,
            shown={} if self._contamination is None else self._contamination.look_at(trained),
            remarks=tuple(self._renderer.remarks) if self._chat else (),
        )
        return _record_batch(rows), outcome

    def _rendered(self, examples: Sequence[Example]) -> list[list[Rendered] | RowFault]:
        conversations = [example for example in examples if isinstance(example, Conversation)]
        of_conversations = iter(self._renderer.render_many(conversations))
        rendered: list[list[Rendered] | RowFault] = []
        for example in examples:
            if isinstance(example, PlainText):
                rendered.append(_text(self._renderer, example, self._max_length))
            else:
                rendered.append(next(of_conversations))
        return rendered


def read_tested(path: Path) -> Iterator[Example]:
    """The examples of a file that holds one a line, as JSON."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield EXAMPLE.validate_json(line)


def _text(renderer: Renderer, example: PlainText, max_length: int) -> list[Rendered] | RowFault:
    try:
        return renderer.text_sequences(example.text, max_length)
    except RowFault as fault:
        return fault


def _record_batch(rows: Sequence[tuple[str, Rendered]]) -> pa.RecordBatch:
    import pyarrow as pa

    schema = sequence_schema()
    columns = (
        [id for id, _ in rows],
        [one.input_ids for _, one in rows],
        [[place for span in one.spans for place in span] for _, one in rows],
        [len(one.input_ids) for _, one in rows],
        [sum(end - start for start, end in one.spans) for _, one in rows],
    )
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)
