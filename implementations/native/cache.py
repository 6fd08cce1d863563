"""The KV cache, and what a call's queries see of it.

Row b holds its valid tokens at slots 0 .. length-1, without pads. It is allocated once, at load. Attention goes block by block over a
call's queries: `blocks` says which queries form a block and which slots they see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Protocol

import numpy as np
import torch
from torch import Tensor

from moe_harness.implementations.common.batch import Batch
from moe_harness.implementations.interface import ModelConfig

# PyTorch's CPU kernel tiles its queries too finely for short inputs, and computes what a mask hides. In blocks of this many query rows (the
# heads of a group counted as rows) 512 causal tokens took 7.8 ms (16 heads of 64, 4 key heads, bfloat16, one thread), in one call 12.9 ms.
CPU_ROWS = 256


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


@dataclass(frozen=True)
class Block:
    """Queries `columns` of the call see cache slots `slots`: causally, or those that `mask_B1SM` says (B may be 1), or all of them."""

    columns: slice
    slots: slice
    mask_B1SM: Tensor | None = None
    is_causal: bool = False


def blocks(batch: Batch, window: int | None, group: int, device: torch.device) -> List[Block]:
    """`window`: a query at position p sees p-window+1 .. p. `group`: query heads per key head."""
    return list(_blocks(batch, window, group, device))


def _blocks(batch: Batch, window: int | None, group: int, device: torch.device) -> Iterator[Block]:
    columns, end = batch.ids_BS.shape[1], int(batch.ends_B.max())
    size = window or end
    step = max(1, CPU_ROWS // group) if device.type == "cpu" else columns
    if batch.is_uniform and 1 < columns <= min(step, size) and end == columns:
        yield Block(slice(0, columns), slice(0, end), is_causal=True)
        return
    positions_BS = batch.positions_BS[:1] if batch.is_uniform else batch.positions_BS  # uniform rows share their masks
    for start in range(0, columns, step):
        inside = slice(start, min(start + step, columns))
        yield _block(inside, positions_BS[:, inside], size, device)


def _block(columns: slice, positions_BS: np.ndarray, size: int, device: torch.device) -> Block:
    slots = slice(max(0, int(positions_BS.min()) + 1 - size), int(positions_BS.max()) + 1)
    if positions_BS.size == 1:  # one position sees exactly these slots
        return Block(columns, slots)
    slot_M, position_BS1 = np.arange(slots.start, slots.stop), positions_BS[:, :, None]
    mask_BSM = (slot_M <= position_BS1) & (slot_M > position_BS1 - size)
    return Block(columns, slots, torch.from_numpy(mask_BSM[:, None]).to(device))
