"""AWS's neuronx-distributed as kernels, one for each dispatch path:
`moe-harness kernel moe_harness.implementations.kernels.nxd:blockwise --like ...`.

Its ExpertMLPsV2 runs as it is, on a CPU in one process, where its source is on PYTHONPATH; else every case is UNSUPPORTED. See
docs/kernel.md. Legend: T tokens, K top-k, E experts, D hidden, F expert FFN.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from moe_harness.implementations.interface import Unsupported
from moe_harness.implementations.kernels.nxd_library import library


def all_experts(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """Every token through every expert."""
    experts = _experts(x, topk_ids.shape[1], w_gate_up, w_down)
    return _call(experts.forward_all_experts, x, _affinities(x, topk_ids, topk_weights, len(w_down)), topk_ids)


def selective(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """The weights of a token's experts are gathered, token by token."""
    _one_token_at_least(x)
    experts = _experts(x, topk_ids.shape[1], w_gate_up, w_down)
    return _call(experts.forward_selective_loading, x, _affinities(x, topk_ids, topk_weights, len(w_down)), topk_ids)


def blockwise(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """Blocks of 512 places, each of one expert: its torch code, not its NKI kernel, which a CPU does not run."""
    _one_token_at_least(x)
    experts = _experts(x, topk_ids.shape[1], w_gate_up, w_down)
    return _call(experts.forward_blockwise, x, _affinities(x, topk_ids, topk_weights, len(w_down)), topk_ids)


def capacity(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """With places for all tokens in every expert. `forward` would take another path: a factor of E / K or more counts as none."""
    return _with_capacity(x, topk_ids, topk_weights, w_gate_up, w_down, len(w_down) / topk_ids.shape[1])


def capacity_1(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """With the places of an even load. Where a choice would find none it is dropped by design, which is no case of the door."""
    places = min(len(x), math.ceil(topk_ids.numel() / len(w_down)))
    dropped = int((topk_ids.flatten().bincount(minlength=len(w_down)) - places).clamp(min=0).sum())
    if dropped:
        raise Unsupported(f"with a capacity factor of 1, {dropped} of {topk_ids.numel()} choices find no place and are dropped")
    return _with_capacity(x, topk_ids, topk_weights, w_gate_up, w_down, 1.0)


def chosen(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """The path that it takes by itself: selective below one choice an expert, all experts below 512 choices, else blockwise."""
    _one_token_at_least(x)
    experts = _experts(x, topk_ids.shape[1], w_gate_up, w_down)
    return _call(experts, x, _affinities(x, topk_ids, topk_weights, len(w_down)), topk_ids, len(x))


def routed(x: Tensor, router_logits: Tensor, top_k: int, renormalize: bool, w_gate_up: Tensor, w_down: Tensor) -> Tensor:
    """Its RouterTopK before it. The logits are what the router is given, and its weight is the identity."""
    _one_token_at_least(x)
    if renormalize and top_k == 1:
        raise Unsupported("NxD does not normalise a single choice")
    router = library().routing.RouterTopK(len(w_down), top_k, len(w_down), dtype=router_logits.dtype)
    router.linear_router.weight = _fixed(torch.eye(len(w_down), dtype=router_logits.dtype))
    _, affinities_TE, ids_TK = _call(router, router_logits)
    return _call(_experts(x, top_k, w_gate_up, w_down, renormalize), x, affinities_TE, ids_TK, len(x))


def _with_capacity(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, w_gate_up: Tensor, w_down: Tensor, factor: float) -> Tensor:
    _one_token_at_least(x)
    experts = _experts(x, topk_ids.shape[1], w_gate_up, w_down)
    experts.routed_experts_mlp_config.capacity_factor = factor  # given earlier, one that leaves room for all becomes None
    return _call(experts.forward_capacity_factor, x, _affinities(x, topk_ids, topk_weights, len(w_down)), topk_ids)


def _experts(x: Tensor, K: int, w_gate_up: Tensor, w_down: Tensor, renormalize: bool = False) -> Any:
    """Its module, made without memory of its own and given the weights, transposed as it holds them."""
    if x.device.type != "cpu":
        raise Unsupported(f"device {x.device}: what is run here is NxD's code for a CPU")
    E, D, F = w_down.shape
    found, normalised = library(), {"normalize_top_k_affinities": renormalize}
    config = found.configs.RoutedExpertsMLPOpsConfig(E, D, F, K, hidden_act="silu", glu_mlp=True, **normalised)
    blocks = found.configs.BlockwiseMatmulConfig.default()
    experts = found.experts.ExpertMLPsV2(config, blocks, dtype=x.dtype, device=torch.device("meta")).eval()
    experts.mlp_op.gate_up_proj.weight, experts.mlp_op.down_proj.weight = _fixed(w_gate_up.mT), _fixed(w_down.mT)
    return experts


def _affinities(x: Tensor, topk_ids: Tensor, topk_weights: Tensor, E: int) -> Tensor:
    """(T, E) in the dtype of the hidden states, as its router hands them over."""
    return x.new_zeros(len(x), E).scatter_(1, topk_ids, topk_weights.to(x.dtype))


def _call(function: Any, *values: Any) -> Any:
    with library().stand_ins.seal():
        return function(*values)


def _fixed(values: Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values, requires_grad=False)


def _one_token_at_least(x: Tensor) -> None:
    if not len(x):
        raise Unsupported("NxD's graphs have fixed shapes of at least one token; with none this path raises")
