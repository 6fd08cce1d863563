"""RMSNorm, as HF rounds it: computed in float32, cast to the model's dtype, then multiplied by the weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class RMSNorm:
    """Normalises the last dimension. `weight` broadcasts against x: [D], or [heads, P] where heads share a call but not a weight."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        # Without a weight, rms_norm rounds once from float32 to x's dtype: the cast that comes before the multiplication.
        return F.rms_norm(x, x.shape[-1:], None, self.eps) * self.weight


@dataclass(frozen=True)
class ProjectionNorm:
    """Queries as one vector and keys as another, each over all of its heads (OLMoE). `q`: over H P; `k`: over N P."""

    q: RMSNorm
    k: RMSNorm

    def __call__(self, qk_BSHP: Tensor) -> Tensor:
        """[B, S, H + N, P], queries first."""
        P = qk_BSHP.shape[-1]
        q, k = qk_BSHP.flatten(2).split((self.q.weight.shape[0], self.k.weight.shape[0]), -1)
        return torch.cat((self.q(q), self.k(k)), -1).unflatten(-1, (-1, P))
