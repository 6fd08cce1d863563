"""A router by itself: `Router` of the contract over the subject's routing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_harness.emulator import inputs
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.routing import RouterTensors, Routes, route
from moe_harness.emulator.seams import Seams
from moe_harness.implementations.interface import InvalidInput, RouterWeights, Routing, RoutingSpec, StepOutput, Unsupported


@dataclass(frozen=True)
class SubjectRouter:
    """A `Router`."""

    spec: RoutingSpec
    tensors: RouterTensors
    rounding: Rounding
    seams: Seams

    @np.errstate(all="ignore")  # NaN and infinity are data: checks feed them in on purpose
    def route(self, x_TD: Array) -> Routing:
        x_TD = inputs.hidden_states(x_TD, self.tensors.weight_ED.shape[1], self.rounding)
        return as_routing([route(x_TD, self.tensors, self.spec, self.rounding, self.seams, None)], np.ones(len(x_TD), bool), self.spec)


def standalone(spec: RoutingSpec, weights: RouterWeights, rounding: Rounding, seams: Seams) -> SubjectRouter:
    """Raises Unsupported for a scoring that is not there, InvalidInput for tensors that do not fit the spec."""
    if spec.scoring not in ("softmax", "sigmoid") or spec.scoring_dtype != "float32":
        raise Unsupported(f"scoring {spec.scoring} in {spec.scoring_dtype}")
    given = (weights.bias_E is not None, weights.correction_bias_E is not None)
    if given != (spec.router_bias, spec.correction_bias):
        raise InvalidInput(f"router_bias {spec.router_bias}, correction_bias {spec.correction_bias}; given are {given}")
    if len(weights.weight_ED) != spec.num_experts:
        raise InvalidInput(f"weight_ED: expected {spec.num_experts} rows, got {len(weights.weight_ED)}")
    bias_E = None if weights.bias_E is None else rounding(weights.bias_E)
    correction_E = None if weights.correction_bias_E is None else np.asarray(weights.correction_bias_E, np.float32)
    return SubjectRouter(spec, RouterTensors(rounding(weights.weight_ED), bias_E, correction_E), rounding, seams)


def as_routing(records: list[Routes], mask_T: Array, spec: RoutingSpec) -> Routing:
    """The contract's arrays of one `Routes` per MoE layer."""
    T = len(mask_T)
    shapes: tuple[tuple[int, ...], ...] = ((0, T, spec.num_experts), (0, T, spec.top_k), (0, T, spec.top_k))
    logits, ids, weights = (
        np.stack([np.asarray(getattr(r, name)) for r in records]) if records else np.zeros(shape, np.float32)
        for name, shape in zip(("logits_TE", "ids_TK", "weights_TK"), shapes, strict=True)
    )
    dropped = [record.dropped_TK for record in records if record.dropped_TK is not None]
    shown = np.stack(dropped) if dropped else None
    return Routing(ids.astype(np.int64), weights.astype(np.float32), logits.astype(np.float32), shown, mask_T)


def joined(rows: list[StepOutput]) -> StepOutput:
    """One answer out of those of single rows, padded to the same length."""
    logits = [row.logits_BSV for row in rows if row.logits_BSV is not None]
    shown = [row.routing for row in rows if row.routing is not None]
    return StepOutput(np.concatenate(logits) if logits else None, _beside(shown) if shown else None)


def _beside(rows: list[Routing]) -> Routing:
    parts = ("topk_ids_LTK", "topk_weights_LTK", "router_logits_LTE")
    ids, weights, logits = (np.concatenate([getattr(row, part) for row in rows], axis=1) for part in parts)
    dropped = [row.dropped_LTK for row in rows if row.dropped_LTK is not None]
    mask_T = np.concatenate([row.mask_T for row in rows if row.mask_T is not None])
    return Routing(ids, weights, logits, np.concatenate(dropped, axis=1) if dropped else None, mask_T)
