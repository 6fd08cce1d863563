"""Honest kinds: where the experts, their weighted sum and the shared expert are rounded, and in which order they are added.

Each stands on matmuls that sum in an order drawn by the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from moe_harness.emulator import experts
from moe_harness.emulator.numerics import Array, Rounding, sigmoid, silu
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.sums import order_of
from moe_harness.emulator.values import ExpertJob, SharedSum
from moe_harness.mutants.entries.honest_sums import on_drawn_order
from moe_harness.mutants.entry import GITHUB, Change, Honest, Seeded, change

EXACT = Rounding("float32")
QWEN2 = ("qwen2_moe",)


def activation_rounded_once(gate: Array, up: Array, rounding: Rounding) -> Array:
    return rounding(silu(gate) * up)


def silu_as_product(gate: Array, up: Array, rounding: Rounding) -> Array:
    """x * sigmoid(x), operation by operation."""
    return rounding(rounding(gate * rounding(sigmoid(gate))) * up)


def silu_by_tanh(gate: Array, up: Array, rounding: Rounding) -> Array:
    half = np.float32(0.5) * gate
    return rounding(rounding(half + half * np.tanh(half)) * up)


def activated(job: ExpertJob, seams: Seams, expert: int, pairs: Array, inner: Rounding, outer: Rounding) -> Array:
    """What enters the down projection: gate and up rounded by `inner`, the activation by `outer`."""
    x = job.x_TD[pairs // job.ids_TK.shape[1]]
    gate, up = seams.experts.split_gate_up(seams.network.linear(x, job.gate_up_E2FD[expert], None, inner))
    return seams.experts.activate(gate, up, outer)


def each_group(job: ExpertJob, seams: Seams, compute: Callable[[int, Array], Array]) -> Array:
    """y_TKD of `compute(expert, pairs)`: the rows of the token-slot pairs of one expert."""
    y_PD = np.zeros((job.ids_TK.size, job.x_TD.shape[1]), np.float32)
    for expert, pairs in seams.experts.dispatch(job.ids_TK, job.num_experts, job.valid_T):
        y_PD[pairs] = compute(expert, pairs)
    return y_PD.reshape(*job.ids_TK.shape, job.x_TD.shape[1])


def gate_up_not_rounded(job: ExpertJob, seams: Seams) -> Array:
    """The activation is computed on the accumulators of the first matmul."""

    def compute(expert: int, pairs: Array) -> Array:
        act = job.rounding(activated(job, seams, expert, pairs, EXACT, EXACT))
        return seams.network.linear(act, job.down_EDF[expert], None, job.rounding)

    return each_group(job, seams, compute)


def down_not_rounded(job: ExpertJob, seams: Seams) -> Array:
    """The accumulators of the down projection are handed on."""

    def compute(expert: int, pairs: Array) -> Array:
        act = activated(job, seams, expert, pairs, job.rounding, job.rounding)
        return seams.network.linear(act, job.down_EDF[expert], None, EXACT)

    return each_group(job, seams, compute)


def weighted_in_epilogue(job: ExpertJob, seams: Seams) -> Array:
    """The combine weight multiplies the accumulators of the down projection; one rounding."""
    return job.rounding(down_not_rounded(job, seams) * job.weights_TK[..., None])


def _weighted_activation(job: ExpertJob, seams: Seams, act: Rounding) -> Array:
    """The combine weight scales the activation, itself rounded by `act`: the down projection is linear."""
    weights_P = job.weights_TK.ravel()

    def compute(expert: int, pairs: Array) -> Array:
        weighted = job.rounding(activated(job, seams, expert, pairs, job.rounding, act) * weights_P[pairs, None])
        return seams.network.linear(weighted, job.down_EDF[expert], None, job.rounding)

    return each_group(job, seams, compute)


def weighted_before_down(job: ExpertJob, seams: Seams) -> Array:
    return _weighted_activation(job, seams, job.rounding)


def weighted_in_activation(job: ExpertJob, seams: Seams) -> Array:
    return _weighted_activation(job, seams, EXACT)


def tensor_parallel(seed: int) -> Change:
    """2 or 4 ranks hold slices of F; their partial outputs are rounded and added hop by hop."""
    ranks = 2 + 2 * (seed % 2)

    def run_experts(job: ExpertJob, seams: Seams) -> Array:
        slices = [_rank(job, r, ranks) for r in np.random.default_rng(seed).permutation(ranks)]
        parts = [experts.run_experts(part, seams) for part in slices]
        return reduce(lambda total, part: job.rounding(total + part), parts)

    return change(run_experts=run_experts)


def _rank(job: ExpertJob, rank: int, ranks: int) -> ExpertJob:
    """A rank's columns of gate, up and down."""
    gate_EFD, up_EFD = np.split(job.gate_up_E2FD, 2, axis=1)
    own = slice(rank * gate_EFD.shape[1] // ranks, (rank + 1) * gate_EFD.shape[1] // ranks)
    gate_up = np.concatenate([gate_EFD[:, own], up_EFD[:, own]], axis=1)
    return ExpertJob(job.x_TD, job.ids_TK, job.weights_TK, job.valid_T, gate_up, job.down_EDF[:, :, own], job.rounding)


def unweighted_sum(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return experts.combine(y_TKD, np.ones_like(weights_TK), ids_TK, rounding)


def sum_in_float32(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return rounding((y_TKD * weights_TK[:, :, None]).sum(axis=1))


def products_in_model_dtype(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return rounding(rounding(y_TKD * weights_TK[:, :, None]).sum(axis=1))


def sum_from_highest_id(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return experts.combine(y_TKD, weights_TK, -ids_TK, rounding)


def slots_in_drawn_order(seed: int) -> Change:
    """A running sum in the model's dtype over the slots in a drawn order, as atomic additions come."""
    order = order_of(seed)

    def combine(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
        K = ids_TK.shape[1]
        return experts.combine(y_TKD, weights_TK, np.broadcast_to(np.argsort(order(K)), ids_TK.shape), rounding)

    return change(combine=combine)


def expert_parallel(seed: int) -> Change:
    """Experts are dealt to 2 to 4 ranks; each rounds its own sum, and the sums are added hop by hop."""
    ranks = 2 + seed % 3

    def combine(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
        weighted_TKD = y_TKD * weights_TK[:, :, None]
        own = [((ids_TK + seed) % ranks == rank)[:, :, None] for rank in range(ranks)]
        parts = [rounding(np.where(mine, weighted_TKD, np.float32(0)).sum(axis=1)) for mine in own]
        return reduce(lambda total, part: rounding(total + part), parts)

    return change(combine=combine)


def gate_by_tanh(x_TD: Array, gate_1D: Array, rounding: Rounding, seams: Seams) -> Array:
    x_T1 = seams.network.linear(x_TD, gate_1D, None, rounding)
    return rounding(np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * x_T1))


def gate_in_float32(x_TD: Array, gate_1D: Array, rounding: Rounding, seams: Seams) -> Array:
    return sigmoid(seams.network.linear(x_TD, gate_1D, None, EXACT))


def shared_in_float32(parts: SharedSum) -> Array:
    return parts.rounding(parts.routed_TD + (parts.shared_TD if parts.gate_T1 is None else parts.shared_TD * parts.gate_T1))


VLLM_KERNEL = f"{GITHUB}/vllm-project/vllm/blob/v0.11.0/vllm/model_executor/layers/fused_moe/fused_moe.py"
MEGATRON_SWIGLU = f"{GITHUB}/NVIDIA/Megatron-LM/blob/core_v0.14.0/megatron/core/fusions/fused_bias_swiglu.py"

KINDS: tuple[Honest, ...] = (
    Honest("activation-rounded-once", "silu(gate) * up is fused.", None, on_drawn_order(change(activate=activation_rounded_once))),
    Honest("silu-as-product", "x * sigmoid(x), rounded after each operation.", None, on_drawn_order(change(activate=silu_as_product))),
    Honest("silu-by-tanh", "SiLU as h + h tanh(h) with h = x / 2.", None, on_drawn_order(change(activate=silu_by_tanh))),
    Honest("gate-up-not-rounded", "The first matmul and the activation are one kernel.",
           None, on_drawn_order(change(run_experts=gate_up_not_rounded))),
    Honest("weighted-before-down", "The weight scales the activation before the down projection.",
           None, on_drawn_order(change(run_experts=weighted_before_down, combine=unweighted_sum))),
    Honest("weighted-in-activation", "The activation is weighted before it is rounded, as in Megatron's fused SwiGLU.",
           MEGATRON_SWIGLU, on_drawn_order(change(run_experts=weighted_in_activation, combine=unweighted_sum))),
    Honest("weighted-in-epilogue", "The down projection is weighted before it is rounded, as in vLLM's Triton kernel.",
           VLLM_KERNEL, on_drawn_order(change(run_experts=weighted_in_epilogue, combine=unweighted_sum))),
    Honest("down-and-combine-fused", "The weighted sum is made from unrounded outputs and rounded once.",
           None, on_drawn_order(change(run_experts=down_not_rounded, combine=sum_in_float32))),
    Honest("tensor-parallel-experts", "2 or 4 ranks hold slices of F and add rounded partial outputs.",
           None, on_drawn_order(Seeded(tensor_parallel)), bypasses=("activate",)),  # faults of tiles see half of F or less
    Honest("expert-parallel", "2 to 4 ranks hold the experts and add rounded partial sums.",
           None, on_drawn_order(Seeded(expert_parallel))),
    Honest("combine-in-float32", "The weighted sum is rounded once.", None, on_drawn_order(change(combine=sum_in_float32))),
    Honest("combine-products-rounded", "Weighted outputs are rounded, their sum is float32.",
           None, on_drawn_order(change(combine=products_in_model_dtype))),
    Honest("combine-from-highest-id", "Experts are added in falling order of id.",
           None, on_drawn_order(change(combine=sum_from_highest_id))),
    Honest("combine-in-drawn-order", "Slots are added as they come, each sum rounded.",
           None, on_drawn_order(Seeded(slots_in_drawn_order))),
    Honest("gate-by-tanh", "The shared expert's gate as (1 + tanh(x / 2)) / 2.", None,
           on_drawn_order(change(shared_gate=gate_by_tanh)), ("BLOCK-10",), QWEN2),
    Honest("shared-gate-in-float32", "The shared expert's gate is not rounded.", None,
           on_drawn_order(change(shared_gate=gate_in_float32)), ("BLOCK-10",), QWEN2),
    Honest("shared-sum-in-float32", "The shared expert is gated and added with one rounding.", None,
           on_drawn_order(change(add_shared=shared_in_float32)), ("BLOCK-10",), QWEN2),
)  # fmt: skip
