"""The logistic function, the same bits for a value whatever stands beside it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

WHOLE = 64  # elements: a multiple of what PyTorch's CPU loop takes at once (two vectors of 16 with AVX512, fewer otherwise)


def sigmoid(x: Tensor) -> Tensor:
    """What is left over after whole vectors goes through another, scalar exp on a CPU (seen: last bits of the last 31 elements); zeros fill
    up the last vector."""
    if x.device.type != "cpu" or x.numel() % WHOLE == 0:
        return x.sigmoid()
    return F.pad(x.flatten(), (0, -x.numel() % WHOLE)).sigmoid()[: x.numel()].view_as(x)
