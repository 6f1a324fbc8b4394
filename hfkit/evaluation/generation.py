"""Greedy answers for many prompts, batched and sorted by length, through the rendering that training used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel, ConfigDict

from hfkit.data.rendering import Renderer
from hfkit.progress import Update
from rag.answer import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers._typing import GenerativePreTrainedModel


class Generation(BaseModel):
    """What a model said. `stopped` is False where it was cut off at the limit instead of ending by itself."""

    model_config = ConfigDict(frozen=True)

    text: str
    stopped: bool


def generate(
    model: PreTrainedModel,
    renderer: Renderer,
    prompts: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int,
    batch_size: int,
    update: Update,
) -> list[Generation]:
    """One greedy answer a prompt, in the order of `prompts`."""
    import torch

    tokenizer = renderer.tokenizer
    ids = [renderer.prompt_ids(prompt) for prompt in prompts]
    stops = frozenset(renderer.stop_ids)
    answers: dict[int, Generation] = {}
    # The longest first: should memory not suffice, it shows at once.
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    model.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, padding=True, return_tensors="pt").to(
            model.device
        )
        with torch.inference_mode():
            output = cast("GenerativePreTrainedModel", model).generate(
                **batch,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=list(renderer.stop_ids),
                pad_token_id=tokenizer.pad_token_id,
            )
        for row, new in zip(rows, output[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            end = next((place for place, token in enumerate(new) if token in stops), None)
            text = tokenizer.decode(new[:end], skip_special_tokens=True)
            answers[row] = Generation(text=str(text).strip(), stopped=end is not None)
        update(len(answers), len(ids))
    return [answers[row] for row in range(len(ids))]
