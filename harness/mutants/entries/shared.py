"""Faults of the shared expert: its gate, its input, its place in the sum."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator import experts
from moe_harness.emulator.numerics import Array, Rounding, softmax
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import SharedSum
from moe_harness.mutants.entry import GITHUB, Fault, change

GATED, UNGATED, SHARED = ("qwen2_moe",), ("dots1",), ("qwen2_moe", "dots1")


def gate_dropped(x_TD: Array, gate_1D: Array, rounding: Rounding, seams: Seams) -> Array:
    return np.ones((len(x_TD), 1), np.float32)


def gate_without_sigmoid(x_TD: Array, gate_1D: Array, rounding: Rounding, seams: Seams) -> Array:
    return seams.network.linear(x_TD, gate_1D, None, rounding)


def gate_by_softmax(x_TD: Array, gate_1D: Array, rounding: Rounding, seams: Seams) -> Array:
    return softmax(seams.network.linear(x_TD, gate_1D, None, rounding))


def gate_of_first_row(x_TD: Array, gate_1D: Array, rounding: Rounding, seams: Seams) -> Array:
    gate_T1 = experts.shared_gate(x_TD, gate_1D, rounding, seams)
    return np.broadcast_to(gate_T1[:1], gate_T1.shape)


def gate_of_row_before(x_TD: Array, gate_1D: Array, rounding: Rounding, seams: Seams) -> Array:
    return np.roll(experts.shared_gate(x_TD, gate_1D, rounding, seams), 1, axis=0)


def gate_on_everything(parts: SharedSum) -> Array:
    total_TD = parts.rounding(parts.routed_TD + parts.shared_TD)
    return total_TD if parts.gate_T1 is None else parts.rounding(total_TD * parts.gate_T1)


def forgotten(parts: SharedSum) -> Array:
    return parts.routed_TD


def scaled_like_the_routed(parts: SharedSum) -> Array:
    return parts.rounding(parts.routed_TD + parts.rounding(parts.shared_TD * np.float32(parts.spec.scaling_factor)))


def averaged(parts: SharedSum) -> Array:
    return parts.rounding(experts.add_shared(parts) * np.float32(0.5))


def only_beside_routed_experts(parts: SharedSum) -> Array:
    idle_T1 = (parts.weights_TK == 0).all(axis=1, keepdims=True)
    return np.where(idle_T1, parts.routed_TD, experts.add_shared(parts))


def weighted_by_the_sum(parts: SharedSum) -> Array:
    """The shared expert rides along as slot K + 1, and its weight of one is scaled like theirs: back to one where they sum as usual."""
    usual = np.float32(parts.spec.scaling_factor)
    share_T1 = parts.weights_TK.sum(axis=1, keepdims=True) / usual
    return parts.rounding(parts.routed_TD + parts.rounding(parts.shared_TD * share_T1))


FAULTS: tuple[Fault, ...] = (
    Fault("nous-titan-36-gate-dropped", "The gate's weights load and are not used: the shared expert counts in full.",
          f"{GITHUB}/NousResearch/torchtitan/pull/36", change(shared_gate=gate_dropped), ("BLOCK-03", "CONV-09"), families=GATED),
    Fault("shared-gate-without-sigmoid", "The gate's logit multiplies as it is.",
          None, change(shared_gate=gate_without_sigmoid), ("BLOCK-03",), families=GATED),
    Fault("shared-gate-softmax", "Softmax over the gate's single logit: always one.",
          None, change(shared_gate=gate_by_softmax), ("BLOCK-03",), families=GATED),
    Fault("shared-gate-of-first-row", "Every token gets the first one's gate: right for a single token.",
          None, change(shared_gate=gate_of_first_row), ("BLOCK-04", "BLOCK-05"), families=GATED, trigger="two tokens"),
    Fault("shared-gate-of-row-before", "Tokens are sorted for the experts, the gate's are not: off by a row.",
          None, change(shared_gate=gate_of_row_before), ("BLOCK-05",), families=GATED, trigger="two tokens"),
    Fault("shared-gate-on-routed-sum", "The gate multiplies the routed sum too.",
          None, change(add_shared=gate_on_everything), ("BLOCK-03",), families=GATED),
    Fault("shared-expert-forgotten", "Only the routed sum is returned.",
          None, change(add_shared=forgotten), ("BLOCK-10", "BLOCK-03"), families=SHARED),
    Fault("shared-expert-scaled", "routed_scaling_factor multiplies the shared expert too.",
          None, change(add_shared=scaled_like_the_routed), ("BLOCK-10", "BLOCK-03"), families=UNGATED),
    Fault("shared-expert-averaged", "Routed and shared output are averaged instead of added.",
          None, change(add_shared=averaged), ("BLOCK-10",), families=SHARED),
    Fault("shared-expert-as-last-slot", "The shared expert joins the combine as one more slot, whose weight follows the sum of the others.",
          None, change(add_shared=weighted_by_the_sum), ("BLOCK-10",), families=UNGATED, trigger="pinned weights of another sum"),
    Fault("idle-tokens-skipped", "Tokens without a routed expert leave the block early, before the shared expert.",
          None, change(add_shared=only_beside_routed_experts), ("BLOCK-10",), families=SHARED,
          trigger="a token whose weights are all zero"),
    Fault("freetoken-463-shared-after-inplace", "Experts overwrite their input, and the shared expert, run afterwards, reads the result.",
          f"{GITHUB}/FlashML-org/FreeToken/pull/463", change(shared_input=lambda x_TD, routed_TD: routed_TD), ("BLOCK-03", "BLOCK-10"),
          families=SHARED),
)  # fmt: skip
