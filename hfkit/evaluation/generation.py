"""Greedy answers for many prompts: what prompts share is read once, and rows join and leave the batch as they go."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from hfkit.data.conversation import Turn
from hfkit.data.rendering import Renderer
from hfkit.errors import RequestError
from hfkit.evaluation.kv_cache import Cached, can_share, context_limit, joined, read
from hfkit.evaluation.rows import Failed, Generation
from hfkit.evaluation.shared_prefixes import PrefixReader, Shared, plan
from hfkit.progress import Update
from rag.answer import Message

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers._typing import GenerativePreTrainedModel

NAN = "the model's numbers are NaN"

_READ_TOGETHER = 16
"""Prompts that are read at a time: reading computes on every token of them, and more would only add padding."""

_CACHE_ON_CPU = 2**30
"""Bytes of keys and values that rows decoded together may take."""

_NEAR_TIE = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.25}
"""In logits: what rounding in each number format can move them by, with room to spare."""


def generate(
    model: PreTrainedModel,
    renderer: Renderer,
    prompts: Sequence[Sequence[Message | Turn]],
    *,
    max_new_tokens: int,
    batch_size: int | Literal["auto"],
    update: Update,
) -> list[Generation | Failed]:
    """One greedy answer a prompt, in the order of `prompts`."""
    answers: list[Generation | Failed] = [Failed(reason="not asked")] * len(prompts)
    ids: list[list[int]] = []
    places: list[int] = []
    for place, prompt in enumerate(prompts):
        try:
            ids.append(renderer.prompt_ids(prompt))
        except RequestError as error:
            answers[place] = Failed(reason=str(error))
        else:
            places.append(place)
    done = len(prompts) - len(places)
    for number, answer in generate_each(model, renderer, ids, max_new_tokens=max_new_tokens, batch_size=batch_size):
        answers[places[number]] = answer
        done += 1
        update(done, len(prompts))
    return answers


def generate_each(
    model: PreTrainedModel,
    renderer: Renderer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int | Literal["auto"],
) -> Iterator[tuple[int, Generation | Failed]]:
    """The greedy answer to each prompt, given as tokens, with its number, as soon as it is there; in no order.

    An answer ends at a stop token, at `max_new_tokens`, or where the model's context is full. `batch_size` is how many
    are decoded together; "auto" takes what memory allows, up to 64 on a CPU and 256 on a GPU.
    """
    model.eval()
    limit = context_limit(model)
    room = [max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt)) for prompt in prompts]
    for number, left in enumerate(room):
        if left < 1:
            yield number, Failed(reason=f"the prompt is longer than the {limit} tokens that the model can take")
    asked = [number for number in range(len(prompts)) if room[number] > 0]
    if not asked:
        return
    answering = _Answering(model, renderer.tokenizer, renderer.stop_ids, [room[number] for number in asked])
    sequences = [prompts[number] for number in asked]
    if can_share(model):
        answers = answering.decode(sequences, batch_size)
    else:
        answers = answering.by_transformers(sequences, _READ_TOGETHER if batch_size == "auto" else batch_size)
    for row, answer in answers:
        yield asked[row], answer


class _Answering:
    """Decodes for one model. `room` is how many tokens each row may have."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        room: Sequence[int],
    ) -> None:
        self.model, self.tokenizer, self.room = model, tokenizer, room
        self.stops = frozenset(stop_ids)
        self.tolerance = _NEAR_TIE.get(str(model.dtype).removeprefix("torch."), 0.25)

    def decode(
        self, sequences: Sequence[Sequence[int]], batch_size: int | Literal["auto"]
    ) -> Iterator[tuple[int, Generation | Failed]]:
        """The answers, as they end. Rows are read few at a time and decoded many at a time: as answers end, prompts
        that wait are read and join those that are being answered."""
        import torch

        most = self._decoded_together(sequences) if batch_size == "auto" else batch_size
        planned = plan(sequences, max(1, min(_READ_TOGETHER, most // 2)), share=True)
        reader, waiting = PrefixReader(self.model, sequences, planned), deque(planned.batches)
        rows: list[int] = []
        written: dict[int, list[int]] = {}
        near_tie: dict[int, bool] = {}
        # What the model has read of each row, and its logits for the next token of each, [rows, V].
        live: tuple[Cached, torch.Tensor] | None = None
        while rows or waiting:
            with torch.inference_mode():
                parts = [] if live is None else [live]
                # Not for each answer that ends: whoever joins, all that was read is copied once.
                if len(rows) <= most // 2:
                    while waiting and (not rows or len(rows) + len(waiting[0].rows) <= most):
                        batch = waiting.popleft()
                        parts.append(reader.read(batch))
                        rows += batch.rows
                cached = joined([part for part, _ in parts]) if len(parts) > 1 else parts[0][0]
                logits = torch.cat([logits for _, logits in parts])
                # Or what was joined would be held twice.
                parts, live = [], None
                best, gap, broken = _choice(logits)
            going = []
            for place, row in enumerate(rows):
                if broken[place]:
                    yield row, Failed(reason=NAN)
                    continue
                written.setdefault(row, []).append(best[place])
                near_tie[row] = near_tie.get(row, False) or gap[place] < self.tolerance
                stopped = best[place] in self.stops
                if stopped or len(written[row]) == self.room[row]:
                    yield row, self._answer(written.pop(row), near_tie[row])
                else:
                    going.append(place)
            rows = [rows[place] for place in going]
            if not rows:
                continue
            with torch.inference_mode():
                if len(rows) < len(cached.lengths):
                    cached.keep(torch.tensor(going, device=self.model.device))
                cached, logits = read(self.model, [written[row][-1:] for row in rows], cached)
                live = cached, logits[:, -1]

    def _decoded_together(self, sequences: Sequence[Sequence[int]]) -> int:
        """A step reads all weights once, for however many rows: as many as a processor computes in about that time, if
        their keys and values fit into memory."""
        import torch

        with torch.inference_mode():
            cached, _ = read(self.model, [sequences[0][:1]])
        longest = max(len(sequence) + room for sequence, room in zip(sequences, self.room, strict=True))
        on_gpu = self.model.device.type == "cuda"
        budget = torch.cuda.mem_get_info()[0] // 4 if on_gpu else _CACHE_ON_CPU
        return min(256 if on_gpu else 64, max(1, budget // (cached.bytes_a_token() * longest)))

    def by_transformers(
        self, sequences: Sequence[Sequence[int]], batch_size: int
    ) -> Iterator[tuple[int, Generation | Failed]]:
        """The same by `model.generate`, for models with a cache of another kind."""
        for batch in plan(sequences, batch_size, share=False).batches:
            yield from self._generated(sequences, batch)

    def _generated(
        self, sequences: Sequence[Sequence[int]], batch: Shared
    ) -> Iterator[tuple[int, Generation | Failed]]:
        import torch
        from transformers import LogitsProcessor, LogitsProcessorList

        smallest: list[float] = [float("inf")] * len(batch.rows)
        is_broken = [False] * len(batch.rows)
        ended = [False] * len(batch.rows)
        stops = self.stops

        class Watch(LogitsProcessor):
            def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
                best, gap, broken = _choice(scores.float())
                for place in range(len(best)):
                    if not ended[place]:
                        smallest[place] = min(smallest[place], gap[place])
                        is_broken[place] |= broken[place]
                        ended[place] = best[place] in stops
                return scores

        padded = self.tokenizer.pad(
            {"input_ids": [list(sequences[row]) for row in batch.rows]}, padding=True, return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            output: Any = cast("GenerativePreTrainedModel", self.model).generate(
                **padded,
                do_sample=False,
                max_new_tokens=max(self.room[row] for row in batch.rows),
                eos_token_id=sorted(stops),
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([Watch()]),
            )
        for place, row in enumerate(batch.rows):
            new = output[place, padded["input_ids"].shape[1] :].tolist()[: self.room[row]]
            if is_broken[place]:
                yield row, Failed(reason=NAN)
                continue
            end = next((number + 1 for number, token in enumerate(new) if token in stops), len(new))
            yield row, self._answer(new[:end], smallest[place] < self.tolerance)

    def _answer(self, tokens: Sequence[int], near_tie: bool) -> Generation:
        stopped = tokens[-1] in self.stops
        text = self.tokenizer.decode(list(tokens[:-1] if stopped else tokens), skip_special_tokens=True)
        return Generation(text=str(text).strip(), stopped=stopped, near_tie=near_tie)


def _choice(logits: torch.Tensor) -> tuple[list[int], list[float], list[bool]]:
    """For logits [rows, V]: the greatest of each row, its lead over the second, and whether any is NaN."""
    greatest = logits.topk(2, dim=-1)
    lead = greatest.values[:, 0] - greatest.values[:, 1]
    return greatest.indices[:, 0].tolist(), lead.tolist(), logits.isnan().any(dim=-1).tolist()
