"""RMSNorm in float32, rounded once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_harness.implementations.neuron.linear import frozen


class RMSNorm(nn.Module):
    """Over the last dimension."""

    def __init__(self, weight: Tensor, eps: float):
        super().__init__()
        self.weight, self.eps = frozen(weight.to(torch.float32)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight, self.eps).to(x.dtype)
