"""The golden models: small, legal for every engine, with every dimension different so that a transpose shows.

D, F, H*P are multiples of 32, H and E of 4; H/N differs from N (a permutation with the wrong head count shows); Mixtral's head size is D/H,
Qwen3's is explicit. Byte-level vocabulary: 256 BOS, 257 EOS, 258 PAD.
"""

from __future__ import annotations

from typing import Any

from moe_harness.implementations.interface import ModelConfig, RoutingSpec

_SHARED: dict[str, Any] = dict(
    vocab_size=272, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=512, moe_layers=(0, 1, 2),
    eos_token_ids=(257,), bos_token_id=256, pad_token_id=258, dtype="bfloat16",
)  # fmt: skip

GOLDEN_CONFIGS = {
    "mixtral": ModelConfig(
        family="mixtral", architecture="MixtralForCausalLM", hidden_size=128, intermediate_size=96, moe_intermediate_size=96, head_dim=16,
        rms_norm_eps=1e-5, rope_theta=1e6, routing=RoutingSpec(num_experts=12, top_k=2), **_SHARED,
    ),
    "qwen3_moe": ModelConfig(
        family="qwen3_moe", architecture="Qwen3MoeForCausalLM", hidden_size=96, intermediate_size=160, moe_intermediate_size=64,
        head_dim=32, rms_norm_eps=1e-6, rope_theta=10000.0, routing=RoutingSpec(num_experts=16, top_k=4), qk_norm="head", **_SHARED,
    ),
    "qwen2_moe": ModelConfig(
        family="qwen2_moe", architecture="Qwen2MoeForCausalLM", hidden_size=128, intermediate_size=224, moe_intermediate_size=32,
        head_dim=16, rms_norm_eps=1e-6, rope_theta=1e6, routing=RoutingSpec(num_experts=12, top_k=4, normalize_topk=False),
        attention_bias=("q", "k", "v"), shared_expert="gated", shared_expert_intermediate_size=160, **_SHARED | {"moe_layers": (0, 2)},
    ),
    "olmoe": ModelConfig(
        family="olmoe", architecture="OlmoeForCausalLM", hidden_size=128, intermediate_size=32, moe_intermediate_size=32, head_dim=16,
        rms_norm_eps=1e-5, rope_theta=10000.0, routing=RoutingSpec(num_experts=12, top_k=3, normalize_topk=False),
        qk_norm="projection", **_SHARED,
    ),
    "dots1": ModelConfig(
        family="dots1", architecture="Dots1ForCausalLM", hidden_size=96, intermediate_size=160, moe_intermediate_size=32, head_dim=24,
        rms_norm_eps=1e-5, rope_theta=1e6, qk_norm="head", shared_expert="ungated", shared_expert_intermediate_size=64,
        routing=RoutingSpec(
            num_experts=16, top_k=3, scoring="sigmoid", correction_bias=True, num_groups=4, top_groups=2, scaling_factor=2.5
        ),
        **_SHARED | {"moe_layers": (1, 2), "num_key_value_heads": 2},
    ),
}  # fmt: skip
TRAIN_STEPS = 2400  # about three minutes on one core
# What a golden model must reach to be worth comparing against: it has learnt, no expert is dead, and selections are not coin tosses.
MAX_BITS_PER_BYTE, LOAD_RANGE, MIN_GAP = 2.0, (0.4, 2.0), 0.25
