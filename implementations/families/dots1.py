"""dots.llm1 (rednote-hilab/dots.llm1.base): Qwen3's attention with DeepSeek-V3's router (sigmoid, correction bias, groups, scaling) and an
ungated shared expert. Source: transformers 5 `models/dots1`."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from moe_harness.implementations.families.config import ConfigError, Fields
from moe_harness.implementations.families.deepseek_v3 import SELECTION_KEYS, grouped_routing
from moe_harness.implementations.families.family import Family, common_to_hf
from moe_harness.implementations.interface import ModelConfig

KEYS = (*SELECTION_KEYS, "moe_intermediate_size", "n_shared_experts", "first_k_dense_replace", "attention_bias", "layer_types")
TRAITS: Dict[str, Any] = {
    "qk_norm": "head",
    "shared_expert": "ungated",
    "routing": {"scoring": "sigmoid", "correction_bias": True},
}


def parse(raw: Mapping[str, Any]) -> ModelConfig:
    fields = Fields(raw, KEYS)
    layers, dense = fields.integer("num_hidden_layers"), fields.integer("first_k_dense_replace", 0, default=0)
    _refuse_windows(fields, layers)
    F = fields.integer("moe_intermediate_size")
    return ModelConfig(
        family="dots1",
        moe_intermediate_size=F,
        shared_expert_intermediate_size=F * fields.integer("n_shared_experts"),
        routing=grouped_routing(fields),
        moe_layers=tuple(range(min(dense, layers), layers)),
        attention_bias=fields.bias("attention_bias", "qkvo", False),
        qk_norm=TRAITS["qk_norm"],
        shared_expert=TRAITS["shared_expert"],
        **fields.common(),
    )


def _refuse_windows(fields: Fields, layers: int) -> None:
    """transformers gives a window to the layers from `max_window_layers` on, and takes 4096 and 62 for absent keys."""
    fields.full_attention()
    if fields.raw.get("sliding_window", 4096) is not None and layers > fields.integer("max_window_layers", 0, default=62):
        raise ConfigError("sliding_window", "a window in some layers only is not supported")


def to_hf(config: ModelConfig) -> Dict[str, Any]:
    routing = config.routing
    return dict(
        common_to_hf(config),
        head_dim=config.head_dim,
        n_routed_experts=routing.num_experts,
        n_shared_experts=config.shared_expert_intermediate_size // config.moe_intermediate_size,
        moe_intermediate_size=config.moe_intermediate_size,
        norm_topk_prob=routing.normalize_topk,
        n_group=routing.num_groups,
        topk_group=routing.top_groups,
        routed_scaling_factor=routing.scaling_factor,
        first_k_dense_replace=config.num_hidden_layers - len(config.moe_layers),
        attention_bias=bool(config.attention_bias),
        sliding_window=None,
    )


DOTS_LLM1 = {
    "architectures": ["Dots1ForCausalLM"], "model_type": "dots1", "vocab_size": 152064, "hidden_size": 4096, "intermediate_size": 10944,
    "moe_intermediate_size": 1408, "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e7, "n_routed_experts": 128, "n_shared_experts": 2,
    "num_experts_per_tok": 6, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1, "hidden_act": "silu", "attention_bias": False, "tie_word_embeddings": False, "sliding_window": None,
    "torch_dtype": "bfloat16",
}  # fmt: skip

FAMILY = Family(
    name="dots1",
    architecture="Dots1ForCausalLM",
    parse=parse,
    to_hf=to_hf,
    block="mlp",
    expert_parts=("gate_proj", "up_proj", "down_proj"),
    public={"dots.llm1": DOTS_LLM1},
    traits=TRAITS,
    free=("head_dim", "moe_intermediate_size", "normalize_topk", "leading_dense_layers", "attention_bias", "groups", "scaling_factor"),
    shared="shared_experts",
)
