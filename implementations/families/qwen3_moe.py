"""Qwen3-MoE (Qwen/Qwen3-30B-A3B and kin). Source: transformers 5 `models/qwen3_moe`."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple

from moe_harness.implementations.families.config import ConfigError, Fields
from moe_harness.implementations.families.family import Family, common_to_hf
from moe_harness.implementations.interface import ModelConfig, RoutingSpec

KEYS = ("moe_intermediate_size", "norm_topk_prob", "mlp_only_layers", "decoder_sparse_step", "use_sliding_window", "attention_bias")
TRAITS: Dict[str, Any] = {"qk_norm": "head"}


def parse(raw: Mapping[str, Any]) -> ModelConfig:
    fields = Fields(raw, KEYS)
    E, K = fields.experts()
    return ModelConfig(
        family="qwen3_moe",
        moe_intermediate_size=fields.integer("moe_intermediate_size"),
        routing=RoutingSpec(num_experts=E, top_k=K, normalize_topk=fields.boolean("norm_topk_prob", False)),
        moe_layers=moe_layers(fields),
        sliding_window=_sliding_window(fields),
        attention_bias=fields.bias("attention_bias", "qkvo", False),
        **TRAITS,
        **fields.common(),
    )


def moe_layers(fields: Fields) -> Tuple[int, ...]:
    """Layer i holds experts unless it is listed in `mlp_only_layers` or (i + 1) is not a multiple of `decoder_sparse_step`."""
    layers, step = fields.integer("num_hidden_layers"), fields.integer("decoder_sparse_step", default=1)
    dense = [] if fields.raw.get("mlp_only_layers") is None else fields.raw["mlp_only_layers"]
    if not isinstance(dense, list) or not all(type(i) is int and 0 <= i < layers for i in dense):  # a bool is an int too
        raise ConfigError("mlp_only_layers", f"expected layer indices in [0, {layers}), got {dense!r}")
    return tuple(i for i in range(layers) if i not in dense and (i + 1) % step == 0)


def _sliding_window(fields: Fields) -> Optional[int]:
    """transformers drops the window unless `use_sliding_window` is set, and takes 4096 for an absent key: too quiet a default to copy."""
    if not fields.boolean("use_sliding_window", False):
        return None
    if "sliding_window" not in fields.raw:
        raise ConfigError("sliding_window", "missing, and use_sliding_window is true")
    return fields.optional_integer("sliding_window", 1)


def to_hf(config: ModelConfig) -> Dict[str, Any]:
    return dict(
        common_to_hf(config),
        num_experts=config.routing.num_experts,
        head_dim=config.head_dim,
        moe_intermediate_size=config.moe_intermediate_size,
        norm_topk_prob=config.routing.normalize_topk,
        mlp_only_layers=dense_layers(config),
        decoder_sparse_step=1,
        attention_bias=bool(config.attention_bias),
        sliding_window=config.sliding_window,
        use_sliding_window=config.sliding_window is not None,
    )


def dense_layers(config: ModelConfig) -> List[int]:
    return [i for i in range(config.num_hidden_layers) if i not in config.moe_layers]


QWEN3_30B_A3B = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048,
    "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "num_experts": 128, "num_experts_per_tok": 8,
    "norm_topk_prob": True, "mlp_only_layers": [], "decoder_sparse_step": 1, "hidden_act": "silu", "tie_word_embeddings": False,
    "attention_bias": False, "sliding_window": None, "use_sliding_window": False, "bos_token_id": 151643, "eos_token_id": 151645,
    "torch_dtype": "bfloat16",
}  # fmt: skip

FAMILY = Family(
    name="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    parse=parse,
    to_hf=to_hf,
    block="mlp",
    expert_parts=("gate_proj", "up_proj", "down_proj"),
    public={"qwen3-30b-a3b": QWEN3_30B_A3B},
    traits=TRAITS,
    free=("head_dim", "moe_intermediate_size", "normalize_topk", "dense_layers", "sliding_window", "attention_bias"),
)
