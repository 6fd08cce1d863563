"""RMSNorm, as HF rounds it: computed in float32, cast to the model's dtype, then multiplied by the weight."""

from __future__ import annotations

from dataclasses import dataclass

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
