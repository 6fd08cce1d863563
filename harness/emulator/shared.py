"""The honest shared expert: one gated MLP for every token, added to the routed sum; in Qwen2-MoE times the sigmoid of its own logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe_harness.emulator.numerics import Array, Rounding, sigmoid
from moe_harness.implementations.interface import RoutingSpec

if TYPE_CHECKING:
    from moe_harness.emulator.seams import Seams


@dataclass(frozen=True)
class SharedSum:
    """What the sum of a MoE block is made from. `gate_T1` None: the shared expert is not gated."""

    routed_TD: Array
    shared_TD: Array
    gate_T1: Array | None
    weights_TK: Array
    spec: RoutingSpec
    rounding: Rounding


def shared_input(x_TD: Array, routed_TD: Array) -> Array:
    """What the shared expert and its gate read: the same as the router."""
    return x_TD


def shared_gate(x_TD: Array, gate_1D: Array, rounding: Rounding, seams: Seams) -> Array:
    return rounding(sigmoid(seams.network.linear(x_TD, gate_1D, None, rounding)))


def add_shared(parts: SharedSum) -> Array:
    """y_TD, rounded after each operation; no routing weight or scaling factor touches the shared expert."""
    shared_TD = parts.shared_TD if parts.gate_T1 is None else parts.rounding(parts.shared_TD * parts.gate_T1)
    return parts.rounding(parts.routed_TD + shared_TD)
