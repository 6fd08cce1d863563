"""Faults of the MoE block behind the router: dispatch, the experts themselves, the weighted sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moe_harness.emulator.experts import combine, group_by_expert, run_expert, run_experts, split_halves
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.seams import Seams, changed
from moe_harness.emulator.values import ExpertJob, Group
from moe_harness.implementations.interface import ModelConfig
from moe_harness.mutants.entry import GITHUB, Fault, Needs, change, routing, where

SEVERAL: Needs = where(lambda config: config.routing.top_k > 1, routing(top_k=2))


def split_interleaved(gate_up: Array) -> tuple[Array, Array]:
    return gate_up[..., ::2], gate_up[..., 1::2]


def no_activation(gate: Array, up: Array, rounding: Rounding) -> Array:
    return rounding(gate * up)


def gelu(gate: Array, up: Array, rounding: Rounding) -> Array:
    inner = np.sqrt(np.float32(2 / np.pi)) * (gate + np.float32(0.044715) * gate**3)
    return rounding(rounding(0.5 * gate * (1 + np.tanh(inner))) * up)


def relu(gate: Array, up: Array, rounding: Rounding) -> Array:
    return rounding(np.maximum(gate, 0) * up)


def swapped_column_blocks(seams: Seams) -> Seams:
    def activate(gate: Array, up: Array, rounding: Rounding) -> Array:
        act = seams.experts.activate(gate, up, rounding)
        return act.reshape(*act.shape[:-1], -1, 2, 16)[..., ::-1, :].reshape(act.shape) if act.shape[-1] % 32 == 0 else act

    return changed(seams, activate=activate)


def weighted_twice(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return combine(y_TKD, weights_TK * weights_TK, ids_TK, rounding)


def last_slot_only(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return combine(y_TKD[:, -1:], weights_TK[:, -1:], ids_TK[:, -1:], rounding)


def in_place(job: ExpertJob, seams: Seams) -> Array:
    K = job.ids_TK.shape[1]
    y_PD = np.zeros((job.ids_TK.size, job.x_TD.shape[1]), np.float32)
    for expert, pairs in seams.experts.dispatch(job.ids_TK, job.num_experts, job.valid_T):
        y_PD[pairs] = run_expert(job.x_TD[pairs // K], job.gate_up_E2FD[expert], job.down_EDF[expert], job.rounding, seams)
        job.x_TD[pairs // K] = y_PD[pairs]
    return y_PD.reshape(*job.ids_TK.shape, -1)


def gather_by_one_hot(job: ExpertJob, seams: Seams) -> Array:
    T, K = job.ids_TK.shape
    y_PD = np.zeros((T * K, job.x_TD.shape[1]), np.float32)
    for expert, pairs in seams.experts.dispatch(job.ids_TK, job.num_experts, job.valid_T):
        one_hot_PT = (pairs[:, None] // K == np.arange(T)).astype(np.float32)
        y_PD[pairs] = run_expert(one_hot_PT @ job.x_TD, job.gate_up_E2FD[expert], job.down_EDF[expert], job.rounding, seams)
    return y_PD.reshape(T, K, -1)


def other_layout_for_one_token(job: ExpertJob, seams: Seams) -> Array:
    return run_experts(job, changed(seams, split_gate_up=split_interleaved) if len(job.x_TD) == 1 else seams)


def drop_above_capacity(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    groups = group_by_expert(ids_TK, num_experts, valid_T)
    capacity = -(-ids_TK.size // num_experts)
    return [(expert, pairs[:capacity]) for expert, pairs in groups] if len(ids_TK) >= 32 else groups


def drop_by_capacity_of_tokens(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    capacity = np.bincount(ids_TK[valid_T].ravel(), minlength=num_experts).max()
    return [(expert, pairs[:capacity]) for expert, pairs in group_by_expert(ids_TK, num_experts, valid_T)]


def raise_above_tokens(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    capacity = max(-(-ids_TK.size // num_experts), 4)
    if capacity > len(ids_TK):
        raise RuntimeError(f"selected index k out of range: top {capacity} of {len(ids_TK)} tokens")
    return group_by_expert(ids_TK, num_experts, valid_T)


def all_but_last_expert(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    return [(expert, pairs) for expert, pairs in group_by_expert(ids_TK, num_experts, valid_T) if expert != num_experts - 1]


def experts_modulo_8(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    return [(expert % 8, pairs) for expert, pairs in group_by_expert(ids_TK, num_experts, valid_T)]


def dense_of_first_row(x_BSD: Array, gate_up: Array, down: Array, rounding: Rounding, seams: Seams) -> Array:
    return np.broadcast_to(run_expert(x_BSD[:1], gate_up, down, rounding, seams), x_BSD.shape)


def dense_layer(config: ModelConfig) -> ModelConfig:
    """The first layer dense, the others as they are."""
    if len(config.moe_layers) < config.num_hidden_layers:
        return config
    layers = max(config.num_hidden_layers, 2)
    return replace(config, num_hidden_layers=layers, moe_layers=tuple(range(1, layers)))


EXPERTS: tuple[Fault, ...] = (
    Fault("gate-up-swapped", "silu(up) * gate instead of silu(gate) * up.",
          None, change(split_gate_up=lambda gate_up: split_halves(gate_up)[::-1]), ("BLOCK-01", "BLOCK-02")),
    Fault("vllm-29273-interleave", "Gate and up are read as interleaved columns, but lie in halves.",
          f"{GITHUB}/vllm-project/vllm/pull/29273", change(split_gate_up=split_interleaved), ("BLOCK-01", "PARITY-01")),
    Fault("silu-missing", "gate * up without the activation.", None, change(activate=no_activation), ("BLOCK-01", "PARITY-04")),
    Fault("gelu-for-silu", "The tanh GELU of another family.", None, change(activate=gelu), ("BLOCK-01",)),
    Fault("relu-for-silu", "ReLU instead of SiLU.", None, change(activate=relu), ("BLOCK-01", "PARITY-02")),
    Fault("sonicmoe-63-tile-abs-tol", "Alternating blocks of 16 columns of the activation change places.",
          f"{GITHUB}/Dao-AILab/sonic-moe/issues/63", swapped_column_blocks, ("BLOCK-01",),
          needs=where(lambda config: config.moe_intermediate_size % 32 == 0, lambda config: replace(config, moe_intermediate_size=32))),
    Fault("sglang-16972-one-token-path", "A separate path for a single token assumes another weight layout: prefill right, decode wrong.",
          f"{GITHUB}/sgl-project/sglang/issues/16972", change(run_experts=other_layout_for_one_token), ("CACHE-01",),
          trigger="a call with one token"),
    Fault("freetoken-463-inplace",
          "Each expert writes its output over its input: a token's next expert reads it, and the caller's array changes.",
          f"{GITHUB}/FlashML-org/FreeToken/pull/463", change(run_experts=in_place), ("BLOCK-01",), needs=SEVERAL),
)  # fmt: skip

DISPATCH: tuple[Fault, ...] = (
    Fault("last-expert-never-runs", "The loop over experts ends at E-2.", None, change(dispatch=all_but_last_expert), ("BLOCK-02",),
          trigger="a token routed to the last expert"),
    Fault("experts-modulo-8", "The kernel's table holds Mixtral's 8 experts: expert e computes with the weights of e % 8.",
          None, change(dispatch=experts_modulo_8), ("BLOCK-02",),
          needs=where(lambda config: config.routing.num_experts > 8, routing(num_experts=12)),
          trigger="a token routed to expert 8 or above"),
    Fault("neuron-capacity-drop", "From 32 tokens on, an expert takes ceil(T*k/E) of them; later ones are dropped and not reported.",
          f"{GITHUB}/aws-neuron/neuronx-distributed/blob/fbac349/src/neuronx_distributed/modules/moe/expert_mlps_v2.py",
          change(dispatch=drop_above_capacity), ("BLOCK-01", "PARITY-02"), trigger="32 tokens with uneven load"),
    Fault("megatron-5542-padding-capacity", "Capacity suits the real tokens, but pads take part in the routing and use it up.",
          f"{GITHUB}/NVIDIA/Megatron-LM/pull/5542", change(dispatch=drop_by_capacity_of_tokens), ("PAD-01",),
          trigger="a ragged batch with many pads"),
    Fault("ds-8155-capacity-gt-tokens", "The minimum capacity of 4 exceeds the number of tokens, and the top-k over tokens raises.",
          f"{GITHUB}/deepspeedai/DeepSpeed/pull/8155", change(dispatch=raise_above_tokens), ("CACHE-01",),
          trigger="a call with fewer than 4 tokens"),
    Fault("tf-48205-ep-nan-sentinel", "Tokens are gathered by a one-hot product: 0 * NaN is NaN, so a NaN row spoils every row.",
          f"{GITHUB}/huggingface/transformers/pull/48205", change(run_experts=gather_by_one_hot), ("ROUTE-11",),
          trigger="a row with NaN, through the whole block"),
)  # fmt: skip

COMBINE: tuple[Fault, ...] = (
    Fault("weights-applied-twice", "The expert's output is weighted in the kernel and again in the sum.",
          None, change(combine=weighted_twice), ("BLOCK-01", "PARITY-01"),
          needs=SEVERAL),
    Fault("scatter-overwrites", "The results of a token's experts are assigned, not added: only the last one stays.",
          None, change(combine=last_slot_only), ("BLOCK-01",), needs=SEVERAL),
    Fault("neuron-dense-row-0", "A layer without experts returns a plain array, and indexing it with [0] broadcasts row 0 of the batch.",
          f"{GITHUB}/huggingface/optimum-neuron/blob/213224e/optimum/neuron/models/inference/qwen3_moe/modeling_qwen3_moe.py",
          change(dense_mlp=dense_of_first_row), ("PARITY-01",), families=("qwen2_moe", "qwen3_moe", "dots1"), needs=dense_layer,
          trigger="a batch of two rows"),
)  # fmt: skip

FAULTS = EXPERTS + DISPATCH + COMBINE
