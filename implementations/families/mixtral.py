"""Mixtral (mistralai/Mixtral-8x7B-v0.1 and kin). Source: transformers 5 `models/mixtral`."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from moe_harness.implementations.families.config import Fields
from moe_harness.implementations.families.family import Family, common_to_hf
from moe_harness.implementations.interface import ModelConfig, RoutingSpec

DEFAULT_TOKENS = {"bos_token_id": 1, "eos_token_id": 2}  # what transformers takes for an absent key; null means none


def parse(raw: Mapping[str, Any]) -> ModelConfig:
    fields = Fields({**DEFAULT_TOKENS, **raw})
    E, K = fields.experts()
    return ModelConfig(
        family="mixtral",
        moe_intermediate_size=fields.integer("intermediate_size"),
        # Softmax over all experts, then top-k, then division by the sum: always renormalised.
        routing=RoutingSpec(num_experts=E, top_k=K, normalize_topk=True),
        moe_layers=tuple(range(fields.integer("num_hidden_layers"))),
        sliding_window=fields.optional_integer("sliding_window", 1),
        **fields.common(),
    )


def to_hf(config: ModelConfig) -> Dict[str, Any]:
    raw = dict(common_to_hf(config), num_local_experts=config.routing.num_experts, sliding_window=config.sliding_window)
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        raw["head_dim"] = config.head_dim  # engines reject an explicit one, so only where it is needed
    return raw


MIXTRAL_8X7B = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
    "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None, "hidden_act": "silu",
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
}  # fmt: skip

FAMILY = Family(
    name="mixtral",
    architecture="MixtralForCausalLM",
    parse=parse,
    to_hf=to_hf,
    block="block_sparse_moe",
    expert_parts=("w1", "w3", "w2"),
    public={"mixtral-8x7b": MIXTRAL_8X7B},
    free=("head_dim", "sliding_window"),
)
