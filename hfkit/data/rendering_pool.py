"""Examples into sequences on all cores: each worker is a process that renders one batch at a time.

Batches come back in the order in which they went out, so the result does not depend on how many workers there are.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from hfkit.data.conversation import Conversation
from hfkit.data.examples import EXAMPLE, Example, PlainText
from hfkit.data.ledger import Account, Ledger, RowFault
from hfkit.data.prepared import sequence_schema
from hfkit.data.rendering import Rendered, Renderer, SpecialTokens
from hfkit.errors import RequestError, WorkError
from hfkit.models.loading import load_renderer
from hfkit.recipe import ModelSection

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 500

# A worker imports the tokenizer's library first, which takes seconds: for fewer rows that is not worth it.
_ROWS_WORTH_WORKERS = 8_000


class RenderSettings(BaseModel):
    """What rendering depends on: the model's tokenizer and template, the longest sequence, what is done with content
    that spells special tokens, and whether there are conversations, which need a template."""

    model_config = ConfigDict(frozen=True)

    model: ModelSection
    max_length: int
    special_tokens: SpecialTokens
    chat: bool


class Outcome(BaseModel):
    """What a batch gave beside its sequences.

    Attributes:
        kept: for each example, whether at least one sequence came of it.
        dropped, noted: the rows at fault, by reason.
        tokens_too_long: tokens of sequences that were longer than may be.
        remarks: what should be known of the template, the same for every batch.
    """

    model_config = ConfigDict(frozen=True)

    kept: tuple[bool, ...]
    dropped: tuple[Account, ...]
    noted: tuple[Account, ...]
    tokens_too_long: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RenderedBatch:
    """`texts` are the examples of the batch that was rendered, as JSON, in order."""

    texts: Sequence[str]
    sequences: pa.RecordBatch
    outcome: Outcome

    @classmethod
    def unrendered(cls, texts: Sequence[str]) -> RenderedBatch:
        """Examples of a kind that is not rendered: all kept, without sequences."""
        kept = Outcome(kept=(True,) * len(texts), dropped=(), noted=(), tokens_too_long=0)
        return cls(texts, _record_batch([]), kept)


def render_batches(batches: Iterable[Sequence[str]], settings: RenderSettings, rows: int) -> Iterator[RenderedBatch]:
    """The batches (examples as JSON), rendered, in order; `rows` is about how many examples there will be.

    Raises:
        RequestError: no row can be rendered with this template, or a row spells a special token and that is refused.
        WorkError: a worker died.
    """
    # Here too, so that a template that cannot be used is told before any worker is started.
    batch_renderer = BatchRenderer(settings)
    workers = _cores() if rows >= _ROWS_WORTH_WORKERS else 1
    if workers > 1:
        yield from _on_workers(batches, settings, workers)
        return
    for texts in batches:
        sequences, outcome = batch_renderer.render(texts)
        yield RenderedBatch(texts, sequences, outcome)


class BatchRenderer:
    """Renders batches in this process."""

    def __init__(self, settings: RenderSettings) -> None:
        self._renderer = load_renderer(settings.model, special_tokens=settings.special_tokens, chat=settings.chat)
        self._max_length = settings.max_length
        self._chat = settings.chat

    def render(self, texts: Sequence[str]) -> tuple[pa.RecordBatch, Outcome]:
        examples = [EXAMPLE.validate_json(text) for text in texts]
        ledger = Ledger()
        too_long = 0
        rows: list[tuple[str, Rendered]] = []
        kept = []
        for example, rendered in zip(examples, self._rendered(examples), strict=True):
            if isinstance(rendered, RowFault):
                ledger.drop(rendered.reason, example.id, rendered.detail)
                kept.append(False)
                continue
            spelled = self._renderer.spelled_specials(example)
            if spelled:
                ledger.note("special tokens in content, kept as text", example.id, " ".join(spelled))
            if isinstance(example, Conversation):
                for left_out in self._renderer.left_out(example):
                    ledger.note("left out by the chat template", example.id, left_out)
            fitting = [one for one in rendered if len(one.input_ids) <= self._max_length]
            if not rendered:
                ledger.drop("nothing in it would be trained", example.id)
            elif len(fitting) < len(rendered):
                longest = max(len(one.input_ids) for one in rendered)
                too_long += sum(len(one.input_ids) for one in rendered if len(one.input_ids) > self._max_length)
                # An example of which one turn is too long may still train on its others.
                count = ledger.note if fitting else ledger.drop
                count(f"longer than data.max_length ({self._max_length} tokens)", example.id, f"{longest} tokens")
            rows += [(example.id, one) for one in fitting]
            kept.append(bool(fitting))
        outcome = Outcome(
            kept=tuple(kept),
            dropped=ledger.dropped,
            noted=ledger.noted,
            tokens_too_long=too_long,
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


def _on_workers(batches: Iterable[Sequence[str]], settings: RenderSettings, workers: int) -> Iterator[RenderedBatch]:
    """Every worker has one batch at a time: it is answered before the next is sent, so that no pipe fills up on both
    sides."""
    # Not forked: the parent's libraries have threads, which a fork would leave half alive.
    start = multiprocessing.get_context("spawn")
    processes = []
    free: deque[Connection] = deque()
    for _ in range(workers):
        ours, theirs = start.Pipe()
        process = start.Process(target=_work, args=(theirs, settings.model_dump_json()), daemon=True)
        process.start()
        # Only then does a worker see the end of its pipe when this process is gone.
        theirs.close()
        processes.append(process)
        free.append(ours)
    busy: deque[tuple[Connection, Sequence[str]]] = deque()
    try:
        for texts in batches:
            if not free:
                connection, sent = busy.popleft()
                done = _received(connection, sent)
                free.append(connection)
            else:
                done = None
            connection = free.popleft()
            connection.send_bytes(json.dumps(list(texts)).encode())
            busy.append((connection, texts))
            if done is not None:
                yield done
        while busy:
            connection, sent = busy.popleft()
            yield _received(connection, sent)
    except (BrokenPipeError, EOFError, ConnectionResetError) as error:
        raise WorkError("a process that renders training data died; is there enough memory?") from error
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _received(connection: Connection, sent: Sequence[str]) -> RenderedBatch:
    import pyarrow as pa

    said = json.loads(connection.recv_bytes())
    if "refused" in said:
        raise RequestError(said["refused"])
    outcome = Outcome.model_validate(said)
    with pa.ipc.open_stream(io.BytesIO(connection.recv_bytes())) as stream:
        return RenderedBatch(sent, stream.read_next_batch(), outcome)


def _work(connection: Connection, settings: str) -> None:
    """A worker's life: a batch of JSON in, what came of it out, until nobody is there any more."""
    import pyarrow as pa

    # One process a core: threads of the tokenizer would only get into each other's way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        renderer = BatchRenderer(RenderSettings.model_validate_json(settings))
        while True:
            batch, outcome = renderer.render(json.loads(connection.recv_bytes()))
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            connection.send_bytes(outcome.model_dump_json().encode())
            connection.send_bytes(sink.getbuffer())
    except RequestError as error:
        connection.send_bytes(json.dumps({"refused": str(error)}).encode())
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


def _cores() -> int:
    """How many this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
