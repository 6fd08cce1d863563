"""The KV cache: row b holds its valid tokens at slots 0 .. length-1, without pads. Allocated once, at load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from moe_harness.implementations.common.batch import Batch
from moe_harness.implementations.interface import ModelConfig


@dataclass(frozen=True)
class Slots:
    """Where a ragged call's valid tokens come from (row, column of the call) and go to (row, slot of the cache)."""

    row: Tensor
    column: Tensor
    slot: Tensor


class Memory(Protocol):
    """Where a call's keys and values go, and what it reads with them."""

    def store(self, layer: int, keys_BSNP: Tensor, values_BSNP: Tensor, slots: Slots | None, end: int) -> tuple[Tensor, Tensor]:
        """Takes the call's own; returns what its queries may look at, keys and values, [B, N, slots, P] each."""
        ...


class NoCache:
    """The call sees its own keys and values, and nothing is kept."""

    def store(self, layer: int, keys_BSNP: Tensor, values_BSNP: Tensor, slots: Slots | None, end: int) -> tuple[Tensor, Tensor]:
        return keys_BSNP.transpose(1, 2), values_BSNP.transpose(1, 2)


class KVCache:
    """Keys and values, [layers, max_batch, N, max_length, P] each. `lengths_B`: positions held per row; empty before the first prefill."""

    def __init__(self, config: ModelConfig, max_batch: int, max_length: int, dtype: torch.dtype, device: torch.device):
        shape = (config.num_hidden_layers, max_batch, config.num_key_value_heads, max_length, config.head_dim)
        self._keys, self._values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.max_batch, self.max_length = max_batch, max_length
        self.lengths_B = np.zeros(0, np.int64)

    def reset(self) -> None:
        """Empties the cache. Slots are zeroed, since masked-out slots still enter a product with weight 0, and 0 * inf would not vanish."""
        if self.lengths_B.size:
            for held in (self._keys, self._values):
                held[:, : len(self.lengths_B), :, : self.lengths_B.max()].zero_()
        self.lengths_B = np.zeros(0, np.int64)

    def commit(self, batch: Batch) -> None:
        """The call succeeded: its tokens now count. A call that failed is written over by the next."""
        self.lengths_B = batch.ends_B

    def slots(self, batch: Batch) -> Slots | None:
        """None for a uniform call, which writes one slice."""
        if batch.is_uniform:
            return None
        row, column = np.nonzero(batch.valid_BS)
        indices = (row, column, batch.positions_BS[row, column])
        return Slots(*(torch.from_numpy(i).to(self._keys.device) for i in indices))

    def store(self, layer: int, keys_BSNP: Tensor, values_BSNP: Tensor, slots: Slots | None, end: int) -> tuple[Tensor, Tensor]:
        """Writes the call's valid tokens; returns slots 0 .. end-1 of its rows, keys and values, [B, N, end, P] each."""
        B, S = keys_BSNP.shape[:2]
        for held, new_BSNP in ((self._keys[layer], keys_BSNP), (self._values[layer], values_BSNP)):
            if slots is None:
                held[:B, :, end - S : end] = new_BSNP.transpose(1, 2)
            else:
                held[slots.row, :, slots.slot] = new_BSNP[slots.row, slots.column]
        return self._keys[layer, :B, :, :end], self._values[layer, :B, :, :end]
