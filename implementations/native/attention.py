"""Grouped-query attention (arXiv:2305.13245) over the KV cache, with one fused projection for q, k and v."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_harness.implementations.native.blocks import Block
from moe_harness.implementations.native.cache import Memory, Slots
from moe_harness.implementations.native.linear import Linear
from moe_harness.implementations.native.norm import ProjectionNorm, RMSNorm
from moe_harness.implementations.native.rope import Rotation


@dataclass(frozen=True)
class View:
    """What every layer of one call shares: rotations of the positions, where to write, what to look at. `end`: slots in use afterwards."""

    memory: Memory
    rotation: Rotation
    slots: Slots | None
    blocks: List[Block]
    end: int


@dataclass(frozen=True)
class Attention:
    """`qkv`: D -> (H + 2N) P, queries first, then keys, then values. `qk_norm`: over P, with a weight per head [H + N, P] (Qwen3), or over
    whole projections (OLMoE)."""

    qkv: Linear
    out: Linear
    qk_norm: RMSNorm | ProjectionNorm | None
    heads: int
    kv_heads: int

    def __call__(self, x_BSD: Tensor, layer: int, view: View) -> Tensor:
        B, S = x_BSD.shape[:2]
        H, N = self.heads, self.kv_heads
        heads_BSHP = self.qkv(x_BSD).view(B, S, H + 2 * N, -1)
        qk_BSHP, v_BSNP = heads_BSHP[:, :, : H + N], heads_BSHP[:, :, H + N :]
        if self.qk_norm is not None:
            qk_BSHP = self.qk_norm(qk_BSHP)
        qk_BSHP = view.rotation(qk_BSHP)
        q_BSHP = qk_BSHP[:, :, :H]
        keys, values = view.memory.store(layer, qk_BSHP[:, :, H:], v_BSNP, view.slots, view.end)
        parts = [_attend(q_BSHP[:, b.columns], keys[:, :, b.slots], values[:, :, b.slots], b) for b in view.blocks]
        return self.out((parts[0] if len(parts) == 1 else torch.cat(parts, 1)).reshape(B, S, -1))


def _attend(q_BSHP: Tensor, keys_BNMP: Tensor, values_BNMP: Tensor, block: Block) -> Tensor:
    """softmax(q k^T / sqrt(P)) v, [B, S, H, P]; query head h reads key head h // G, G = H / N."""
    B, S, H, P = q_BSHP.shape
    N = keys_BNMP.shape[1]
    G = H // N
    if block.is_causal:
        q_BHSP = q_BSHP.transpose(1, 2)
        return F.scaled_dot_product_attention(q_BHSP, keys_BNMP, values_BNMP, is_causal=True, enable_gqa=G > 1).transpose(1, 2)
    # The G heads that share a key head become rows of one query: no key is repeated, and the kernel gets larger tiles.
    q_BNRP = q_BSHP.view(B, S, N, G, P).permute(0, 2, 3, 1, 4).reshape(B, N, G * S, P)
    mask = None if block.mask_B1SM is None else block.mask_B1SM.repeat(1, 1, G, 1)
    y_BNRP = F.scaled_dot_product_attention(q_BNRP, keys_BNMP, values_BNMP, attn_mask=mask)
    return y_BNRP.view(B, N, G, S, P).permute(0, 3, 1, 2, 4).reshape(B, S, H, P)
