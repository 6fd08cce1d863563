"""Every place where a fault can enter: frozen records of functions, one record for each part of the subject. A fault replaces one or two of
the functions, by `changed`. The honest functions are in honest.py, above the steps; the steps call each other through these records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from moe_harness.emulator.cache import Cache, Slots
from moe_harness.emulator.numerics import Array
from moe_harness.emulator.values import Crowd, Group, KeyView, SharedSum, Tables
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.interface import GenerationSpec, ModelCapabilities, ModelConfig, PinnedRouting, TopLogProbs

Tensors = dict[str, Array]


@dataclass(frozen=True)
class NetworkSeams:
    """Every matmul with weights; what enters the first layer; the epsilon of the norms; the norms before attention and experts, the one
    before the head; what a layer's parts are added to; the head."""

    linear: Callable[..., Array]
    embed: Callable[[Array, Array, Array], Array]
    epsilon: Callable[[ModelConfig], float]
    norm: Callable[..., Array]
    final_norm: Callable[..., Array]
    add_residual: Callable[..., Array]
    head: Callable[..., Array]


@dataclass(frozen=True)
class RouterSeams:
    """What the router reads in the model, whose weights it uses; then the steps of `routing.route` in their order; what it hands out."""

    router_input: Callable[[Array, Array], Array]
    router_layer: Callable[[int, int], int]
    pinned_layer: Callable[[PinnedRouting | None, int], PinnedRouting | None]
    router_logits: Callable[..., Array]
    add_bias: Callable[..., Array]
    scores: Callable[..., Array]
    correct: Callable[[Array, Array | None], Array]
    limit_groups: Callable[..., Array]
    select: Callable[..., Array]
    weight_source: Callable[[Array, Array], Array]
    weights: Callable[..., Array]
    scale: Callable[..., Array]
    round_weights: Callable[..., Array]
    shown_logits: Callable[[Array, Array], Array]


@dataclass(frozen=True)
class ExpertSeams:
    """Who computes which token, the gated MLP, the weighted sum; the MLP of a layer without experts; the input, gate, MLP and sum of
    the shared expert."""

    dispatch: Callable[..., list[Group]]
    run_experts: Callable[..., Array]
    split_gate_up: Callable[[Array], tuple[Array, Array]]
    activate: Callable[..., Array]
    combine: Callable[..., Array]
    dense_mlp: Callable[..., Array]
    shared_input: Callable[[Array, Array], Array]
    shared_gate: Callable[..., Array]
    shared_mlp: Callable[..., Array]
    add_shared: Callable[[SharedSum], Array]


@dataclass(frozen=True)
class CapacitySeams:
    """Which calls have a capacity; how many places an expert has, who takes them, who comes too late, what the rest weighs, and what a
    dropped choice gives."""

    has_capacity: Callable[[Any], bool]
    places: Callable[[int, int, float, int], int]
    counted: Callable[[Array], Array]
    too_late: Callable[[Crowd, int], Array]
    reweigh: Callable[..., Array]
    hand_back: Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class AttentionSeams:
    """Positions, RoPE, QK norm, masks, heads, and the sum over the cache."""

    prefill_positions: Callable[[Array, Array, int], Array]
    decode_positions: Callable[[Array, int], Array]
    rope_tables: Callable[..., Tables]
    qk_norm: Callable[..., Array]
    rotate: Callable[..., Array]
    position_heads: Callable[..., Array]
    visible_keys: Callable[[KeyView], Array]
    attention_scale: Callable[[ModelConfig], float]
    repeat_kv: Callable[[Array, int], Array]
    attend: Callable[..., Array]


@dataclass(frozen=True)
class CacheSeams:
    """Writing, emptying; which slots a call may have, which caches it gets, and with which a request begins."""

    append: Callable[[Cache, int, Array, Array], None]
    reset: Callable[[Cache], None]
    admit_slots: Callable[[Slots, Array, int], list[int]]
    seat: Callable[[list[int]], list[int]]
    begin: Callable[[Slots, int, Cache], Cache]


@dataclass(frozen=True)
class CallSeams:
    """What a call is checked for, and what it gives back: the last logits, packed sequences, the loss; what is declared."""

    tokens: Callable[..., Array]
    lengths: Callable[[Array, int, int], Array]
    started: Callable[[int], None]
    room: Callable[..., int]
    admit: Callable[..., tuple[Array, Array]]
    mask: Callable[[Array], Array]
    last_token: Callable[[Array], Array]
    boundaries: Callable[[Array, int], Array]
    segments: Callable[[Array], Array]
    packed_positions: Callable[[Array], Array]
    packed_last: Callable[[Array], Array]
    kept_labels: Callable[[Array, Array], Array]
    targets: Callable[[Array], Array]
    mean_loss: Callable[..., float]
    probed: Callable[[Cache | None], None]
    features: Callable[[], tuple[str, ...]]
    shown: Callable[[], tuple[str, ...]]
    top: Callable[[Array, int], TopLogProbs]
    describe: Callable[[ModelConfig], ModelCapabilities]
    compiled_experts: Callable[..., Array]


@dataclass(frozen=True)
class StorageSeams:
    """Which directory is opened for the one given; each tensor on the way in and out, config.json, whether a tied head's own tensor is
    kept; in loading: what is not read, how stored numbers become float32, the weights once loaded."""

    admitted: Callable[[str], str]
    pack: Callable[[str, Array, ModelConfig], Array]
    unpack: Callable[[str, Array, ModelConfig], Array]
    pack_config: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    stored_head: Callable[[ModelConfig, bool], bool]
    unread: Callable[[Checkpoint], frozenset[str]]
    widen: Callable[[Array], Array]
    loaded: Callable[[Tensors, ModelConfig, bool], Tensors]


@dataclass(frozen=True)
class SamplingSeams:
    """How many tokens, whose random numbers, which token, where a row ends."""

    prompt_lengths: Callable[[Array, int], Array]
    steps: Callable[[GenerationSpec, int, int], int]
    generator: Callable[[int], np.random.Generator]
    keep_likely: Callable[[Array, GenerationSpec], Array]
    draw: Callable[[Array, np.random.Generator], Array]
    sample: Callable[..., Array]
    stop_ids: Callable[[ModelConfig, GenerationSpec], frozenset[int]]
    ended: Callable[[Array, Sequence[list[int]], frozenset[int], Array], Array]


@dataclass(frozen=True)
class Seams:
    """All records. Signatures are those of the honest defaults."""

    network: NetworkSeams
    router: RouterSeams
    experts: ExpertSeams
    capacity: CapacitySeams
    attention: AttentionSeams
    cache: CacheSeams
    calls: CallSeams
    storage: StorageSeams
    sampling: SamplingSeams


PARTS = (NetworkSeams, RouterSeams, ExpertSeams, CapacitySeams, AttentionSeams, CacheSeams, CallSeams, StorageSeams, SamplingSeams)
HOME = {seam.name: part.name for part, record in zip(fields(Seams), PARTS, strict=True) for seam in fields(record)}  # seam -> record


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
