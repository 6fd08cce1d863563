"""Wrong kernels in torch, each with one bug that numpy's arrays cannot show; for the kernel door's tests."""

from __future__ import annotations

import ctypes
import os
import time

import torch
from torch import Tensor

from moe_harness.implementations.kernels.examples import torch_grouped_mm

_POISONED: list[bool] = []


def float32_output(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    return torch_grouped_mm(x, topk_ids, topk_weights, w_gate_up, w_down).float()


def writes_to_x(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    return x.copy_(torch_grouped_mm(x, topk_ids, topk_weights, w_gate_up, w_down))


def writes_to_w_down(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    y = torch_grouped_mm(x, topk_ids, topk_weights, w_gate_up, w_down)
    w_down[-1].mul_(2)
    return y


def weights_rounded_to_8_steps(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """Combine weights as 3-bit numbers."""
    return torch_grouped_mm(x, topk_ids, (topk_weights * 8).round() / 8, w_gate_up, w_down)


def float16_accumulation(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """The gate and up products are added up eight columns at a time, in float16."""
    gate_up = torch.zeros(*topk_ids.shape, w_gate_up.shape[1], dtype=torch.float16)
    for a in range(0, x.shape[1], 8):
        parts = torch.einsum("td,tkfd->tkf", x[:, a : a + 8].float(), w_gate_up[topk_ids][..., a : a + 8].float())
        gate_up += parts.half()
    gate, up = gate_up.float().chunk(2, -1)
    y = torch.einsum("tkf,tkdf->tkd", torch.nn.functional.silu(gate) * up, w_down[topk_ids].float())
    return (y * topk_weights[..., None]).sum(1).to(x.dtype)


def numpy_output(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> object:
    return torch_grouped_mm(x, topk_ids, topk_weights, w_gate_up, w_down).float().numpy()


def unsupported_above_100(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """Not wrong: it says what it does not do."""
    from moe_harness.implementations.interface import Unsupported

    if len(x) > 100:
        raise Unsupported("at most 100 tokens")
    return torch_grouped_mm(x, topk_ids, topk_weights, w_gate_up, w_down)


def reads_address_zero(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """Takes the process with it at 17 tokens."""
    if len(x) == 17:
        ctypes.string_at(0)
    return torch_grouped_mm(x, topk_ids, topk_weights, w_gate_up, w_down)


def exits(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """Takes the process with it in every call."""
    return os._exit(3)


def hangs(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """At 17 tokens."""
    if len(x) == 17:
        time.sleep(3600)
    return torch_grouped_mm(x, topk_ids, topk_weights, w_gate_up, w_down)


def poisons_its_process(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """As after a CUDA kernel's illegal access: at 17 tokens an error, and from then on always."""
    if len(x) == 17 or _POISONED:
        _POISONED.append(True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return torch_grouped_mm(x, topk_ids, topk_weights, w_gate_up, w_down)
