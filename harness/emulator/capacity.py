"""Experts with a limited number of places, as NxD and GShard (arXiv:2006.16668) have them: first come, first served.

Legend: T tokens, E experts, K top-k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.routing import round_weights
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import Crowd, Routes, Step
from moe_harness.implementations.interface import InvalidInput, RoutingSpec

BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Capacity:
    """`factor` None: room for all."""

    factor: float | None = None
    mask_padding: bool = False

    @classmethod
    def parse(cls, options: Mapping[str, str]) -> Capacity:
        """LoadSpec.options. Raises InvalidInput."""
        unknown = sorted(options.keys() - {"capacity_factor", "mask_padding"})
        if unknown:
            raise InvalidInput(f"unknown option {unknown[0]!r}; known: capacity_factor, mask_padding")
        try:
            factor = float(options["capacity_factor"]) if "capacity_factor" in options else None
            found = cls(factor, BOOLEANS[options.get("mask_padding", "false")])
        except (ValueError, KeyError) as error:
            raise InvalidInput(f"options: a positive number and true or false are expected, got {dict(options)}") from error
        if factor is not None and not 0 < factor < math.inf:
            raise InvalidInput(f"capacity_factor: a positive number is expected, got {factor}")
        return found

    def limits(self, spec: RoutingSpec) -> bool:
        return self.factor is not None and self.factor < spec.num_experts / spec.top_k


def is_prefill(step: Step) -> bool:
    """While decoding there is room for all."""
    return not step.decoding


def places(tokens: int, top_k: int, factor: float, num_experts: int) -> int:
    """Of every expert; pads count among the tokens."""
    return min(tokens, math.ceil(tokens * top_k * factor / num_experts))


def too_late(crowd: Crowd, limit: int) -> Array:
    """dropped_TK: choices that come when their expert has taken `limit`. Tokens that do not count are dropped everywhere."""
    taken_E, dropped_TK = np.zeros(crowd.num_experts, np.int64), np.ones(crowd.ids_TK.shape, bool)
    for t in np.flatnonzero(crowd.counted_T):
        dropped_TK[t] = taken_E[crowd.ids_TK[t]] >= limit
        taken_E[crowd.ids_TK[t]] += 1
    return dropped_TK


def reweigh(weights_TK: Array, dropped_TK: Array, spec: RoutingSpec) -> Array:
    """Weights of the rest, 0 where dropped; they add up to what they added up to before where the router normalises."""
    kept_TK = np.where(dropped_TK, np.float32(0), weights_TK)
    if not spec.normalize_topk:
        return kept_TK
    left_T1 = kept_TK.sum(axis=1, keepdims=True)
    scale_T1 = np.divide(weights_TK.sum(axis=1, keepdims=True), left_T1, out=np.zeros_like(left_T1), where=left_T1 != 0)
    return kept_TK * scale_T1


def drop(routes: Routes, capacity: Capacity, valid_T: Array, spec: RoutingSpec, rounding: Rounding, seams: Seams, final: bool) -> Routes:
    """The routes as they are combined. `final`: weights that were pinned are not divided."""
    if not capacity.limits(spec):
        return routes
    assert capacity.factor is not None
    counted_T = seams.capacity.counted(valid_T) if capacity.mask_padding else np.ones_like(valid_T)
    limit = seams.capacity.places(len(valid_T), spec.top_k, capacity.factor, spec.num_experts)
    dropped_TK = seams.capacity.too_late(Crowd(routes.ids_TK, routes.weights_TK, counted_T, spec.num_experts), limit)
    asked = replace(spec, normalize_topk=spec.normalize_topk and not final)
    weights_TK = round_weights(seams.capacity.reweigh(routes.weights_TK, dropped_TK, asked).astype(np.float32), spec, rounding)
    return replace(routes, weights_TK=weights_TK, dropped_TK=dropped_TK)


def counted(valid_T: Array) -> Array:
    """The tokens that take places where pads take none."""
    return valid_T


def hand_back(y_TKD: Array, x_TD: Array, dropped_TK: Array) -> Array:
    """What a dropped choice contributes: nothing, whatever anybody's hidden state holds."""
    return np.where(dropped_TK[..., None], np.float32(0), y_TKD)
