"""Rotary position embedding (arXiv:2104.09864) in HF's half-split form: dimension i is rotated with dimension i + P/2."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rope(nn.Module):
    """Tables for positions 0 .. length-1 in float32, as HF computes them, in `dtype` as it uses them."""

    def __init__(self, length: int, head_dim: int, theta: float, dtype: torch.dtype, device: torch.device):
        super().__init__()
        frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle_SP = (torch.arange(length, dtype=torch.float32)[:, None] * frequency).repeat(1, 2)
        self.register_buffer("cos_SP", angle_SP.cos().to(device, dtype))
        self.register_buffer("sin_SP", angle_SP.sin().to(device, dtype))

    def forward(self, positions_BS: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, [B, 1, S, P]: one rotation for all heads."""
        return self.cos_SP[positions_BS].unsqueeze(1), self.sin_SP[positions_BS].unsqueeze(1)


def rotate(x_BHSP: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = x_BHSP.chunk(2, -1)
    return x_BHSP * cos + torch.cat((-second, first), -1) * sin
