"""How much memory a copy of expert weights would find. Some kernels copy those of every chosen expert for every token."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from moe_harness.implementations.interface import Unsupported


def check_copy(who: str, size: int, tokens: int, device: torch.device) -> None:
    """Raises Unsupported where `size` bytes exceed half of the free memory: running out would end the process, not just the call."""
    free = _free_bytes(device)
    if size > free / 2:
        raise Unsupported(f"{who} copies {size / 1e9:.1f} GB of expert weights for {tokens} tokens; {free / 1e9:.1f} GB are free")


def _free_bytes(device: torch.device) -> int:
    """What can be had without swapping: Linux counts what caches would give back, elsewhere unused pages are all that is known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
