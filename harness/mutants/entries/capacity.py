"""Faults of experts with a limited number of places: who is dropped, and what is made of the rest."""

from __future__ import annotations

import math

import numpy as np

from moe_harness.emulator import capacity
from moe_harness.emulator.numerics import Array
from moe_harness.emulator.values import Crowd, Step
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.mutants.entry import GITHUB, Fault, change

NXD = f"{GITHUB}/aws-neuron/neuronx-distributed/blob/fbac349/src/neuronx_distributed/modules/moe/expert_mlps_v2.py"
OPTIMUM = f"{GITHUB}/huggingface/optimum-neuron/blob/213224e/optimum/neuron/models/inference/backend/modules/moe.py"


def heaviest_first(crowd: Crowd, limit: int) -> Array:
    """Every expert keeps those of its tokens that weigh most."""
    dropped_TK = np.ones(crowd.ids_TK.shape, bool)
    for expert in range(crowd.num_experts):
        tokens, slots = np.nonzero((crowd.ids_TK == expert) & crowd.counted_T[:, None])
        kept = np.argsort(-crowd.weights_TK[tokens, slots], kind="stable")[:limit]
        dropped_TK[tokens[kept], slots[kept]] = False
    return dropped_TK


def first_choices_first(crowd: Crowd, limit: int) -> Array:
    """GShard's order: everybody's first choice is placed before anybody's second one."""
    taken_E, dropped_TK = np.zeros(crowd.num_experts, np.int64), np.ones(crowd.ids_TK.shape, bool)
    ranks_TK = np.argsort(-crowd.weights_TK, axis=1, kind="stable")
    for rank_T in ranks_TK.T:
        for t in np.flatnonzero(crowd.counted_T):
            expert = crowd.ids_TK[t, rank_T[t]]
            dropped_TK[t, rank_T[t]] = taken_E[expert] >= limit
            taken_E[expert] += 1
    return dropped_TK


def one_place_more(crowd: Crowd, limit: int) -> Array:
    return capacity.too_late(crowd, limit + 1)


def rounded_down(tokens: int, top_k: int, factor: float, num_experts: int) -> int:
    return max(1, math.floor(tokens * top_k * factor / num_experts))


def pads_too(valid_T: Array) -> Array:
    return np.ones_like(valid_T)


def divided_before(weights_TK: Array, dropped_TK: Array, spec: RoutingSpec) -> Array:
    return np.where(dropped_TK, np.float32(0), weights_TK)


def some_token_times_zero(y_TKD: Array, x_TD: Array, dropped_TK: Array) -> Array:
    """A dropped choice gathers token 0 and is multiplied by 0."""
    return np.where(dropped_TK[..., None], np.float32(0) * x_TD[0], y_TKD)


def rows_for_positions(step: Step) -> bool:
    """(B, S, D) is read with B for the sequence: a single prompt seems to be decoding, and a batch that decodes a prefill."""
    return len(step.ids_BS) > 1


FAULTS: tuple[Fault, ...] = (
    Fault("capacity-by-weight", "An expert that is full drops the tokens of least weight, not those that came last.",
          None, change(too_late=heaviest_first), ("DROP-01", "DROP-02")),
    Fault("capacity-first-choices-first", "First choices of all tokens are placed before any second choice.",
          None, change(too_late=first_choices_first), ("DROP-01", "DROP-02")),
    Fault("capacity-one-place-more", "Positions are counted from 0 and compared as if from 1.",
          None, change(too_late=one_place_more), ("DROP-01", "DROP-02")),
    Fault("capacity-rounded-down", "The number of places is rounded down.",
          None, change(places=rounded_down), ("DROP-01",), trigger="T K f that E does not divide"),
    Fault("capacity-pads-take-places", "Pads take places although they are to be masked.",
          None, change(counted=pads_too), ("DROP-02",), trigger="pads in front of other rows"),
    Fault("capacity-divided-before-dropping", "Weights are divided by their sum before it is known who is dropped.",
          NXD, change(reweigh=divided_before), ("DROP-01", "DROP-02"), families=("mixtral",)),
    Fault("neuron-lost-place-gathers-token-0", "A dropped choice gathers token 0 times 0: its NaN is everybody's.",
          NXD, change(hand_back=some_token_times_zero), ("DROP-03",), trigger="a NaN in token 0"),
    Fault("neuron-sequence-dimension", "The block is not told which dimension is the sequence: capacity is ignored for a single prompt.",
          OPTIMUM, change(has_capacity=rows_for_positions), ("DROP-01",), trigger="a batch of one"),
)  # fmt: skip
