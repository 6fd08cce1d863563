"""How much memory a copy of expert weights would find. Some kernels copy those of every chosen expert for every token."""

from __future__ import annotations

from typing import Optional

import torch

from moe_harness.implementations.common.memory import available_bytes
from moe_harness.implementations.interface import Unsupported


def check_copy(who: str, size: int, tokens: int, device: torch.device) -> None:
    """Raises Unsupported where `size` bytes exceed half of the free memory: running out would end the process, not just the call."""
    free = free_bytes(device)
    if free is not None and size > free / 2:
        raise Unsupported(f"{who} copies {size / 1e9:.1f} GB of expert weights for {tokens} tokens; {free / 1e9:.1f} GB are free")


def free_bytes(device: torch.device) -> Optional[int]:
    """Memory of the device, or of the host where it has none of its own; None where nothing tells."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
