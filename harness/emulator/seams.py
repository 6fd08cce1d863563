"""Every place where a fault can enter: frozen records of functions with honest defaults, one record for each part of the subject. A fault
replaces one or two of the functions, by `changed`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from moe_harness.emulator import (
    attention,
    cache,
    capacity,
    declared,
    experts,
    inputs,
    loss,
    numerics,
    packing,
    routing,
    sampling,
    shared,
    slots,
    tracing,
)
from moe_harness.emulator.numerics import Array
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.interface import GenerationSpec, ModelCapabilities, ModelConfig, PinnedRouting, TopLogProbs

Tensors = dict[str, Array]


def keep_tensor(name: str, tensor: Array, config: ModelConfig) -> Array:
    return tensor


def as_valid(valid_T: Array) -> Array:
    return valid_T


def as_given(path: str) -> str:
    return path


def keep_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    return raw


def keep_stored_head(config: ModelConfig, stored: bool) -> bool:
    return stored


def keep_tensors(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    return tensors


def nothing_unread(source: Checkpoint) -> frozenset[str]:
    return frozenset()


def widen(stored: Array) -> Array:
    return np.ascontiguousarray(stored, dtype=np.float32)


def leave_cache(cache: cache.Cache | None) -> None:
    """A probe neither reads nor writes it."""


def given_lengths(lengths_B: Array, length: int) -> Array:
    return lengths_B


def same_layer(layer: int, num_moe_layers: int) -> int:
    return layer


def norm(x: Array, weight: Array, eps: float, rounding: numerics.Rounding) -> Array:
    return numerics.rms_norm(x, weight, eps, rounding)


def epsilon(config: ModelConfig) -> float:
    return config.rms_norm_eps


def head(normed: Array, table_VD: Array, rounding: numerics.Rounding, seams: Seams) -> Array:
    """Logits (..., V), or those of the embedding's rows where it is tied."""
    return seams.network.linear(normed, table_VD, None, rounding)


def add_residual(hidden_BSD: Array, update_BSD: Array, rounding: numerics.Rounding) -> Array:
    return rounding(hidden_BSD + update_BSD)


def embed(table_VD: Array, ids_BS: Array, valid_BS: Array) -> Array:
    """Zeros at pads: whatever a pad's row of the table holds, it is never read, let alone multiplied."""
    return np.where(valid_BS[..., None], table_VD[ids_BS], np.float32(0))


@dataclass(frozen=True)
class NetworkSeams:
    """Every matmul with weights; what enters the first layer; the epsilon of the norms; the norms before attention and experts, the one
    before the head; what a layer's parts are added to; the head."""

    linear: Callable[..., Array] = numerics.linear
    embed: Callable[[Array, Array, Array], Array] = embed
    epsilon: Callable[[ModelConfig], float] = epsilon
    norm: Callable[..., Array] = norm
    final_norm: Callable[..., Array] = norm
    add_residual: Callable[..., Array] = add_residual
    head: Callable[..., Array] = head


@dataclass(frozen=True)
class RouterSeams:
    """What the router reads in the model, whose weights it uses; then the steps of `routing.route` in their order; what it hands out."""

    router_input: Callable[[Array, Array], Array] = routing.router_input
    router_layer: Callable[[int, int], int] = same_layer
    pinned_layer: Callable[[PinnedRouting | None, int], PinnedRouting | None] = routing.pinned_layer
    router_logits: Callable[..., Array] = routing.router_logits
    add_bias: Callable[..., Array] = routing.add_bias
    scores: Callable[..., Array] = routing.scores
    correct: Callable[[Array, Array | None], Array] = routing.correct
    limit_groups: Callable[..., Array] = routing.limit_groups
    select: Callable[..., Array] = routing.select_top_k
    weight_source: Callable[[Array, Array], Array] = routing.weight_source
    weights: Callable[..., Array] = routing.combine_weights
    scale: Callable[..., Array] = routing.scale_weights
    round_weights: Callable[..., Array] = routing.round_weights
    shown_logits: Callable[[Array, Array], Array] = routing.shown_logits


@dataclass(frozen=True)
class ExpertSeams:
    """Who computes which token, the gated MLP, the weighted sum; the MLP of a layer without experts; the input, gate, MLP and sum of
    the shared expert."""

    dispatch: Callable[..., list[experts.Group]] = experts.group_by_expert
    run_experts: Callable[..., Array] = experts.run_experts
    split_gate_up: Callable[[Array], tuple[Array, Array]] = experts.split_halves
    activate: Callable[..., Array] = experts.swiglu
    combine: Callable[..., Array] = experts.combine
    dense_mlp: Callable[..., Array] = experts.dense_mlp
    shared_input: Callable[[Array, Array], Array] = shared.shared_input
    shared_gate: Callable[..., Array] = shared.shared_gate
    shared_mlp: Callable[..., Array] = experts.run_expert
    add_shared: Callable[[shared.SharedSum], Array] = shared.add_shared


@dataclass(frozen=True)
class CapacitySeams:
    """Which calls have a capacity; how many places an expert has, who takes them, who comes too late, what the rest weighs, and what a
    dropped choice gives."""

    has_capacity: Callable[[Any], bool] = capacity.is_prefill
    places: Callable[[int, int, float, int], int] = capacity.places
    counted: Callable[[Array], Array] = capacity.counted
    too_late: Callable[[capacity.Crowd, int], Array] = capacity.too_late
    reweigh: Callable[..., Array] = capacity.reweigh
    hand_back: Callable[[Array, Array, Array], Array] = capacity.hand_back


@dataclass(frozen=True)
class AttentionSeams:
    """Positions, RoPE, QK norm, masks, heads, and the sum over the cache."""

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


@dataclass(frozen=True)
class CacheSeams:
    """Writing, emptying; which slots a call may have, which caches it gets, and with which a request begins."""

    append: Callable[[cache.Cache, int, Array, Array], None] = cache.append
    reset: Callable[[cache.Cache], None] = cache.reset
    admit_slots: Callable[[slots.Slots, Array, int], list[int]] = slots.admit
    seat: Callable[[list[int]], list[int]] = slots.seat
    begin: Callable[[slots.Slots, int, cache.Cache], cache.Cache] = slots.begin


@dataclass(frozen=True)
class CallSeams:
    """What a call is checked for, and what it gives back: the last logits, packed sequences, the loss; what is declared."""

    tokens: Callable[..., Array] = inputs.tokens
    lengths: Callable[[Array, int, int], Array] = inputs.lengths
    started: Callable[[int], None] = inputs.started
    room: Callable[..., int] = inputs.room
    admit: Callable[..., tuple[Array, Array]] = inputs.admit
    mask: Callable[[Array], Array] = as_valid
    last_token: Callable[[Array], Array] = sampling.last_valid
    boundaries: Callable[[Array, int], Array] = inputs.boundaries
    segments: Callable[[Array], Array] = packing.segments
    packed_positions: Callable[[Array], Array] = packing.positions
    packed_last: Callable[[Array], Array] = packing.last
    kept_labels: Callable[[Array, Array], Array] = loss.kept_labels
    targets: Callable[[Array], Array] = loss.targets
    mean_loss: Callable[..., float] = loss.mean_loss
    probed: Callable[[cache.Cache | None], None] = leave_cache
    features: Callable[[], tuple[str, ...]] = declared.features
    shown: Callable[[], tuple[str, ...]] = declared.logits
    top: Callable[[Array, int], TopLogProbs] = sampling.top_log_probs
    describe: Callable[[ModelConfig], ModelCapabilities] = ModelCapabilities.of
    compiled_experts: Callable[..., Array] = tracing.all_experts


@dataclass(frozen=True)
class StorageSeams:
    """Which directory is opened for the one given; each tensor on the way in and out, config.json, whether a tied head's own tensor is
    kept; in loading: what is not read, how stored numbers become float32, the weights once loaded."""

    admitted: Callable[[str], str] = as_given
    pack: Callable[[str, Array, ModelConfig], Array] = keep_tensor
    unpack: Callable[[str, Array, ModelConfig], Array] = keep_tensor
    pack_config: Callable[[Mapping[str, Any]], Mapping[str, Any]] = keep_config
    stored_head: Callable[[ModelConfig, bool], bool] = keep_stored_head
    unread: Callable[[Checkpoint], frozenset[str]] = nothing_unread
    widen: Callable[[Array], Array] = widen
    loaded: Callable[[Tensors, ModelConfig, bool], Tensors] = keep_tensors


@dataclass(frozen=True)
class SamplingSeams:
    """How many tokens, whose random numbers, which token, where a row ends."""

    prompt_lengths: Callable[[Array, int], Array] = given_lengths
    steps: Callable[[GenerationSpec, int, int], int] = sampling.steps
    generator: Callable[[int], np.random.Generator] = sampling.generator
    keep_likely: Callable[[Array, GenerationSpec], Array] = sampling.keep_likely
    draw: Callable[[Array, np.random.Generator], Array] = sampling.draw
    sample: Callable[..., Array] = sampling.sample
    stop_ids: Callable[[ModelConfig, GenerationSpec], frozenset[int]] = sampling.stop_ids
    ended: Callable[[Array, Sequence[list[int]], frozenset[int], Array], Array] = sampling.ended


@dataclass(frozen=True)
class Seams:
    """All records. Signatures are those of the honest defaults."""

    network: NetworkSeams = field(default_factory=NetworkSeams)
    router: RouterSeams = field(default_factory=RouterSeams)
    experts: ExpertSeams = field(default_factory=ExpertSeams)
    capacity: CapacitySeams = field(default_factory=CapacitySeams)
    attention: AttentionSeams = field(default_factory=AttentionSeams)
    cache: CacheSeams = field(default_factory=CacheSeams)
    calls: CallSeams = field(default_factory=CallSeams)
    storage: StorageSeams = field(default_factory=StorageSeams)
    sampling: SamplingSeams = field(default_factory=SamplingSeams)


HONEST = Seams()
HOME = {seam.name: part.name for part in fields(Seams) for seam in fields(getattr(HONEST, part.name))}  # seam -> record


def seam(seams: Seams, name: str) -> Callable[..., Any]:
    """The function of that seam. Raises KeyError for a name that is no seam."""
    found: Callable[..., Any] = getattr(getattr(seams, HOME[name]), name)
    return found


def changed(seams: Seams, **functions: Any) -> Seams:
    """`seams` with these functions, by seam name. Raises KeyError for a name that is no seam."""
    for name, function in functions.items():
        part = HOME[name]
        seams = replace(seams, **{part: replace(getattr(seams, part), **{name: function})})
    return seams
