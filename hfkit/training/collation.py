"""Rows into batches whose logits are needed at trained positions only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch

IGNORED = -100

# Batches are as long as a multiple of this. Every new shape makes the matrix library build and keep another kernel:
# with free lengths a run of a hundred steps grew by two GiB and was slower, although it padded less.
LENGTH_STEP = 32


class TrainingRow(TypedDict):
    """A row of the prepared dataset: all after the first `prompt_length` of `input_ids` is trained."""

    input_ids: list[int]
    prompt_length: int


@dataclass(frozen=True, slots=True)
class CollateTrainedPositions:
    """Pads on the left, so that the replies of a batch line up at its end and one index serves all rows.

    A batch of B rows, the longest L tokens (rounded up to LENGTH_STEP), the longest reply K tokens, becomes:
        input_ids, attention_mask, position_ids: int64 [B, L]; positions count from a row's first real token.
        logits_to_keep: int64 [K], the positions whose logits predict the last K tokens.
        labels, shift_labels: int64 [B, K], those tokens, IGNORED where a row's reply is shorter. Both names hold the
        same
            tensor: the Trainer counts a step's trained tokens in the second without shifting it once more.
    """

    pad_id: int

    def __call__(self, rows: Sequence[TrainingRow]) -> dict[str, torch.Tensor]:
        length = -(-max(len(row["input_ids"]) for row in rows) // LENGTH_STEP) * LENGTH_STEP
        kept = max(len(row["input_ids"]) - row["prompt_length"] for row in rows)
        input_ids = torch.full((len(rows), length), self.pad_id)
        attention_mask = torch.zeros((len(rows), length), dtype=torch.long)
        labels = torch.full((len(rows), kept), IGNORED)
        for number, row in enumerate(rows):
            ids = torch.tensor(row["input_ids"])
            reply = ids[row["prompt_length"] :]
            input_ids[number, length - len(ids) :] = ids
            attention_mask[number, length - len(ids) :] = 1
            labels[number, kept - len(reply) :] = reply
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": (attention_mask.cumsum(1) - 1).clamp(min=0),
            "logits_to_keep": torch.arange(length - kept - 1, length - 1),
            "labels": labels,
            "shift_labels": labels,
        }
