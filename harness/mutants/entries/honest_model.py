"""Honest kinds: norms, the residual stream, the head, and a model that rounds nothing but its weights. Each on matmuls that sum in an order
drawn by the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moe_harness.emulator import attention, experts, numerics, values
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.seams import Seams, changed
from moe_harness.emulator.sums import order_of
from moe_harness.emulator.values import SharedSum
from moe_harness.mutants.entries.honest_attention import tables_in_float32
from moe_harness.mutants.entries.honest_experts import gate_in_float32
from moe_harness.mutants.entries.honest_router import weights_in_float32
from moe_harness.mutants.entries.honest_sums import on_drawn_order
from moe_harness.mutants.entry import GITHUB, Change, Honest, Seeded, change

EXACT = Rounding("float32")
Norm = Callable[[Array, Array, float, Rounding], Array]


def norms(norm: Norm) -> Change:
    """The same norm everywhere: before attention and experts, before the head, of queries and keys."""

    def qk_norm(x_BSHP: Array, weight: Array, eps: float, rounding: Rounding) -> Array:
        whole = len(weight) != x_BSHP.shape[-1]
        x = x_BSHP.reshape(*x_BSHP.shape[:2], -1) if whole else x_BSHP
        return norm(x, weight, eps, rounding).reshape(x_BSHP.shape)

    return change(norm=norm, final_norm=norm, qk_norm=qk_norm)


def rounded_once(x: Array, weight: Array, eps: float, rounding: Rounding) -> Array:
    return rounding(numerics.rms_norm(x, weight, eps, EXACT))


def by_division(x: Array, weight: Array, eps: float, rounding: Rounding) -> Array:
    root = np.sqrt(np.square(x).sum(axis=-1, keepdims=True) / np.float32(x.shape[-1]) + np.float32(eps))
    return rounding(rounding(x / root) * weight)


def in_float64(x: Array, weight: Array, eps: float, rounding: Rounding) -> Array:
    wide = x.astype(np.float64)
    return rounding(rounding(wide / np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True) + eps)) * weight)


def in_drawn_order(seed: int) -> Change:
    """Squares are added one after the other, in any order."""
    order = order_of(seed)

    def norm(x: Array, weight: Array, eps: float, rounding: Rounding) -> Array:
        squares = np.cumsum(np.square(x)[..., order(x.shape[-1])], axis=-1)[..., -1:]
        return rounding(rounding(x * (1 / np.sqrt(squares / np.float32(x.shape[-1]) + np.float32(eps)))) * weight)

    return norms(norm)


def residual_in_float32(hidden_BSD: Array, update_BSD: Array, rounding: Rounding) -> Array:
    return hidden_BSD + update_BSD


def head_in_float32(normed: Array, table_VD: Array, rounding: Rounding, seams: Seams) -> Array:
    return seams.network.linear(normed, table_VD, None, EXACT)


def float32_norm(x: Array, weight: Array, eps: float, rounding: Rounding) -> Array:
    return numerics.rms_norm(x, weight, eps, EXACT)


def float32_attend(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
    return attention.attend(q_BHQP, k_BHMP, v_BHMP, mask_BQM, scale, EXACT)


def float32_rotate(x_BSHP: Array, tables: values.Tables, rounding: Rounding) -> Array:
    return attention.rotate(x_BSHP, tables, EXACT)


def float32_activate(gate: Array, up: Array, rounding: Rounding) -> Array:
    return experts.swiglu(gate, up, EXACT)


def float32_combine(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return experts.combine(y_TKD, weights_TK, ids_TK, EXACT)


def float32_sum(parts: SharedSum) -> Array:
    return experts.add_shared(replace(parts, rounding=EXACT))


def activations_in_float32(seams: Seams) -> Seams:
    """Nothing is rounded but weights, and what enters a matmul with them."""
    linear = seams.network.linear

    def of_rounded(x: Array, weight_OI: Array, bias_O: Array | None, rounding: Rounding) -> Array:
        return linear(rounding(x), weight_OI, bias_O, EXACT)

    return changed(
        norms(float32_norm)(seams),
        linear=of_rounded, add_residual=residual_in_float32, rope_tables=tables_in_float32, rotate=float32_rotate, attend=float32_attend,
        round_weights=weights_in_float32, activate=float32_activate, combine=float32_combine, shared_gate=gate_in_float32,
        add_shared=float32_sum,
    )  # fmt: skip


MEGATRON_ARGUMENTS = f"{GITHUB}/NVIDIA/Megatron-LM/blob/core_v0.14.0/megatron/training/arguments.py"

KINDS: tuple[Honest, ...] = (
    Honest("norm-rounded-once", "The norm is multiplied with its weight before it is rounded.", None, on_drawn_order(norms(rounded_once))),
    Honest("norm-by-division", "The norm divides by the root of the mean square.", None, on_drawn_order(norms(by_division))),
    Honest("norm-in-float64", "Norms are computed in float64.", None, on_drawn_order(norms(in_float64))),
    Honest("norm-in-drawn-order", "Squares are summed one after the other, in any order.", None, on_drawn_order(Seeded(in_drawn_order))),
    Honest("residual-in-float32", "The residual stream is float32, as Megatron's fp32-residual-connection asks.",
           MEGATRON_ARGUMENTS, on_drawn_order(change(add_residual=residual_in_float32))),
    Honest("head-in-float32", "Logits are not rounded.", None, on_drawn_order(change(head=head_in_float32))),
    Honest("activations-in-float32", "Activations are float32 between matmuls, as in llama.cpp.",
           f"{GITHUB}/ggml-org/llama.cpp", on_drawn_order(activations_in_float32)),
)  # fmt: skip
