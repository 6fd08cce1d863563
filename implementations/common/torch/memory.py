"""How much memory a copy of expert weights would find. Some kernels copy those of every chosen expert for every token."""

from __future__ import annotations

import math

import torch

from moe_harness.implementations.common.memory import available_bytes
from moe_harness.implementations.interface import Unsupported


def check_copy(who: str, size: int, tokens: int, device: torch.device) -> None:
    """Raises Unsupported where `size` bytes exceed half of the free memory: running out would end the process, not just the call."""
    free = free_bytes(device)
    if size > free / 2:
        raise Unsupported(f"{who} copies {size / 1e9:.1f} GB of expert weights for {tokens} tokens; {free / 1e9:.1f} GB are free")


def free_bytes(device: torch.device) -> float:
    """The memory that a copy on this device can have; infinite where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = available_bytes()
    return math.inf if found is None else found
