"""Checkpoints made on demand, by seed, in real HF format: random ones of any size at a chosen router scale, and `transparent` ones whose
router shows its input. Legend: E experts, D hidden."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moe_harness.cases.tensors import numpy_dtype
from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.checkpoint import CONFIG, HEAD
from moe_harness.implementations.checkpoint.writer import new_directory, write_json, write_tensors
from moe_harness.implementations.families.family import hf_name
from moe_harness.implementations.families.weights import Placement, stored_dtypes
from moe_harness.implementations.interface import ModelConfig, RoutingSpec

# Standard deviation of router logits. A flat router hides the order of weights, a peaked one hides the renormalise flag: use both.
FLAT, PEAKED = 0.5, 4.0


def synthesize(config: ModelConfig, dst: Path, seed: int = 0, router_scale: float | None = 1.0, stored_head: bool | None = None) -> Path:
    """Writes a random checkpoint of `config` to `dst`, tensor by tensor, and returns `dst`. Activations keep unit scale through the layers.
    `router_scale`: standard deviation of the router logits; None makes the routers transparent."""
    stored = not config.tie_word_embeddings if stored_head is None else stored_head
    family = families.family(config.family)
    layout = {p.source: p for p in family.layout(config, stored)}
    seeds = dict(zip(layout, np.random.SeedSequence(seed).spawn(len(layout)), strict=True))
    if config.tie_word_embeddings and stored:
        seeds[HEAD] = seeds[hf_name("embed.weight")]
    with new_directory(dst) as scratch:
        write_json(scratch / CONFIG, family.to_hf(config))
        sizes = {name: int(np.prod(p.shape)) * numpy_dtype(stored_dtypes(p.name, config)[0]).itemsize for name, p in layout.items()}
        write_tensors(scratch, sizes, lambda name: _values(layout[name], config, seeds[name], router_scale))
    return dst


def _values(placement: Placement, config: ModelConfig, seed: np.random.SeedSequence, router_scale: float | None) -> np.ndarray:
    """Normal with variance 1/columns; norms near one and biases near zero but not equal to them, so that a forgotten one shows. A
    transparent router's bias and correction lie on a coarse grid, so that the oracle knows its logits exactly in every dtype."""
    dtype = numpy_dtype(stored_dtypes(placement.name, config)[0])
    is_router = placement.name.endswith("router.weight")
    if is_router and router_scale is None:
        return transparent_router(config).astype(dtype)
    values: np.ndarray = np.random.default_rng(seed).standard_normal(placement.shape, np.float32)
    if len(placement.shape) == 1:
        is_bias = placement.name.endswith("bias")
        values = 0.2 * values if is_bias else 1.0 + 0.1 * values
        if is_bias and router_scale is None:
            values = np.round(16 * values) / 16
    else:
        values *= np.float32((router_scale if is_router and router_scale else 1.0) / np.sqrt(placement.shape[-1]))
    return values.astype(dtype)


def small(family: str, num_experts: int = 12, top_k: int = 3, normalize_topk: bool = True, **changes: Any) -> ModelConfig:
    """A small legal config of a family with all dimensions different, for probing one behaviour. `changes`: fields of ModelConfig."""
    description = families.family(family)
    fixed = {name: value for name, value in description.traits.items() if name != "routing"}
    if fixed.get("shared_expert"):
        fixed["shared_expert_intermediate_size"] = 2 * 32  # of dots1, a multiple of the experts' size
    config = ModelConfig(
        family=family, architecture=description.architecture, vocab_size=272, hidden_size=64, intermediate_size=96,
        moe_intermediate_size=32 if "moe_intermediate_size" in description.free else 96, num_hidden_layers=1, num_attention_heads=8,
        num_key_value_heads=4, head_dim=16 if "head_dim" in description.free and family != "mixtral" else 8, max_position_embeddings=128,
        rms_norm_eps=1e-5, rope_theta=20000.0, routing=routing_of(family, num_experts, top_k, normalize_topk), moe_layers=(0,),
        eos_token_ids=(257,), bos_token_id=256, pad_token_id=258, dtype="float32",
    )  # fmt: skip
    return replace(config, **(fixed | changes))


def routing_of(family: str, num_experts: int, top_k: int, normalize_topk: bool) -> RoutingSpec:
    """A RoutingSpec that the family's config.json can say. Where there are groups, of four experts each, one more is used than K needs."""
    description = families.family(family)
    spec = RoutingSpec(num_experts, top_k, **{"normalize_topk": normalize_topk, **description.traits.get("routing", {})})
    if "groups" in description.free and num_experts % 4 == 0:
        spec = replace(spec, num_groups=num_experts // 4, top_groups=min(num_experts // 4, -(-top_k // 4) + 1))
    return replace(spec, scaling_factor=2.5) if "scaling_factor" in description.free else spec


def transparent_router(config: ModelConfig) -> np.ndarray:
    """w_ED with logits(x) = x[:E] + x[E]: the first E coordinates are the logits, the next one shifts them all."""
    w_ED = np.zeros((config.routing.num_experts, config.hidden_size), np.float32)
    np.fill_diagonal(w_ED, 1.0)
    w_ED[:, config.routing.num_experts] = 1.0
    return w_ED


def transparent_input(logits_TE: np.ndarray, shift_T: np.ndarray, config: ModelConfig, seed: int = 0) -> np.ndarray:
    """x_TD that makes a transparent router see exactly `logits_TE + shift_T`; the other coordinates are random and mean nothing to it."""
    T, E = logits_TE.shape
    x_TD = np.random.default_rng(seed).choice(np.array([-1.0, -0.5, 0.5, 1.0], np.float32), (T, config.hidden_size))
    x_TD[:, :E], x_TD[:, E] = logits_TE, shift_T
    return x_TD
