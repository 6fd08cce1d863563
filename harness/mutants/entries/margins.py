"""Faults that only selections near a tie show: a router in too low a precision, a small bias in selection."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from moe_harness.emulator import routing as honest
from moe_harness.emulator.experts import group_by_expert
from moe_harness.emulator.numerics import Array, Rounding, linear
from moe_harness.emulator.routing import select_top_k
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import Group
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.mutants.entry import Fault, Needs, change, routing, where

EVERY = ("bfloat16", "float32", "float16")
NOT_ALL: Needs = where(lambda config: config.routing.top_k < config.routing.num_experts, routing(top_k=1))
LOW = Rounding("bfloat16")
ACCUMULATED = 4  # products summed exactly before the running sum is rounded


def select_by_bfloat16_scores(ranking_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return select_top_k(LOW(ranking_TE), logits_TE, spec)


def favour(factor: float) -> Callable[[Array, Array, RoutingSpec], Array]:
    """Selects as if the middle expert's score were `factor` times as large."""

    def select(ranking_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
        middle_E = np.arange(spec.num_experts) == spec.num_experts // 2
        return select_top_k(ranking_TE * np.where(middle_E, np.float32(factor), np.float32(1)), logits_TE, spec)

    return select


def select_with_epsilon(ranking_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return select_top_k(ranking_TE - np.float32(1e-5) * np.arange(spec.num_experts, dtype=np.float32), logits_TE, spec)


def fp8(x: Array) -> Array:
    return x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


def input_in_fp8(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    return honest.router_logits(fp8(x_TD), router_ED, rounding, seams)


def weight_in_fp8(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    """One scale per expert, so that its largest weight is the largest number of e4m3."""
    scale_E1 = np.abs(router_ED).max(axis=1, keepdims=True) / np.float32(448)
    return honest.router_logits(x_TD, fp8(router_ED / scale_E1) * scale_E1, rounding, seams)


def logits_through_bfloat16(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    return LOW(honest.router_logits(x_TD, router_ED, rounding, seams))


def one_row_scaled(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    """Per-row scales: the middle expert's is 2 % too large."""
    scale_E1 = np.ones((len(router_ED), 1), np.float32)
    scale_E1[len(router_ED) // 2] = 1.02
    return rounding(linear(x_TD, router_ED * scale_E1, None, Rounding("float32")))


def sums_in_model_dtype(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    """The running sum over K is rounded again and again."""
    parts = [slice(start, start + ACCUMULATED) for start in range(0, x_TD.shape[1], ACCUMULATED)]
    sums_TE = np.zeros((len(x_TD), len(router_ED)), np.float32)
    for part in parts:
        sums_TE = rounding(sums_TE + rounding(x_TD[:, part] @ router_ED[:, part].T))
    return sums_TE


def drop_above_generous_capacity(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    capacity = -(-3 * ids_TK.size // (2 * num_experts))
    return [(expert, pairs[:capacity]) for expert, pairs in group_by_expert(ids_TK, num_experts, valid_T)]


FAULTS: tuple[Fault, ...] = (
    Fault("softmax-in-bfloat16-before-top-k", "Scores are rounded to bfloat16 before the selection: close ones tie, and ties go by id.",
          None, change(select=select_by_bfloat16_scores), ("ROUTE-17",), dtypes=EVERY, needs=NOT_ALL),
    Fault("selection-bias-10-percent", "One expert is selected as if its score were 10 % higher.",
          None, change(select=favour(1.1)), ("ROUTE-16", "ROUTE-19"), dtypes=EVERY, needs=NOT_ALL),
    Fault("selection-bias-2-percent", "One expert is selected as if its score were 2 % higher.",
          None, change(select=favour(1.02)), ("ROUTE-19",), dtypes=EVERY, needs=NOT_ALL),
    Fault("selection-bias-per-mille", "One expert is selected as if its score were 0.1 % higher.",
          None, change(select=favour(1.001)), ("ROUTE-16", "ROUTE-19"), dtypes=("float32",), needs=NOT_ALL),
    Fault("router-row-scaled-2-percent", "One row of the router's weight has a scale that is 2 % too large.",
          None, change(router_logits=one_row_scaled), ("ROUTE-19",), dtypes=EVERY, needs=NOT_ALL),
    Fault("ties-broken-by-visible-epsilon", "1e-5 times the expert's id is subtracted from the scores to make top-k stable.",
          None, change(select=select_with_epsilon), ("ROUTE-17",), dtypes=EVERY, needs=NOT_ALL),
    Fault("router-input-in-fp8", "The router reads the activations that were quantised to e4m3 for the experts.",
          None, change(router_logits=input_in_fp8), ("ROUTE-18",), dtypes=EVERY, needs=NOT_ALL),
    Fault("router-weight-in-fp8", "The router's weight is quantised to e4m3, a scale per row, with the experts'.",
          None, change(router_logits=weight_in_fp8), ("ROUTE-18",), dtypes=EVERY, needs=NOT_ALL),
    Fault("router-logits-in-bfloat16", "A float32 model's router logits pass through bfloat16.",
          None, change(router_logits=logits_through_bfloat16), ("ROUTE-16", "ROUTE-18"), dtypes=("float32",), needs=NOT_ALL),
    Fault("router-sums-in-model-dtype", "The router's running sum is kept in the model's dtype.",
          None, change(router_logits=sums_in_model_dtype), ("ROUTE-18",), dtypes=("bfloat16", "float16"), needs=NOT_ALL),
    Fault("capacity-of-three-halves", "Tokens beyond 1.5 times an expert's even share are dropped.",
          None, change(dispatch=drop_above_generous_capacity), ("BLOCK-11",), trigger="an expert with more than 1.5 T k / E tokens"),
)  # fmt: skip
