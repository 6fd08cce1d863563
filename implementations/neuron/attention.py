"""Grouped-query attention (arXiv:2305.13245) of the heads that this process holds."""

from __future__ import annotations

from torch import Tensor, nn

from moe_harness.implementations.neuron.linear import ColumnParallelLinear, RowParallelLinear
from moe_harness.implementations.neuron.norm import RMSNorm
from moe_harness.implementations.neuron.past import Past
from moe_harness.implementations.neuron.rope import rotate


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
