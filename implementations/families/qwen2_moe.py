"""Qwen2-MoE (Qwen/Qwen1.5-MoE-A2.7B and kin): a gated shared expert, biases on q, k, v. Source: transformers 5 `models/qwen2_moe`."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from moe_harness.implementations.families.config import ConfigError, Fields
from moe_harness.implementations.families.family import Family, common_to_hf
from moe_harness.implementations.families.qwen3_moe import dense_layers, moe_layers
from moe_harness.implementations.interface import ModelConfig, RoutingSpec

KEYS = (
    "moe_intermediate_size shared_expert_intermediate_size norm_topk_prob mlp_only_layers decoder_sparse_step use_sliding_window "
    "qkv_bias layer_types"
).split()
TRAITS: Dict[str, Any] = {"shared_expert": "gated"}


def parse(raw: Mapping[str, Any]) -> ModelConfig:
    fields = Fields(raw, KEYS)
    E, K = fields.experts()
    fields.full_attention()
    if fields.boolean("use_sliding_window", False):  # transformers gives a window to every second layer below max_window_layers
        raise ConfigError("use_sliding_window", "windows that alternate between layers are not supported")
    return ModelConfig(
        family="qwen2_moe",
        moe_intermediate_size=fields.integer("moe_intermediate_size"),
        shared_expert_intermediate_size=fields.integer("shared_expert_intermediate_size"),
        routing=RoutingSpec(num_experts=E, top_k=K, normalize_topk=fields.boolean("norm_topk_prob", False)),
        moe_layers=moe_layers(fields),
        attention_bias=fields.bias("qkv_bias", "qkv", True),
        **TRAITS,
        **fields.common(),
    )


def to_hf(config: ModelConfig) -> Dict[str, Any]:
    raw = dict(
        common_to_hf(config),
        num_experts=config.routing.num_experts,
        moe_intermediate_size=config.moe_intermediate_size,
        shared_expert_intermediate_size=config.shared_expert_intermediate_size,
        norm_topk_prob=config.routing.normalize_topk,
        mlp_only_layers=dense_layers(config),
        decoder_sparse_step=1,
        qkv_bias=bool(config.attention_bias),
        sliding_window=None,
        use_sliding_window=False,
    )
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        raw["head_dim"] = config.head_dim
    return raw


QWEN15_MOE_A27B = {
    "architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe", "vocab_size": 151936, "hidden_size": 2048,
    "intermediate_size": 5632, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "num_hidden_layers": 24,
    "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "num_experts": 60, "num_experts_per_tok": 4, "norm_topk_prob": False, "decoder_sparse_step": 1, "hidden_act": "silu",
    "tie_word_embeddings": False, "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 21,
    "bos_token_id": 151643, "eos_token_id": 151643, "torch_dtype": "bfloat16",
}  # fmt: skip

FAMILY = Family(
    name="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    parse=parse,
    to_hf=to_hf,
    block="mlp",
    expert_parts=("gate_proj", "up_proj", "down_proj"),
    public={"qwen1.5-moe-a2.7b": QWEN15_MOE_A27B},
    traits=TRAITS,
    free=("head_dim", "moe_intermediate_size", "normalize_topk", "dense_layers", "attention_bias"),
    bias_parts=("q", "k", "v"),
)
