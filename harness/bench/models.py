"""Models worth timing: synthetic checkpoints of a real shape, made once and kept in a cache directory.

Beside the default one, single layers of well-known models at their true shapes: for benchmarks of a MoE block or a router, not of a model.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from moe_harness.cases.cases import Case
from moe_harness.cases.describe import read_model
from moe_harness.cases.synthetic import synthesize
from moe_harness.cases.tensors import numpy_dtype
from moe_harness.implementations.common.memory import available_bytes
from moe_harness.implementations.families.weights import parameter_counts
from moe_harness.implementations.interface import ModelConfig, RoutingSpec
from moe_harness.suite.subject import Unavailable

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


LAYERS = ("mixtral-8x7b", "qwen3-30b-a3b")  # public models of which one MoE layer is timed
VOCABULARY = 1024  # of a layer's checkpoint, enough for the gate's prompt


def layer_cases() -> list[Case]:
    """Checkpoints of one decoder layer each, 2.9 and 1.3 GB, written by `ensure` on first use."""
    return [Case(f"{name}-layer", cache_directory() / f"{name}-layer-1") for name in LAYERS]


def layer_config(name: str) -> ModelConfig:
    """One decoder layer of a public model as it is, with a small vocabulary."""
    config = read_model(name)
    layer = replace(config, num_hidden_layers=1, moe_layers=(0,), vocab_size=VOCABULARY)
    return replace(layer, eos_token_ids=(2,), bos_token_id=1, pad_token_id=None)


def ensure(case: Case, dtype: str) -> None:
    """Writes the checkpoint of a case of this file if it is not there yet; a user's own is left alone. Router logits have unit spread:
    loads are uneven, no expert is empty. Raises Unavailable where memory or disk do not suffice."""
    if case == benchmark_case():
        _write(case, MIXTRAL_370M)
    elif case in layer_cases():
        config = layer_config(case.name.removesuffix("-layer"))
        if (needed := needed_bytes(config, dtype)) > (free := available_bytes() or needed):
            raise Unavailable(f"{case.name} in {dtype} needs {needed} bytes of memory, {free} are free")
        _write(case, config)


def needed_bytes(config: ModelConfig, dtype: str) -> int:
    """Memory for loading and judging one layer: its weights twice while a backend packs or fuses them, once as they are stored for the
    oracle, and one expert in float64."""
    total, _ = parameter_counts(config)
    expert = 3 * config.hidden_size * config.moe_intermediate_size
    return total * (2 * numpy_dtype(dtype).itemsize + numpy_dtype(config.dtype).itemsize) + 8 * expert


def _write(case: Case, config: ModelConfig) -> None:
    if case.checkpoint.exists():
        return
    needed = parameter_counts(config)[0] * numpy_dtype(config.dtype).itemsize
    case.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(case.checkpoint.parent).free):
        raise Unavailable(f"{case.checkpoint} needs {needed} bytes of disk, {free} are free")
    synthesize(config, case.checkpoint, seed=0, router_scale=1.0)
