"""Rows into batches whose logits are needed at trained positions only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch

from hfkit.training.microbatches import padded_length

IGNORED = -100

Layout = Literal["padded", "blocks", "end_to_end"]
"""How packs become the lines of a batch, and how the model is told where a row ends.

padded: a row a line, and an attention mask over the padding.
blocks: a pack a line. There is no mask; `position_ids` that start again at 0 make Transformers build one that is
    block-diagonal (for eager, SDPA and FlexAttention).
end_to_end: all packs in one line, and the rows' borders as FlashAttention's kernels for rows of various lengths want
    them.
"""


class TrainingRow(TypedDict):
    """A row of the prepared dataset. `spans` are the trained [start, end) positions as s0, e0, s1, e1, ...

    The token at position 0 follows nothing, so it is never trained, whatever the spans say.
    """

    input_ids: list[int]
    spans: list[int]


@dataclass(frozen=True, slots=True)
class CollateTrainedPositions:
    """Packs of rows as a batch for the model, padded on the left, so that replies at the end of rows line up.

    A batch of B lines, the longest L tokens (rounded up to LENGTH_STEP), becomes:
        input_ids, position_ids: int64 [B, L]; positions count from each row's first token, and are 0 in padding.
        attention_mask (padded): int64 [B, L], 0 over padding.
        cu_seq_lens_q, cu_seq_lens_k (end_to_end): int32 [rows + 1], where each row starts, and at last L. Padding
            counts as a row. max_length_q, max_length_k: the longest of these rows.
        logits_to_keep: int64 [K], the positions at which any line predicts a trained token.
        labels, shift_labels: int64 [B, K], what is to be predicted there, IGNORED where a line trains nothing. Both
            names hold the same tensor: the Trainer counts a step's trained tokens in the second without shifting it.
        use_cache: False; with a cache Transformers would not look for rows in `position_ids`.

    No packs become a batch without tokens, which `is_empty` tells. A pack without rows, which keeps a rank in step with
    others, becomes a line of padding that trains nothing.
    """

    pad_id: int
    layout: Layout

    def __call__(self, packs: Sequence[Sequence[TrainingRow]]) -> dict[str, Any]:
        if not packs:
            return _nothing()
        lines = packs if self.layout != "end_to_end" else [[row for pack in packs for row in pack]]
        # A pack without rows becomes a line that trains nothing and yet can be computed.
        lines = [line or [TrainingRow(input_ids=[self.pad_id] * 2, spans=[])] for line in lines]
        length = padded_length(max(sum(len(row["input_ids"]) for row in line) for line in lines))
        input_ids = torch.full((len(lines), length), self.pad_id)
        position_ids = torch.zeros((len(lines), length), dtype=torch.long)
        attention_mask = torch.zeros((len(lines), length), dtype=torch.long)
        trained = torch.zeros((len(lines), length), dtype=torch.bool)
        starts = [0]
        for number, line in enumerate(lines):
            start = length - sum(len(row["input_ids"]) for row in line)
            attention_mask[number, start:] = 1
            for row in line:
                end = start + len(row["input_ids"])
                input_ids[number, start:end] = torch.tensor(row["input_ids"])
                position_ids[number, start:end] = torch.arange(end - start)
                for first, after in zip(row["spans"][::2], row["spans"][1::2], strict=True):
                    trained[number, start + max(first, 1) : start + after] = True
                starts.append(start)
                start = end
        kept = trained[:, 1:].any(0).nonzero().flatten()
        if not len(kept):
            # A model must be asked for some logits; this label is ignored.
            kept = torch.tensor([length - 2])
        labels = input_ids[:, kept + 1].masked_fill(~trained[:, kept + 1], IGNORED)
        batch: dict[str, Any] = {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "logits_to_keep": kept,
            "labels": labels,
            "shift_labels": labels,
            "use_cache": False,
        }
        if self.layout == "padded":
            return batch | {"attention_mask": attention_mask}
        if self.layout == "end_to_end":
            return batch | _borders([*sorted(set(starts)), length])
        return batch


def is_empty(batch: dict[str, Any]) -> bool:
    """Whether a batch was made of no packs, so that there is nothing to compute."""
    return int(batch["input_ids"].numel()) == 0


def _nothing() -> dict[str, Any]:
    none = torch.zeros((1, 0), dtype=torch.long)
    return {"input_ids": none, "labels": none, "shift_labels": none}


def _borders(borders: list[int]) -> dict[str, Any]:
    cumulated = torch.tensor(borders, dtype=torch.int32)
    longest = int(cumulated.diff().max())
    return {
        "cu_seq_lens_q": cumulated,
        "cu_seq_lens_k": cumulated,
        "max_length_q": longest,
        "max_length_k": longest,
    }
