"""The honest experts of the subject: tokens grouped by expert, one gate/up and one down matmul per group, then the weighted sum. The shared
expert is one gated MLP for every token, added to the routed sum; in Qwen2-MoE times the sigmoid of its own logit."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator.numerics import Array, Rounding, sigmoid, silu
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import ExpertJob, Group, SharedSum


def split_halves(gate_up: Array) -> tuple[Array, Array]:
    """(gate, up) of a fused projection (..., 2F)."""
    half = gate_up.shape[-1] // 2
    return gate_up[..., :half], gate_up[..., half:]


def swiglu(gate: Array, up: Array, rounding: Rounding) -> Array:
    return rounding(rounding(silu(gate)) * up)


def run_expert(x_TD: Array, gate_up_2FD: Array, down_DF: Array, rounding: Rounding, seams: Seams) -> Array:
    """One gated MLP: an expert, or the dense MLP of a layer without experts."""
    gate, up = seams.experts.split_gate_up(seams.network.linear(x_TD, gate_up_2FD, None, rounding))
    return seams.network.linear(seams.experts.activate(gate, up, rounding), down_DF, None, rounding)


def group_by_expert(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    """The pairs of each hit expert, in token order. No capacity: nothing is dropped, pads are computed like tokens."""
    flat = ids_TK.ravel()
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(num_experts + 1))
    return [(e, order[bounds[e] : bounds[e + 1]]) for e in range(num_experts) if bounds[e] < bounds[e + 1]]


def run_experts(job: ExpertJob, seams: Seams) -> Array:
    """y_TKD: the output of each selected expert, not yet weighted."""
    (T, K), D = job.ids_TK.shape, job.x_TD.shape[1]
    y_PD = np.zeros((T * K, D), np.float32)
    for expert, pairs in seams.experts.dispatch(job.ids_TK, job.num_experts, job.valid_T):
        y_PD[pairs] = run_expert(job.x_TD[pairs // K], job.gate_up_E2FD[expert], job.down_EDF[expert], job.rounding, seams)
    return y_PD.reshape(T, K, D)


def combine(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    """y_TD: each product rounded, added in rising order of expert id, the running sum rounded (transformers' index_add over experts)."""
    T, K, D = y_TKD.shape
    rows, y_TD = np.arange(T), np.zeros((T, D), np.float32)
    for slot_T in np.argsort(ids_TK, axis=1, kind="stable").T:
        y_TD = rounding(y_TD + rounding(y_TKD[rows, slot_T] * weights_TK[rows, slot_T, None]))
    return y_TD


def dense_mlp(x_BSD: Array, gate_up: Array, down: Array, rounding: Rounding, seams: Seams) -> Array:
    """The MLP of a layer without experts (`mlp_only_layers`, `decoder_sparse_step`)."""
    return run_expert(x_BSD, gate_up, down, rounding, seams)


def all_experts(job: ExpertJob, seams: Seams) -> Array:
    """y_TKD: every expert multiplies every token, and each choice takes its own."""
    parts = [run_expert(job.x_TD, *weights, job.rounding, seams) for weights in zip(job.gate_up_E2FD, job.down_EDF, strict=True)]
    every_TED = np.stack(parts, axis=1)
    return np.take_along_axis(every_TED, job.ids_TK[..., None], axis=1)


def shared_input(x_TD: Array, routed_TD: Array) -> Array:
    """What the shared expert and its gate read: the same as the router."""
    return x_TD


def shared_gate(x_TD: Array, gate_1D: Array, rounding: Rounding, seams: Seams) -> Array:
    return rounding(sigmoid(seams.network.linear(x_TD, gate_1D, None, rounding)))


def add_shared(parts: SharedSum) -> Array:
    """y_TD, rounded after each operation; no routing weight or scaling factor touches the shared expert."""
    shared_TD = parts.shared_TD if parts.gate_T1 is None else parts.rounding(parts.shared_TD * parts.gate_T1)
    return parts.rounding(parts.routed_TD + shared_TD)
