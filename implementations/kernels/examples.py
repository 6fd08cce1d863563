"""Adapters around existing MoE kernels, each at most 15 lines:
`moe-harness kernel moe_harness.implementations.kernels.examples:native --like ...`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_harness.implementations.common.torch.memory import free_bytes
from moe_harness.implementations.interface import Unsupported


def torch_grouped_mm(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """torch's grouped matrix product, used by hand: tokens sorted by expert, two products, weighted sum in float32."""
    if not len(x):
        return torch.empty_like(x)
    experts, order = topk_ids.flatten().sort(stable=True)
    ends = torch.searchsorted(experts, torch.arange(len(w_down), device=x.device), right=True).int()
    gate, up = F.grouped_mm(x[order // topk_ids.shape[1]], w_gate_up.mT, offs=ends).chunk(2, -1)
    y = F.grouped_mm(F.silu(gate) * up, w_down.mT, offs=ends)
    y = torch.empty_like(y).index_copy_(0, order, y).view(*topk_ids.shape, -1)
    return (y * topk_weights[..., None]).sum(1).to(x.dtype)


def native(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """This project's own: one expert after the other, each on the tokens that chose it."""
    from moe_harness.implementations.native.linear import PlainLinear
    from moe_harness.implementations.native.moe import MLP, LoopExperts, combine, least_rows

    experts = tuple(MLP(PlainLinear(gate_up), PlainLinear(down)) for gate_up, down in zip(w_gate_up, w_down))
    return combine(LoopExperts(experts, least_rows(x.dtype, x.device, False, x.shape[1], w_down.shape[2]))(x, topk_ids), topk_weights)


def routed_in_torch(x: Tensor, router_logits: Tensor, top_k: int, renormalize: bool, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """A kernel that selects for itself: softmax in float32, top-k, then as `torch_grouped_mm`."""
    weights, ids = router_logits.softmax(-1, dtype=torch.float32).topk(top_k)
    weights = weights / weights.sum(-1, keepdim=True) if renormalize else weights
    return torch_grouped_mm(x, ids, weights, w_gate_up, w_down)


def hf_eager(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """transformers' loop over experts."""
    return _hf("eager", w_gate_up, w_down)(x, topk_ids, topk_weights)


def hf_grouped_mm(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """transformers' grouped matrix product."""
    return _hf("grouped_mm", w_gate_up, w_down)(x, topk_ids, topk_weights)


def hf_batched_mm(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """transformers' batched product, which copies the weights of every chosen expert for every token."""
    needed = topk_ids.numel() * (w_gate_up[0].nbytes + w_down[0].nbytes)
    free = free_bytes(x.device)
    if needed > (4e9 if free is None else min(free / 2, 4e9)):  # more would fit some machines, but not the time that a verdict has
        raise Unsupported(f"batched_mm would copy {needed / 1e9:.1f} GB of weights for {len(x)} tokens")
    return _hf("batched_mm", w_gate_up, w_down)(x, topk_ids, topk_weights)


def _hf(kernel: str, w_gate_up: Tensor, w_down: Tensor) -> torch.nn.Module:
    """Mixtral's experts module (other families' compute the same), made without memory of its own and given the weights."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    E, D, F = w_down.shape
    config = MixtralConfig(num_local_experts=E, hidden_size=D, intermediate_size=F, experts_implementation=kernel)
    with torch.device("meta"):
        experts = MixtralExperts(config)
    experts.gate_up_proj = torch.nn.Parameter(w_gate_up, requires_grad=False)
    experts.down_proj = torch.nn.Parameter(w_down, requires_grad=False)
    return experts
