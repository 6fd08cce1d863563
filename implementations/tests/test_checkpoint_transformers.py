"""The same directories, written and read by transformers itself: its tensors and ours are equal bit for bit, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.checkpoint.writer import write_checkpoint
from moe_harness.implementations.families.weights import parameter_counts, scatter
from moe_harness.implementations.tests.tiny import tiny_config, tiny_tensors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.transformers

SIZES: dict[str, Any] = dict(
    vocab_size=40, hidden_size=24, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, num_experts_per_tok=2, head_dim=8,
    max_position_embeddings=64,
)  # fmt: skip
MODELS = {
    "mixtral": lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES, intermediate_size=20, num_local_experts=5)),
    "qwen3_moe": lambda: transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(
            **SIZES, intermediate_size=28, moe_intermediate_size=12, num_experts=7, mlp_only_layers=[1], attention_bias=True
        )
    ),
    "qwen3_moe tied": lambda: transformers.Qwen3MoeForCausalLM(
        transformers.Qwen3MoeConfig(**SIZES, intermediate_size=28, moe_intermediate_size=12, num_experts=7, tie_word_embeddings=True)
    ),
    "qwen2_moe": lambda: transformers.Qwen2MoeForCausalLM(
        transformers.Qwen2MoeConfig(
            **SIZES, intermediate_size=28, moe_intermediate_size=12, shared_expert_intermediate_size=20, num_experts=7, mlp_only_layers=[1]
        )
    ),
    "olmoe": lambda: transformers.OlmoeForCausalLM(
        transformers.OlmoeConfig(**SIZES | {"head_dim": 4, "pad_token_id": 0}, intermediate_size=12, num_experts=7)
    ),
    "dots1": lambda: transformers.Dots1ForCausalLM(
        transformers.Dots1Config(
            **SIZES, intermediate_size=28, moe_intermediate_size=12, n_routed_experts=6, n_shared_experts=2, n_group=3, topk_group=2,
            first_k_dense_replace=1, sliding_window=None,
        )
    ),
}  # fmt: skip


def bits(tensor: Any) -> bytes:
    """A torch tensor's bytes; torch hands bfloat16 to numpy only under another name."""
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def hf_parameters(model: Any) -> dict[str, Any]:
    """transformers' tensors in memory under canonical names: it stacks experts itself, and only a single MLP's gate and up are apart."""
    state, found = {**dict(model.named_parameters()), **corrections(model)}, {}
    for name, tensor in state.items():
        if name.endswith(".gate_proj.weight"):
            found[canonical_name(name)] = torch.cat([tensor, state[name.replace("gate_proj", "up_proj")]])
        elif not name.endswith(".up_proj.weight"):
            found[canonical_name(name)] = tensor
    return found


def corrections(model: Any) -> dict[str, Any]:
    """The only buffers that are stored."""
    return {name: buffer for name, buffer in model.named_buffers() if name.endswith("correction_bias")}


def canonical_name(name: str) -> str:
    renames = (
        ("model.", ""), ("embed_tokens", "embed"), ("input_layernorm", "attention_norm"), ("post_attention_layernorm", "ffn_norm"),
        ("self_attn", "attention"), ("mlp.experts.gate_up_proj", "moe.gate_up.weight"), ("mlp.experts.down_proj", "moe.down.weight"),
        ("mlp.gate.weight", "moe.router.weight"), ("mlp.gate.e_score_", "moe.router."), ("mlp.shared_expert_gate", "moe.shared.gate"),
        ("mlp.shared_experts.", "moe.shared."), ("mlp.shared_expert.", "moe.shared."), ("shared.gate_proj", "shared.gate_up"),
        ("mlp.gate_proj", "mlp.gate_up"), ("_proj", ""),
    )  # fmt: skip
    for old, new in renames:
        name = name.replace(old, new)
    return name


def fill(model: Any) -> None:
    """Every parameter random: transformers starts norms at one and biases at zero, which would hide an exchange of two of them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in [*model.parameters(), *corrections(model).values()]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


@pytest.mark.parametrize("dtype, shard_size", [("float32", "1GB"), ("bfloat16", "8KB"), ("float16", "1GB")])
@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_saves_is_read_bit_for_bit(tmp_path: Path, name: str, dtype: str, shard_size: str):
    model = MODELS[name]()
    for parameter in model.parameters():  # not the correction biases, which transformers keeps in float32
        parameter.data = parameter.data.to(getattr(torch, dtype))
    fill(model)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() is (shard_size == "8KB")
    expected = hf_parameters(model)
    with Checkpoint(tmp_path) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(expected)
        for canonical, parameter in expected.items():
            found = checkpoint.tensor(canonical)
            assert f"torch.{found.dtype.name}" == str(parameter.dtype) and found.shape == tuple(parameter.shape), canonical
            assert found.tobytes() == bits(parameter), canonical


@pytest.mark.parametrize("family", sorted(families.families()))
@pytest.mark.parametrize(
    "dtype, tied, stored", [("bfloat16", False, True), ("float32", True, False), ("float16", True, True)], ids=["head", "tied", "both"]
)
def test_what_we_write_is_loaded_by_transformers(tmp_path: Path, family: str, dtype: str, tied: bool, stored: bool):
    config = tiny_config(family, dtype, tie_word_embeddings=tied)
    tensors = tiny_tensors(config, stored_head=stored)
    layout = families.family(family).layout(config, stored)
    write_checkpoint(tmp_path / "m", families.family(family).to_hf(config), dict(scatter(layout, tensors)), shard_bytes=6000)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", output_loading_info=True, dtype="auto")
    assert type(model).__name__ == config.architecture
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    loaded = hf_parameters(model)
    assert sorted(loaded) == sorted(name for name in tensors if name != "lm_head.weight" or not tied)
    for name, parameter in loaded.items():
        assert bits(parameter) == np.ascontiguousarray(tensors[name]).tobytes(), name


@pytest.mark.parametrize("family, name", [(f.name, name) for f in families.families().values() for name in sorted(f.public)])
def test_transformers_counts_the_same_parameters(tmp_path: Path, family: str, name: str):
    """On the meta device: shapes without memory."""
    raw = families.family(family).public[name]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    stored = [*model.parameters(), *corrections(model).values()]
    assert sum(tensor.numel() for tensor in stored) == parameter_counts(families.family(family).parse(raw))[0]
