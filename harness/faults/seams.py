"""Every place where a fault can enter: a frozen record of functions with honest defaults. A fault replaces one or two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.faults import attention, cache, experts, numerics, routing, sampling
from harness.faults.numerics import Array
from implementations.interface import GenerationSpec, ModelConfig

Tensors = dict[str, Array]


def keep_tensor(name: str, tensor: Array, config: ModelConfig) -> Array:
    return tensor


def keep_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    return raw


def keep_stored_head(config: ModelConfig, stored: bool) -> bool:
    return stored


def keep_tensors(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    return tensors


def same_layer(layer: int, num_moe_layers: int) -> int:
    return layer


def norm(x: Array, weight: Array, eps: float, rounding: numerics.Rounding) -> Array:
    return numerics.rms_norm(x, weight, eps, rounding)


@dataclass(frozen=True)
class Seams:
    """Grouped by where they lie. Signatures are those of the honest defaults."""

    # arithmetic: every matmul with weights; the norm before the head
    linear: Callable[..., Array] = numerics.linear
    final_norm: Callable[..., Array] = norm
    # router: what it reads in the model, whose weights, logits, scores, ids, weights, the dtype in which weights combine
    router_input: Callable[[Array, Array], Array] = routing.router_input
    router_layer: Callable[[int, int], int] = same_layer
    router_logits: Callable[..., Array] = routing.router_logits
    scores: Callable[..., Array] = routing.softmax_scores
    select: Callable[..., Array] = routing.select_top_k
    weights: Callable[..., Array] = routing.combine_weights
    round_weights: Callable[..., Array] = routing.round_weights
    # experts: who computes which token, the gated MLP, the weighted sum
    dispatch: Callable[..., list[experts.Group]] = experts.group_by_expert
    run_experts: Callable[[experts.ExpertJob, Seams], Array] = experts.run_experts
    split_gate_up: Callable[[Array], tuple[Array, Array]] = experts.split_halves
    activate: Callable[..., Array] = experts.swiglu
    combine: Callable[..., Array] = experts.combine
    dense_mlp: Callable[..., Array] = experts.dense_mlp
    # attention
    prefill_positions: Callable[[Array, Array, int], Array] = attention.prefill_positions
    decode_positions: Callable[[Array, int], Array] = attention.decode_positions
    rope_tables: Callable[..., attention.Tables] = attention.rope_tables
    qk_norm: Callable[..., Array] = attention.qk_norm
    rotate: Callable[..., Array] = attention.rotate
    position_heads: Callable[..., Array] = attention.position_heads
    visible_keys: Callable[[attention.KeyView], Array] = attention.visible_keys
    attention_scale: Callable[[ModelConfig], float] = attention.attention_scale
    repeat_kv: Callable[[Array, int], Array] = attention.repeat_kv
    attend: Callable[..., Array] = attention.attend
    # cache
    append: Callable[[cache.Cache, int, Array, Array], None] = cache.append
    reset: Callable[[cache.Cache], None] = cache.reset
    # conversion: each tensor on the way in and out, config.json, whether a tied head's own tensor is kept, the weights once loaded
    pack: Callable[[str, Array, ModelConfig], Array] = keep_tensor
    unpack: Callable[[str, Array, ModelConfig], Array] = keep_tensor
    pack_config: Callable[[Mapping[str, Any]], Mapping[str, Any]] = keep_config
    stored_head: Callable[[ModelConfig, bool], bool] = keep_stored_head
    loaded: Callable[[Tensors, ModelConfig, bool], Tensors] = keep_tensors
    # generation
    last_token: Callable[[Array], Array] = sampling.last_valid
    sample: Callable[..., Array] = sampling.sample
    stop_ids: Callable[[ModelConfig, GenerationSpec], frozenset[int]] = sampling.stop_ids
    ended: Callable[[Array, Sequence[list[int]], frozenset[int], Array], Array] = sampling.ended


HONEST = Seams()
