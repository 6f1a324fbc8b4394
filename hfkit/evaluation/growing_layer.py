"""A layer of a key-value cache that grows in place: one token more does not copy all that was read before it."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

_SPARE_COLUMNS = 64


class GrowingLayer(DynamicLayer):
    """`keys` and `values`, [rows, heads, columns, head size], are the first columns of buffers that have room for
    more."""

    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the columns of a block; what all of them are then."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = 0 if self._buffers is None else self.get_seq_length()
        end = before + key_states.shape[2]
        if self._buffers is None or end > self._buffers[0].shape[2]:
            self._buffers = self._roomier(key_states, before, end), self._roomier(value_states, before, end, of=1)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, before:end] = new
        self._show(end)
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows alone."""
        if self._buffers is not None:
            end = self.get_seq_length()
            keys, values = self._buffers
            self._buffers = keys.index_select(0, indices), values.index_select(0, indices)
            self._show(end)

    def _roomier(self, new: torch.Tensor, before: int, end: int, of: int = 0) -> torch.Tensor:
        rows, heads, _, size = new.shape
        buffer = new.new_empty(rows, heads, end + _SPARE_COLUMNS, size)
        if self._buffers is not None:
            buffer[:, :, :before] = self._buffers[of][:, :, :before]
        return buffer

    def _show(self, end: int) -> None:
        assert self._buffers is not None
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
