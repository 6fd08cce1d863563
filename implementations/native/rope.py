"""Rotary position embedding (arXiv:2104.09864) in HF's half-split form: dimension i is rotated with dimension i + P/2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """cos and signed sin of the positions at hand, [B or 1, S, 1, P]. The sign of the first half of `sin` is turned, see `__call__`."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x_BSHP: Tensor) -> Tensor:
        """x cos + rotate_half(x) sin; rotate_half swaps the halves and negates the new first one, a sign that `sin` already carries."""
        return x_BSHP * self.cos + x_BSHP.roll(x_BSHP.shape[-1] // 2, -1) * self.sin


class Rope:
    """Tables for positions 0 .. length-1, computed in float32 and cast to `dtype` as HF does."""

    def __init__(self, length: int, head_dim: int, theta: float, dtype: torch.dtype, device: torch.device):
        frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
        angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
        self._cos = torch.cat((angle.cos(), angle.cos()), -1).to(dtype)
        self._sin = torch.cat((-angle.sin(), angle.sin()), -1).to(dtype)

    def span(self, start: int, end: int) -> Rotation:
        """Positions start .. end-1, the same for every row."""
        return Rotation(self._cos[None, start:end, None], self._sin[None, start:end, None])

    def at(self, positions_BS: Tensor) -> Rotation:
        return Rotation(self._cos[positions_BS, None], self._sin[positions_BS, None])
