"""The values that the steps of the subject hand to each other, in the order of a call: tokens, attention, routing, places, experts."""

from __future__ import annotations

from dataclasses import dataclass

from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.implementations.interface import RoutingSpec


@dataclass(frozen=True)
class Call:
    """The tokens of a prefill (ids_BS with their lengths and side) or of a decode (ids_B, lengths None)."""

    ids: Array
    lengths_B: Array | None = None
    padding: str = "right"


@dataclass(frozen=True)
class Step:
    """The tokens of one call. Pads hold a legal id and are False in `valid_BS`. `segment_BS`: which packed sequence a token belongs to, 0
    where nothing is packed."""

    ids_BS: Array
    valid_BS: Array
    positions_BS: Array
    segment_BS: Array
    decoding: bool


Tables = tuple[Array, Array]


@dataclass(frozen=True)
class KeyView:
    """What a mask is made from. A slot holds a token of position `key_BM` where `valid_BM`, a pad or nothing elsewhere. Segments
    number packed sequences."""

    query_BQ: Array
    key_BM: Array
    valid_BM: Array
    segment_BQ: Array
    key_segment_BM: Array
    window: int | None
    decoding: bool


@dataclass(frozen=True)
class RouterTensors:
    """A router's weight and bias are values of the load dtype; its correction is float32 in every dtype, since its small steps decide."""

    weight_ED: Array
    bias_E: Array | None = None
    correction_E: Array | None = None


@dataclass(frozen=True)
class Routes:
    """One MoE layer's routing of T tokens, as it is used to combine. The logits hold the router's bias, not the correction. `dropped_TK`:
    None where there is room for all."""

    logits_TE: Array
    ids_TK: Array
    weights_TK: Array
    dropped_TK: Array | None = None


@dataclass(frozen=True)
class Crowd:
    """What is known when places are given out. `weights_TK`: of the router, normalised; `counted_T`: the tokens that take places."""

    ids_TK: Array
    weights_TK: Array
    counted_T: Array
    num_experts: int


# (expert, flat indices t*K + k of the token-slot pairs that it computes)
Group = tuple[int, Array]


@dataclass(frozen=True)
class ExpertJob:
    """One call of the experts of one layer. `gate_up_E2FD`: gate rows first, then up. `valid_T`: False at pads."""

    x_TD: Array
    ids_TK: Array
    weights_TK: Array
    valid_T: Array
    gate_up_E2FD: Array
    down_EDF: Array
    rounding: Rounding

    @property
    def num_experts(self) -> int:
        return len(self.gate_up_E2FD)


@dataclass(frozen=True)
class SharedSum:
    """What the sum of a MoE block is made from. `gate_T1` None: the shared expert is not gated."""

    routed_TD: Array
    shared_TD: Array
    gate_T1: Array | None
    weights_TK: Array
    spec: RoutingSpec
    rounding: Rounding
