"""Experts with a limited number of places: who is dropped, and what the weights of the rest are.

Legend: B batch, S sequence, T tokens, L MoE layers, E experts, K top-k.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from moe_harness.implementations.interface import Model, Padded, Routing, RoutingSpec
from moe_harness.oracle.routing import combine_weights


def options(factor: float, mask_padding: bool = False) -> dict[str, str]:
    """LoadSpec.options of that capacity."""
    return {"capacity_factor": str(factor), "mask_padding": str(mask_padding).lower()}


def places(spec: RoutingSpec, factor: float, tokens: int) -> int:
    """Of every expert, in a batch of so many tokens."""
    if factor >= spec.num_experts / spec.top_k:
        return tokens
    return min(tokens, math.ceil(tokens * spec.top_k * factor / spec.num_experts))


def computed(model: Model, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the batches that a prefill of `shape` is computed in."""
    return model.computed_batch(*shape) if isinstance(model, Padded) else shape


def too_late(ids_TK: np.ndarray, num_experts: int, limit: int) -> np.ndarray:
    """dropped_TK: choices that come when their expert has taken `limit`, in the order of the tokens; all of a token's come at once."""
    chosen_TE = np.zeros((len(ids_TK), num_experts), np.int64)
    np.put_along_axis(chosen_TE, ids_TK, 1, axis=1)
    dropped_TK: np.ndarray = np.take_along_axis(chosen_TE.cumsum(0), ids_TK, axis=1) > limit
    return dropped_TK


def expected_drops(model: Model, routing: Routing, shape: tuple[int, int], spec: RoutingSpec, factor: float) -> np.ndarray:
    """dropped_LTK of a prefill of `shape`, given the experts that were chosen; False at pads, which take no places."""
    rows, columns = computed(model, shape)
    assert routing.mask_T is not None, "routing comes without a mask"
    dropped_LTK = np.zeros(routing.topk_ids_LTK.shape, bool)
    for first in range(0, shape[0], rows):
        span = slice(first * shape[1], (first + rows) * shape[1])
        valid_T = np.flatnonzero(routing.mask_T[span]) + span.start
        for layer, ids_TK in enumerate(routing.topk_ids_LTK):
            dropped_LTK[layer, valid_T] = too_late(ids_TK[valid_T], spec.num_experts, places(spec, factor, rows * columns))
    return dropped_LTK


def weights_of_the_rest(logits_TE: np.ndarray, ids_TK: np.ndarray, dropped_TK: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """weights_TK, float64: those of the router, 0 where dropped, divided by the sum of the rest where the router divides."""
    weights_TK = combine_weights(logits_TE.astype(np.float64), ids_TK, spec)
    return renormalized(weights_TK, dropped_TK, spec)


def smallest_score(logits_TE: np.ndarray, ids_TK: np.ndarray, dropped_TK: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """(T, 1): of what is left of a token, before anything is divided; 1 where nothing is. It is rounded, and divides the others."""
    scores_TK = combine_weights(logits_TE.astype(np.float64), ids_TK, replace(spec, normalize_topk=False, scaling_factor=1.0))
    smallest_T1: np.ndarray = np.where(dropped_TK, 1.0, scores_TK).min(-1, keepdims=True)
    return smallest_T1


def renormalized(weights_TK: np.ndarray, dropped_TK: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    kept_TK: np.ndarray = np.where(dropped_TK, 0.0, weights_TK)
    if not spec.normalize_topk:
        return kept_TK
    left_T1 = kept_TK.sum(-1, keepdims=True)
    return kept_TK * np.divide(weights_TK.sum(-1, keepdims=True), left_T1, out=np.zeros_like(left_T1), where=left_T1 > 0)
