"""Tiny random checkpoints for tests: every dimension different, norms and biases far from their initial values, routers that decide."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Dict

import ml_dtypes
import numpy as np

from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.writer import write_checkpoint
from moe_harness.implementations.families.weights import Shape, canonical_shapes, scatter, stored_dtypes
from moe_harness.implementations.interface import ModelConfig, RoutingSpec

COMMON: Dict[str, Any] = dict(
    vocab_size=96,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    eos_token_ids=(2,),
    bos_token_id=1,
    pad_token_id=0,
)
MIXTRAL = ModelConfig(
    family="mixtral",
    architecture="MixtralForCausalLM",
    intermediate_size=48,
    moe_intermediate_size=48,
    head_dim=8,
    routing=RoutingSpec(num_experts=6, top_k=2),
    moe_layers=(0, 1, 2),
    **COMMON,
)
# Layer 1 is dense, so that "layer" and "MoE layer" cannot be confused unnoticed; heads * head_dim differs from hidden_size.
QWEN3_MOE = ModelConfig(
    family="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    intermediate_size=40,
    moe_intermediate_size=24,
    head_dim=12,
    routing=RoutingSpec(num_experts=10, top_k=3, normalize_topk=True),
    moe_layers=(0, 2),
    qk_norm="head",
    **COMMON,
)
QWEN2_MOE = ModelConfig(
    family="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    intermediate_size=40,
    moe_intermediate_size=24,
    head_dim=8,
    routing=RoutingSpec(num_experts=10, top_k=3, normalize_topk=False),
    moe_layers=(0, 2),
    attention_bias=("q", "k", "v"),
    shared_expert="gated",
    shared_expert_intermediate_size=28,
    **COMMON,
)
OLMOE = ModelConfig(
    family="olmoe",
    architecture="OlmoeForCausalLM",
    intermediate_size=24,
    moe_intermediate_size=24,
    head_dim=8,
    routing=RoutingSpec(num_experts=10, top_k=3, normalize_topk=False),
    moe_layers=(0, 1, 2),
    qk_norm="projection",
    **COMMON,
)
# Two of four groups of three: six experts stand for three places.
DOTS1 = ModelConfig(
    family="dots1",
    architecture="Dots1ForCausalLM",
    intermediate_size=44,
    moe_intermediate_size=24,
    head_dim=10,
    routing=RoutingSpec(12, 3, "sigmoid", correction_bias=True, num_groups=4, top_groups=2, scaling_factor=2.5),
    moe_layers=(1, 2),
    qk_norm="head",
    shared_expert="ungated",
    shared_expert_intermediate_size=48,
    **COMMON,
)
TINY = {config.family: config for config in (MIXTRAL, QWEN3_MOE, QWEN2_MOE, OLMOE, DOTS1)}
NUMPY_DTYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
ROUTING_FIELDS = {field.name for field in fields(RoutingSpec)}


def tiny_config(family: str = "mixtral", dtype: str = "float32", **overrides: Any) -> ModelConfig:
    """The family's tiny config. `overrides`: fields of ModelConfig, or of RoutingSpec (`top_k=1`). A change of `num_hidden_layers` resets
    `moe_layers` to all layers, one of `num_experts` the groups to one; what the family's config.json cannot say by itself follows."""
    base, free = TINY[family], families.family(family).free
    routing = {key: overrides.pop(key) for key in list(overrides) if key in ROUTING_FIELDS}
    if "num_hidden_layers" in overrides:
        overrides.setdefault("moe_layers", tuple(range(overrides["num_hidden_layers"])))
    if "num_experts" in routing:
        routing = {"num_groups": 1, "top_groups": 1, **routing}
    if "hidden_size" in overrides and "head_dim" not in free:
        overrides["head_dim"] = overrides["hidden_size"] // overrides.get("num_attention_heads", base.num_attention_heads)
    if base.shared_expert == "ungated" and "moe_intermediate_size" in overrides:
        overrides.setdefault("shared_expert_intermediate_size", 2 * overrides["moe_intermediate_size"])
    if "moe_intermediate_size" not in free:
        size = overrides.get("moe_intermediate_size", overrides.get("intermediate_size", base.intermediate_size))
        overrides.update(intermediate_size=size, moe_intermediate_size=size)
    return replace(base, dtype=dtype, routing=replace(base.routing, **routing), **overrides)


def tiny_tensors(config: ModelConfig, seed: int = 0, stored_head: bool = True) -> Dict[str, np.ndarray]:
    """Canonical tensors in the config's dtype, correction biases in float32. A stored head of a tied model equals the embedding."""
    rng, shapes = np.random.default_rng(seed), canonical_shapes(config, stored_head)
    tensors = {name: _tensor(rng, name, shape).astype(NUMPY_DTYPES[stored_dtypes(name, config)[0]]) for name, shape in shapes.items()}
    if config.tie_word_embeddings and stored_head:
        tensors["lm_head.weight"] = tensors["embed.weight"]
    return tensors


def _tensor(rng: np.random.Generator, name: str, shape: Shape) -> np.ndarray:
    """Norms spread around 1, biases around 0, matrices with unit gain; the router's gain of 2 gives clear and close decisions alike."""
    draw = rng.standard_normal(shape)
    if name.endswith("norm.weight"):
        return 1 + 0.2 * draw
    if name.endswith("bias"):
        return 0.2 * draw
    if name == "embed.weight":
        return draw
    return draw * (2.0 if "router" in name else 1.0) / np.sqrt(shape[-1])


def tiny_checkpoint(
    path: str | Path, family: str = "mixtral", seed: int = 0, dtype: str = "float32", stored_head: bool = True, **config_overrides: Any
) -> ModelConfig:
    """Writes an HF directory as transformers 5 stores it (one tensor per expert) and returns its config. `path` must be new or empty.

    `stored_head` False leaves `lm_head.weight` out, which only a tied model allows. `config_overrides` as in `tiny_config`.
    """
    config = tiny_config(family, dtype, **config_overrides)
    if not stored_head and not config.tie_word_embeddings:
        raise ValueError("a model whose embeddings are not tied needs a stored head")
    description = families.family(family)
    layout = description.layout(config, stored_head)
    tensors = dict(scatter(layout, tiny_tensors(config, seed, stored_head)))
    write_checkpoint(path, description.to_hf(config), tensors)
    return config
