"""Canonical tensors (family-independent, experts stacked) and the layout rules between them and what lies on disk.

A layout is a list of `Placement`s: each source tensor fills one region of one canonical tensor, bit for bit. The regions of a canonical
tensor tile it, so the map is a bijection: read = copy every source into its region; write = cut every region out again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from moe_harness.implementations.interface import ModelConfig

Shape = Tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """Source tensor `source` of `shape` is `canonical[name][region]`; `region` holds ints and slices."""

    source: str
    name: str
    region: Tuple
    shape: Shape


def canonical_shapes(config: ModelConfig, stored_head: bool = True) -> Dict[str, Shape]:
    """Every canonical tensor of the model with its shape. `stored_head`: whether `lm_head.weight` is a tensor of its own."""
    shapes: Dict[str, Shape] = {"embed.weight": (config.vocab_size, config.hidden_size)}
    for i in range(config.num_hidden_layers):
        shapes.update({f"layers.{i}.{name}": shape for name, shape in _layer_shapes(config, i in config.moe_layers)})
    shapes["norm.weight"] = (config.hidden_size,)
    if stored_head:
        shapes["lm_head.weight"] = (config.vocab_size, config.hidden_size)
    return shapes


def _layer_shapes(config: ModelConfig, is_moe: bool) -> Iterator[Tuple[str, Shape]]:
    D = config.hidden_size
    yield "attention_norm.weight", (D,)
    yield from _attention_shapes(config)
    yield "ffn_norm.weight", (D,)
    if is_moe:
        yield from _moe_shapes(config)
    else:
        yield from (("mlp.gate_up.weight", (2 * config.intermediate_size, D)), ("mlp.down.weight", (D, config.intermediate_size)))


def _moe_shapes(config: ModelConfig) -> Iterator[Tuple[str, Shape]]:
    D, E, F, S = config.hidden_size, config.routing.num_experts, config.moe_intermediate_size, config.shared_expert_intermediate_size
    yield "moe.router.weight", (E, D)
    if config.routing.router_bias:
        yield "moe.router.bias", (E,)
    if config.routing.correction_bias:
        yield "moe.router.correction_bias", (E,)
    yield from (("moe.gate_up.weight", (E, 2 * F, D)), ("moe.down.weight", (E, D, F)))
    if config.shared_expert != "none":
        yield from (("moe.shared.gate_up.weight", (2 * S, D)), ("moe.shared.down.weight", (D, S)))
    if config.shared_expert == "gated":
        yield "moe.shared.gate.weight", (1, D)


def stored_dtypes(name: str, config: ModelConfig) -> Tuple[str, ...]:
    """The dtypes that a canonical tensor may have on disk, the usual one first: the config's, but for correction biases float32, since
    their small steps decide selections (transformers keeps them so), or the config's."""
    return tuple(dict.fromkeys(("float32", config.dtype))) if name.endswith("correction_bias") else (config.dtype,)


def _attention_shapes(config: ModelConfig) -> Iterator[Tuple[str, Shape]]:
    D, q_size, kv_size = config.hidden_size, config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    for part, rows, columns in (("q", q_size, D), ("k", kv_size, D), ("v", kv_size, D), ("o", D, q_size)):
        yield f"attention.{part}.weight", (rows, columns)
        if part in config.attention_bias:
            yield f"attention.{part}.bias", (rows,)
    if config.qk_norm != "none":
        sizes = (q_size, kv_size) if config.qk_norm == "projection" else (config.head_dim, config.head_dim)
        yield from ((f"attention.{part}_norm.weight", (size,)) for part, size in zip("qk", sizes))


def parameter_counts(config: ModelConfig) -> Tuple[int, int]:
    """(total, active per token). Active counts K of E experts in every MoE layer and everything else once, embeddings included."""
    total = sum(int(np.prod(shape, dtype=np.int64)) for shape in canonical_shapes(config, not config.tie_word_embeddings).values())
    one_expert = 3 * config.hidden_size * config.moe_intermediate_size
    idle = config.routing.num_experts - config.routing.top_k
    return total, total - len(config.moe_layers) * idle * one_expert


def identity_layout(config: ModelConfig, stored_head: bool) -> List[Placement]:
    """Canonical names on disk as they are."""
    return [Placement(name, name, (), shape) for name, shape in canonical_shapes(config, stored_head).items()]


def by_target(layout: List[Placement]) -> Dict[str, List[Placement]]:
    """Placements grouped by canonical tensor, in layout order."""
    groups: Dict[str, List[Placement]] = {}
    for placement in layout:
        groups.setdefault(placement.name, []).append(placement)
    return groups


def assemble(placements: List[Placement], shape: Shape, read: Callable[[str], np.ndarray]) -> np.ndarray:
    """One canonical tensor out of its sources. A whole-tensor placement is passed through without a copy."""
    if placements[0].region == ():
        return read(placements[0].source)
    first = read(placements[0].source)
    target = np.empty(shape, first.dtype)
    for placement in placements:
        target[placement.region] = first if placement is placements[0] else read(placement.source)
    return target


def scatter(layout: List[Placement], canonical: Mapping[str, np.ndarray]) -> Iterator[Tuple[str, np.ndarray]]:
    """The inverse: (source name, array) one at a time, in layout order."""
    for placement in layout:
        yield placement.source, np.ascontiguousarray(canonical[placement.name][placement.region]).reshape(placement.shape)
