"""Attention goes block by block over a call's queries. This file says which queries form a block and which cache slots they see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List

import numpy as np
import torch
from torch import Tensor

from moe_harness.implementations.common.batch import Batch

# PyTorch's CPU kernel tiles its queries too finely for short inputs, and computes what a mask hides. In blocks of this many query rows (the
# heads of a group counted as rows) 512 causal tokens took 7.8 ms (16 heads of 64, 4 key heads, bfloat16, one thread), in one call 12.9 ms.
CPU_ROWS = 256


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
