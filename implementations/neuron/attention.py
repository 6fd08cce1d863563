"""Grouped-query attention (arXiv:2305.13245) of the heads that this process holds, and what a call's queries look at: their own sequence
from its beginning (context encoding), or what is cached and then their own tokens (token generation, and further chunks of a prompt).
Both write the call's keys and values into the cache.

The cache has one row of slots for every sequence, of a length that never changes. Slot p holds position p; behind the last one lies a slot
that padding is written to and nobody reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_harness.implementations.neuron.layers import ColumnParallelLinear, RMSNorm, RowParallelLinear, rotate

FLASH_FROM, FLASH_STEP, FLASH_HEAD = 1024, 1024, 128  # tokens, tokens, head size: where NxD uses its flash kernel on two logical cores


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


class Past(Protocol):
    def attend(self, layer: int, q_BHSP: Tensor, keys_BNSP: Tensor, values_BNSP: Tensor) -> Tensor:
        """[B, H, S, P]; query head h reads key head h // (H / N)."""
        ...


@dataclass(frozen=True)
class Beginning:
    """Positions are 0 .. S-1, pads at the end: the causal mask hides them from all that is valid. `window`: of attention, or None."""

    cache: KVCache
    rows_B: Tensor
    valid_BS: Tensor
    window: int | None

    def attend(self, layer: int, q_BHSP: Tensor, keys_BNSP: Tensor, values_BNSP: Tensor) -> Tensor:
        self.cache.fill(layer, self.rows_B, keys_BNSP, values_BNSP)
        S, P = q_BHSP.shape[2:]
        values_BNSP = _only(values_BNSP, self.valid_BS)
        if self.window is None and P <= FLASH_HEAD and S >= FLASH_FROM and S % FLASH_STEP == 0:
            return F.scaled_dot_product_attention(q_BHSP, keys_BNSP, values_BNSP, is_causal=True, enable_gqa=True)
        index = torch.arange(S, device=q_BHSP.device)
        return _attend(q_BHSP, [(keys_BNSP, values_BNSP, sees(index[:, None], index, self.window)[None])])


@dataclass(frozen=True)
class Continuation:
    """`positions_BS` follow what the cache holds, `starts_B` positions, and are the slots they are written to. Pads have the position
    behind the last one: no valid query sees them, and nobody reads their slot. `length`: of the slots that are looked at."""

    cache: KVCache
    rows_B: Tensor
    starts_B: Tensor
    positions_BS: Tensor
    valid_BS: Tensor
    length: int
    window: int | None

    def attend(self, layer: int, q_BHSP: Tensor, keys_BNSP: Tensor, values_BNSP: Tensor) -> Tensor:
        slot = torch.arange(self.length, device=q_BHSP.device)
        held_BM = slot < self.starts_B[:, None]
        held_BSM = sees(self.positions_BS[:, :, None], slot, self.window) & held_BM[:, None]
        own_BSS = sees(self.positions_BS[:, :, None], self.positions_BS[:, None], self.window)
        keys, values = self.cache.read(layer, self.rows_B, self.length)
        parts = [(keys, _only(values, held_BM), held_BSM), (keys_BNSP, _only(values_BNSP, self.valid_BS), own_BSS)]
        y = _attend(q_BHSP, parts)
        self.cache.write(layer, self.rows_B, self.positions_BS, keys_BNSP, values_BNSP)
        return y


def sees(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Whether a query at one position sees a key at another; the shapes broadcast."""
    return key <= query if window is None else (key <= query) & (key > query - window)


def _only(values_BNMP: Tensor, there_BM: Tensor) -> Tensor:
    """Zeros where nothing is: a pad, or what a slot held before, may be NaN, and 0 times NaN is NaN."""
    return values_BNMP.masked_fill(~there_BM[:, None, :, None], 0)


def _attend(q_BHSP: Tensor, parts: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """One softmax in float32 over all parts: keys and values [B, N, M, P], and who sees what [B or 1, S, M]."""
    B, H, S, P = q_BHSP.shape
    q_BNGSP = q_BHSP.unflatten(1, (parts[0][0].shape[1], -1))
    scores = [(q_BNGSP @ keys[:, :, None].mT).float() * P**-0.5 for keys, _, _ in parts]
    masked = [s.masked_fill(~seen[:, None, None], torch.finfo(s.dtype).min) for s, (_, _, seen) in zip(scores, parts)]
    weights = torch.cat(masked, -1).softmax(-1).to(q_BHSP.dtype).split([s.shape[-1] for s in scores], -1)
    y_BNGSP = sum(w @ values[:, :, None] for w, (_, values, _) in zip(weights, parts))
    assert isinstance(y_BNGSP, Tensor)
    return y_BNGSP.flatten(1, 2)


class Attention(nn.Module):
    """`qkv`: queries first, then keys, then values, of this process's `heads` and `kv_heads`. `norms`: of queries and of keys, over
    each head, or None."""

    def __init__(self, qkv: ColumnParallelLinear, out: RowParallelLinear, norms: tuple[RMSNorm, RMSNorm] | None, heads: int, kv_heads: int):
        super().__init__()
        self.qkv, self.out = qkv, out
        self.norms = None if norms is None else nn.ModuleList(norms)
        self.counts = (heads, kv_heads, kv_heads)

    def forward(self, x_BSD: Tensor, layer: int, rotation: tuple[Tensor, Tensor], past: Past) -> Tensor:
        heads_BSHP = self.qkv(x_BSD).unflatten(-1, (sum(self.counts), -1))
        q, k, v = (part.transpose(1, 2) for part in heads_BSHP.split(self.counts, 2))
        if self.norms is not None:
            q, k = (norm(part) for norm, part in zip(self.norms, (q, k)))
        y_BHSP = past.attend(layer, rotate(q, rotation), rotate(k, rotation), v)
        return self.out(y_BHSP.transpose(1, 2).flatten(2))
