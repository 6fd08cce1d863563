"""Faults of conversion between HF's directory and the backend's own, and of loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moe_harness.emulator.experts import run_expert
from moe_harness.emulator.numerics import STORAGE, Array, Rounding
from moe_harness.emulator.seams import Seams, Tensors
from moe_harness.emulator.values import ExpertJob
from moe_harness.implementations.interface import ModelConfig
from moe_harness.mutants.entries.experts import dense_layer
from moe_harness.mutants.entry import GITHUB, Fault, Needs, change, routing, setting, where

LEXICOGRAPHIC: Needs = where(lambda config: config.routing.num_experts > 10, routing(num_experts=12))


def _is_expert(name: str) -> bool:
    return ".moe.gate_up." in name or ".moe.down." in name


def experts_as_strings(name: str, tensor: Array, config: ModelConfig) -> Array:
    return tensor[sorted(range(len(tensor)), key=str)] if _is_expert(name) else tensor


def experts_as_numbers(name: str, tensor: Array, config: ModelConfig) -> Array:
    return tensor[np.argsort(sorted(range(len(tensor)), key=str))] if _is_expert(name) else tensor


def swap_gate_up(name: str, tensor: Array, config: ModelConfig) -> Array:
    return np.concatenate(np.split(tensor, 2, axis=-2)[::-1], axis=-2) if "gate_up" in name else tensor


def last_expert_twice(name: str, tensor: Array, config: ModelConfig) -> Array:
    if not _is_expert(name):
        return tensor
    copy = tensor.copy()
    copy[-2:] = tensor[-1]
    return copy


def through_float16(name: str, tensor: Array, config: ModelConfig) -> Array:
    with np.errstate(over="ignore"):
        return tensor.astype(np.float16).astype(tensor.dtype)


def router_in_bfloat16(name: str, tensor: Array, config: ModelConfig) -> Array:
    return tensor.astype(STORAGE["bfloat16"]).astype(tensor.dtype) if name.endswith("router.weight") else tensor


def _permuted_heads(name: str, rows: int, config: ModelConfig) -> int:
    """Heads by which llama.cpp's converter permuted a projection, 0 for none: H for q, but H/N for k (where that divides)."""
    if config.qk_norm != "none" or not name.endswith((".attention.q.weight", ".attention.k.weight")):
        return 0
    wrong = config.num_attention_heads // config.num_key_value_heads
    return _true_heads(name, config) if ".q." in name or rows % (2 * wrong) else wrong


def _true_heads(name: str, config: ModelConfig) -> int:
    return config.num_attention_heads if ".q." in name else config.num_key_value_heads


def interleave_heads(name: str, tensor: Array, config: ModelConfig) -> Array:
    heads = _permuted_heads(name, len(tensor), config)
    return tensor.reshape(heads, 2, -1, tensor.shape[-1]).swapaxes(1, 2).reshape(tensor.shape) if heads else tensor


def halve_heads(name: str, tensor: Array, config: ModelConfig) -> Array:
    return _halve(tensor, _permuted_heads(name, len(tensor), config))


def halve_true_heads(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    """The runtime undoes the permutation head by head, rightly."""
    heads = {name: _true_heads(name, config) if converted and _permuted_heads(name, len(tensors[name]), config) else 0 for name in tensors}
    return {name: _halve(tensor, heads[name]) for name, tensor in tensors.items()}


def _halve(tensor: Array, heads: int) -> Array:
    return tensor.reshape(heads, -1, 2, tensor.shape[-1]).swapaxes(1, 2).reshape(tensor.shape) if heads else tensor


def _random(tensors: Tensors, chosen: Sequence[str]) -> Tensors:
    """Freshly initialised where a tensor was never written."""
    rng = np.random.default_rng(0)
    return {**tensors, **{name: 0.02 * rng.standard_normal(tensors[name].shape, dtype=np.float32) for name in chosen}}


def head_left_random(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    head = {"lm_head.weight": tensors["embed.weight"]} if config.tie_word_embeddings else {}
    return _random({**tensors, **head}, list(head))


def experts_left_random(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    return _random(tensors, [name for name in tensors if converted and _is_expert(name)])


def dense_left_random(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    return _random(tensors, [name for name in tensors if ".mlp." in name])


def dense_in_their_place(job: ExpertJob, seams: Seams) -> Array:
    """One randomly initialised MLP for every token, whatever the router says."""
    rng = np.random.default_rng(0)
    gate_up, down = (0.02 * rng.standard_normal(weights[0].shape, dtype=np.float32) for weights in (job.gate_up_E2FD, job.down_EDF))
    y_TD = run_expert(job.x_TD, job.rounding(gate_up), job.rounding(down), job.rounding, seams)
    return np.broadcast_to(y_TD[:, None], (*job.ids_TK.shape, y_TD.shape[1]))


def first_slot(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return y_TKD[:, 0].copy()


def first_shard_twice(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    return {name: _first_shard(tensor) if converted and ".moe.gate_up." in name else tensor for name, tensor in tensors.items()}


def _first_shard(gate_up_E2FD: Array) -> Array:
    """Two ranks that both hold shard 0 of gate and of up."""
    E, rows, D = gate_up_E2FD.shape
    halves = gate_up_E2FD.reshape(E, 2, 2, rows // 4, D)[:, :, :1]
    return np.broadcast_to(halves, (E, 2, 2, rows // 4, D)).reshape(gate_up_E2FD.shape)


def first_eos(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    eos = raw.get("eos_token_id")
    return {**raw, "eos_token_id": eos[0]} if isinstance(eos, list) and eos else raw


def stored_head_dropped(config: ModelConfig, stored: bool) -> bool:
    return stored and not config.tie_word_embeddings


def untied_groups(config: ModelConfig) -> ModelConfig:
    """H/N != N."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    return (
        config if heads != kv_heads * kv_heads and 1 < kv_heads < heads else replace(config, num_attention_heads=8, num_key_value_heads=4)
    )


def two_experts_or_more(config: ModelConfig) -> ModelConfig:
    return config if config.routing.num_experts > 1 else routing(num_experts=4)(config)


TIED = setting(tie_word_embeddings=True)

FAULTS: tuple[Fault, ...] = (
    Fault("experts-sorted-as-strings",
          "Experts are stacked in the order 0, 1, 10, 11, 2, ... and written back as if they lay in numeric order.",
          None, change(pack=experts_as_strings), ("CONV-01",), needs=LEXICOGRAPHIC),
    Fault("experts-sorted-as-strings-both-ways", "As before, and undone on the way back: a round trip is exact, the model is wrong.",
          None, change(pack=experts_as_strings, unpack=experts_as_numbers), ("CONV-02",), needs=LEXICOGRAPHIC),
    Fault("gate-up-swapped-both-ways", "Gate and up change places on the way in and on the way out.",
          None, change(pack=swap_gate_up, unpack=swap_gate_up), ("CONV-02",)),
    Fault("llamacpp-3364-gqa-permute", "k is permuted by H/N heads instead of N, and back by the same; the runtime undoes N.",
          f"{GITHUB}/ggml-org/llama.cpp/pull/3364",
          change(pack=interleave_heads, unpack=halve_heads, loaded=halve_true_heads), ("CONV-02",),
          families=("mixtral",), needs=untied_groups),
    Fault("last-expert-written-twice", "The last expert's weights also fill the slot before it.",
          None, change(pack=last_expert_twice), ("CONV-01", "CONV-02"), needs=two_experts_or_more),
    Fault("tensors-through-float16", "Tensors pass through float16 on the way: bfloat16 loses what is below 2**-17, float32 its last bits.",
          None, change(pack=through_float16), ("CONV-01",),
          needs=where(lambda config: config.dtype != "float16", setting(dtype="bfloat16")),
          trigger="a value that float16 cannot hold"),
    Fault("router-stored-in-bfloat16", "The router is stored in bfloat16 although the checkpoint has more.",
          None, change(pack=router_in_bfloat16), ("CONV-01",),
          needs=where(lambda config: config.dtype != "bfloat16", setting(dtype="float32"))),
    Fault("tied-head-dropped", "A head that is stored beside its tied embedding is lost.",
          None, change(stored_head=stored_head_dropped), ("CONV-01",), needs=TIED, trigger="a checkpoint that stores the tied head"),
    Fault("mlxvlm-2112-eos-list-in-config", "Conversion keeps the first of several EOS ids.",
          f"{GITHUB}/Blaizzy/mlx-vlm/pull/2112", change(pack_config=first_eos), ("CONV-01",),
          needs=where(lambda config: len(config.eos_token_ids) > 1, setting(eos_token_ids=(2, 3)))),
    Fault("bridge-4706-fused-skip", "The loader looks for per-expert tensors, warns that there are none and leaves the experts random.",
          f"{GITHUB}/NVIDIA-NeMo/Megatron-Bridge/pull/4706", change(loaded=experts_left_random), ("CONV-02",)),
    Fault("gguf-103-rank0-shard", "Both ranks of the fused gate/up projection load shard 0.",
          f"{GITHUB}/vllm-project/vllm-gguf-plugin/issues/103", change(loaded=first_shard_twice), ("CONV-02",)),
    Fault("sglang-20127-tied", "A head of its own is always created, and stays random where the checkpoint ties it to the embedding.",
          f"{GITHUB}/sgl-project/sglang/pull/20127", change(loaded=head_left_random), ("CONV-02",), needs=TIED),
    Fault("mlxvlm-1073-dense-fallback", "Every layer is built with a dense MLP; a lax load drops the experts and leaves it random.",
          f"{GITHUB}/Blaizzy/mlx-vlm/issues/1073", change(run_experts=dense_in_their_place, combine=first_slot), ("PARITY-01", "BLOCK-01")),
    Fault("dense-layers-left-random", "The pattern of dense and sparse layers is ignored; a lax load leaves the dense layers random.",
          None, change(loaded=dense_left_random), ("PARITY-01",),
          families=("qwen2_moe", "qwen3_moe", "dots1"), needs=dense_layer),
)  # fmt: skip
