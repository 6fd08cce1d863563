"""Models worth timing: synthetic checkpoints of a real shape, made once and kept in a cache directory."""

from __future__ import annotations

import os
from pathlib import Path

from harness.cases import Case
from harness.synthetic import synthesize
from implementations.interface import ModelConfig, RoutingSpec

# 371 M parameters, 106 M active: experts a quarter of Mixtral-8x7B's in each dimension, so bytes dominate decoding as there.
MIXTRAL_370M = ModelConfig(
    family="mixtral", architecture="MixtralForCausalLM", vocab_size=4096, hidden_size=1024, intermediate_size=3584,
    moe_intermediate_size=3584, num_hidden_layers=4, num_attention_heads=16, num_key_value_heads=4, head_dim=64,
    max_position_embeddings=4096, rms_norm_eps=1e-5,
    rope_theta=1e6, routing=RoutingSpec(num_experts=8, top_k=2), moe_layers=(0, 1, 2, 3), eos_token_ids=(2,), bos_token_id=1,
    dtype="bfloat16",
)  # fmt: skip


def cache_directory() -> Path:
    """$MOE_HARNESS_CACHE, or moe-harness in the user's cache directory (XDG)."""
    base = os.environ.get("MOE_HARNESS_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moe-harness"


def benchmark_case() -> Case:
    """The default case. Its checkpoint (0.7 GB) is written by `ensure` on first use."""
    return Case("mixtral-370m", cache_directory() / "mixtral-370m-1")


def ensure(case: Case) -> None:
    """Writes the default case's checkpoint if it is not there yet. Router logits have unit spread: loads are uneven, no expert is empty."""
    if case == benchmark_case() and not case.checkpoint.exists():
        synthesize(MIXTRAL_370M, case.checkpoint, seed=0, router_scale=1.0)
