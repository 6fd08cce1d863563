"""The KV cache: one row of slots for every sequence, of a length that never changes. Slot p holds position p; behind the last one lies a
slot that padding is written to and nobody reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class KVCache(nn.Module):
    """Per layer keys and values, [max_batch, N, max_length + 1, P] each, zeros at first. Buffers: a compiled graph aliases them."""

    def __init__(self, layers: int, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device):
        super().__init__()
        batch, heads, length, size = shape
        for name in (f"{kind}{i}" for i in range(layers) for kind in ("key", "value")):
            self.register_buffer(name, torch.zeros(batch, heads, length + 1, size, dtype=dtype, device=device))

    def fill(self, layer: int, rows_B: Tensor, keys_BNSP: Tensor, values_BNSP: Tensor) -> None:
        """Slots 0 .. S-1 of some rows."""
        for held, new in zip(self._held(layer), (keys_BNSP, values_BNSP)):
            held[:, :, : new.shape[2]].index_copy_(0, rows_B, new)

    def write(self, layer: int, rows_B: Tensor, slots_BS: Tensor, keys_BNSP: Tensor, values_BNSP: Tensor) -> None:
        """Any slots of some rows."""
        heads = torch.arange(keys_BNSP.shape[1], device=rows_B.device)
        place = (rows_B[:, None, None], heads[None, :, None], slots_BS[:, None])
        for held, new in zip(self._held(layer), (keys_BNSP, values_BNSP)):
            held.index_put_(place, new)

    def read(self, layer: int, rows_B: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Slots 0 .. length-1 of some rows: keys and values, [B, N, length, P] each."""
        keys, values = (held[:, :, :length].index_select(0, rows_B) for held in self._held(layer))
        return keys, values

    def clear(self) -> None:
        """A slot that is masked out still enters a product with weight 0, and 0 * inf would not vanish."""
        for buffer in self.buffers():
            buffer.zero_()

    def _held(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"key{layer}"), self.get_buffer(f"value{layer}")
