"""OLMoE (allenai/OLMoE-1B-7B-0924): QK-norm over whole projections, weights not renormalised. Source: transformers 5 `models/olmoe`."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from moe_harness.implementations.families.config import ConfigError, Fields
from moe_harness.implementations.families.family import Family, common_to_hf
from moe_harness.implementations.interface import ModelConfig, RoutingSpec

DEFAULT_TOKENS = {"eos_token_id": 50279, "pad_token_id": 1}  # what transformers takes for an absent key; null means none
KEYS = ("norm_topk_prob", "attention_bias", "clip_qkv")
TRAITS: Dict[str, Any] = {"qk_norm": "projection"}


def parse(raw: Mapping[str, Any]) -> ModelConfig:
    fields = Fields({**DEFAULT_TOKENS, **raw}, KEYS)
    if raw.get("clip_qkv") is not None:
        raise ConfigError("clip_qkv", f"clipping is not supported, got {raw['clip_qkv']!r}")
    if raw.get("sliding_window") is not None:
        raise ConfigError("sliding_window", f"not part of this family, got {raw['sliding_window']!r}")
    config = _config(fields)
    if config.head_dim * config.num_attention_heads != config.hidden_size:  # transformers sizes q_norm by hidden_size
        raise ConfigError("head_dim", f"{config.head_dim} x {config.num_attention_heads} heads is not hidden_size {config.hidden_size}")
    return config


def _config(fields: Fields) -> ModelConfig:
    E, K = fields.experts()
    return ModelConfig(
        family="olmoe",
        moe_intermediate_size=fields.integer("intermediate_size"),
        routing=RoutingSpec(num_experts=E, top_k=K, normalize_topk=fields.boolean("norm_topk_prob", False)),
        moe_layers=tuple(range(fields.integer("num_hidden_layers"))),
        attention_bias=fields.bias("attention_bias", "qkvo", False),
        **TRAITS,
        **fields.common(),
    )


def to_hf(config: ModelConfig) -> Dict[str, Any]:
    return dict(
        common_to_hf(config),
        num_experts=config.routing.num_experts,
        norm_topk_prob=config.routing.normalize_topk,
        attention_bias=bool(config.attention_bias),
        clip_qkv=None,
    )


OLMOE_1B_7B = {
    "architectures": ["OlmoeForCausalLM"], "model_type": "olmoe", "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 1024,
    "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "num_experts": 64, "num_experts_per_tok": 8, "norm_topk_prob": False, "clip_qkv": None, "hidden_act": "silu",
    "attention_bias": False, "tie_word_embeddings": False, "eos_token_id": 50279, "pad_token_id": 1, "torch_dtype": "bfloat16",
}  # fmt: skip

FAMILY = Family(
    name="olmoe",
    architecture="OlmoeForCausalLM",
    parse=parse,
    to_hf=to_hf,
    block="mlp",
    expert_parts=("gate_proj", "up_proj", "down_proj"),
    public={"olmoe-1b-7b": OLMOE_1B_7B},
    traits=TRAITS,
    free=("normalize_topk", "attention_bias"),
)
