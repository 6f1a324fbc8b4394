"""Greedy answers for many prompts: what prompts share is read once, and rows leave the batch when they are done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from hfkit.data.conversation import Turn
from hfkit.data.rendering import Renderer
from hfkit.errors import RequestError
from hfkit.evaluation.kv_cache import PrefixReader, Shared, can_share, context_limit, plan, read
from hfkit.evaluation.rows import Failed, Generation
from hfkit.progress import Update
from rag.answer import Message

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers._typing import GenerativePreTrainedModel

NAN = "the model's numbers are NaN"

_NEAR_TIE = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.25}
"""In logits: what rounding in each number format can move them by, with room to spare."""


def generate(
    model: PreTrainedModel,
    renderer: Renderer,
    prompts: Sequence[Sequence[Message | Turn]],
    *,
    max_new_tokens: int,
    batch_size: int,
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
    batch_size: int,
) -> Iterator[tuple[int, Generation | Failed]]:
    """The greedy answer to each prompt, given as tokens, with its number, as soon as it is there; in no order.

    An answer ends at a stop token, at `max_new_tokens`, or where the model's context is full.
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
    shares = can_share(model)
    batches = plan(sequences, batch_size, share=shares)
    reader = PrefixReader(model, sequences, batches)
    for batch in batches.batches:
        answers = answering.decode(reader, batch) if shares else answering.by_transformers(sequences, batch)
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

    def decode(self, reader: PrefixReader, batch: Shared) -> Iterator[tuple[int, Generation | Failed]]:
        """The answers of a batch, shortest first."""
        import torch

        rows = list(batch.rows)
        written: dict[int, list[int]] = {row: [] for row in rows}
        near_tie = dict.fromkeys(rows, False)
        with torch.inference_mode():
            cached, logits = reader.read(batch)
        while True:
            with torch.inference_mode():
                best, gap, broken = _choice(logits)
            going = []
            for place, row in enumerate(rows):
                if broken[place]:
                    yield row, Failed(reason=NAN)
                    continue
                written[row].append(best[place])
                near_tie[row] |= gap[place] < self.tolerance
                stopped = best[place] in self.stops
                if stopped or len(written[row]) == self.room[row]:
                    yield row, self._answer(written.pop(row), near_tie[row])
                else:
                    going.append(place)
            if not going:
                return
            with torch.inference_mode():
                if len(going) < len(rows):
                    cached.keep(torch.tensor(going, device=self.model.device))
                    rows = [rows[place] for place in going]
                cached, logits = read(self.model, [written[row][-1:] for row in rows], cached)
                logits = logits[:, -1]

    def by_transformers(
        self, sequences: Sequence[Sequence[int]], batch: Shared
    ) -> Iterator[tuple[int, Generation | Failed]]:
        """The same by `model.generate`, for models with a cache of another kind."""
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
