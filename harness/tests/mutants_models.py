"""The honest subject's models for the tests: one config per family and some others, made once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from moe_harness.cases.synthetic import small, synthesize
from moe_harness.emulator.subject import SubjectModel
from moe_harness.implementations.interface import LoadSpec, ModelConfig, Request, RoutingSpec
from moe_harness.mutants.catalogue import backend

FAMILIES = ("mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "dots1")
ALL = Request(logits="all")
# float32 results of a few hundred summands in another order differ by some u*sqrt(100) = 6e-7 of their scale, amplified by two layers.
ROUNDING = 2e-5
OTHER_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "window": ("mixtral", dict(sliding_window=5)),
    "wide heads, tied": ("mixtral", dict(head_dim=16, tie_word_embeddings=True, eos_token_ids=(2, 3))),
    "dense layer, bias": ("qwen3_moe", dict(num_hidden_layers=3, moe_layers=(0, 2), attention_bias=tuple("qkvo"), num_key_value_heads=1)),
    "raw weights, top 1": ("qwen3_moe", dict(routing=RoutingSpec(12, 1, normalize_topk=False), sliding_window=6, dtype="bfloat16")),
    "all experts": ("mixtral", dict(routing=RoutingSpec(4, 4), num_key_value_heads=8, dtype="float16")),
}


def base_config(family: str) -> ModelConfig:
    """Two MoE layers, 12 experts, 3 per token, all dimensions different."""
    return small(family, 12, 3, num_hidden_layers=2, moe_layers=(0, 1), max_position_embeddings=512)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference in units of the expected RMS."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.sqrt(np.mean(np.square(expected, dtype=np.float64))))


CONFIGS = {family: base_config(family) for family in FAMILIES} | {
    name: replace(base_config(family), **changes) for name, (family, changes) in OTHER_CONFIGS.items()
}


def load(once, config: ModelConfig, dtype: str = "float32", **spec) -> SubjectModel:
    path = once(f"{config}", lambda dst: synthesize(config, dst, 1, router_scale=2.0))
    return backend().load(str(path), LoadSpec(dtype, **spec))


def prompts(model: SubjectModel, rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, model.config.vocab_size, (rows, length))


def full(model: SubjectModel, ids_BS: np.ndarray) -> np.ndarray:
    model.reset()
    output = model.prefill(ids_BS, np.full(len(ids_BS), ids_BS.shape[1]), ALL)
    assert output.logits_BSV is not None
    return output.logits_BSV
