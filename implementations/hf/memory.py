"""What the batched_mm kernel would allocate. Legend: T tokens, K top-k, F expert FFN, D hidden size."""

from __future__ import annotations

import os

import torch
from transformers import PreTrainedModel

from implementations.interface import ModelConfig, Unsupported


def check_gather(module: PreTrainedModel, config: ModelConfig, tokens: int) -> None:
    """batched_mm copies the gate_up weights of every selected expert for every token, T*K*2F*D elements at once. Raises Unsupported where
    that exceeds half of the free memory: the kernel would end the process, not just the call."""
    if module.config._experts_implementation != "batched_mm":
        return
    needed = tokens * config.routing.top_k * 2 * config.moe_intermediate_size * config.hidden_size * module.dtype.itemsize
    free = _free_bytes(module.device)
    if needed > free / 2:
        raise Unsupported(f"batched_mm copies {needed / 1e9:.1f} GB of expert weights for {tokens} tokens; {free / 1e9:.1f} GB are free")


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
