"""The honest router of the subject: logits in the model's dtype (sigmoid routers: in float32), everything after them in float32. At the end
of the file the same router by itself, as the contract's `Router`.

Source of the order: transformers 5, whose routers of Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE, DeepSeek-V3 (and dots1) and gpt-oss are special
cases of it. Legend: T tokens, E experts, K top-k, G groups, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_harness.emulator import inputs, numerics
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.outputs import as_routing
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import RouterTensors, Routes
from moe_harness.implementations.interface import InvalidInput, PinnedRouting, RouterWeights, Routing, RoutingSpec, Unsupported


def route(x_TD: Array, tensors: RouterTensors, spec: RoutingSpec, rounding: Rounding, seams: Seams, pinned: PinnedRouting | None) -> Routes:
    """`pinned` has L = 1. Without pinned weights the model's own scores of the pinned experts are used."""
    router, exactness = seams.router, logits_rounding(spec, rounding)
    logits_TE = router.add_bias(router.router_logits(x_TD, tensors.weight_ED, exactness, seams), tensors.bias_E, exactness)
    scores_TE = router.scores(logits_TE, spec)
    ranking_TE, shown_TE = router.correct(scores_TE, tensors.correction_E), router.shown_logits(logits_TE, scores_TE)
    if pinned is None:
        ids_TK = router.select(router.limit_groups(ranking_TE, spec), logits_TE, spec)
    else:
        ids_TK = pinned.topk_ids_LTK[0].astype(np.int64)
    if pinned is None or pinned.topk_weights_LTK is None:
        weights_TK = router.scale(router.weights(router.weight_source(scores_TE, ranking_TE), logits_TE, ids_TK, spec), spec)
    else:  # as given: what a router does to its own weights is not done to these
        return Routes(shown_TE, ids_TK, round_weights(pinned.topk_weights_LTK[0].astype(np.float32), spec, rounding))
    return Routes(shown_TE, ids_TK, router.round_weights(weights_TK.astype(np.float32), spec, rounding))


def pinned_layer(pinned: PinnedRouting | None, index: int) -> PinnedRouting | None:
    """One MoE layer's share of what is pinned for all, L = 1."""
    if pinned is None:
        return None
    weights = pinned.topk_weights_LTK
    return PinnedRouting(pinned.topk_ids_LTK[index : index + 1], None if weights is None else weights[index : index + 1])


def logits_rounding(spec: RoutingSpec, rounding: Rounding) -> Rounding:
    """transformers computes the logits of DeepSeek-V3's router, and of dots1's, in float32: scores lie close together there."""
    return Rounding("float32") if spec.scoring == "sigmoid" else rounding


def router_logits(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    return seams.network.linear(x_TD, router_ED, None, rounding)


def add_bias(logits_TE: Array, bias_E: Array | None, rounding: Rounding) -> Array:
    """gpt-oss: part of the logits, so of scores, selection and weights alike."""
    return logits_TE if bias_E is None else rounding(logits_TE + bias_E)


def scores(logits_TE: Array, spec: RoutingSpec) -> Array:
    """float32 scores over all experts. Raises Unsupported for another scoring than softmax or sigmoid in float32."""
    if spec.scoring_dtype != "float32" or spec.scoring not in ("softmax", "sigmoid"):
        raise Unsupported(f"scoring {spec.scoring} in {spec.scoring_dtype}")
    return numerics.softmax(logits_TE) if spec.scoring == "softmax" else numerics.sigmoid(logits_TE)


def correct(scores_TE: Array, correction_E: Array | None) -> Array:
    """What selection ranks. DeepSeek-V3: scores plus a correction that balances the load."""
    return scores_TE if correction_E is None else scores_TE + correction_E


def limit_groups(ranking_TE: Array, spec: RoutingSpec) -> Array:
    """-inf outside the `top_groups` groups (equal runs of experts) whose two best sum highest."""
    if spec.num_groups == 1:
        return ranking_TE
    grouped_TGX = ranking_TE.reshape(len(ranking_TE), spec.num_groups, spec.num_experts // spec.num_groups)  # -1 fails at T = 0
    return keep_groups(grouped_TGX, np.sort(grouped_TGX, axis=-1)[..., -2:].sum(axis=-1), spec)


def keep_groups(grouped_TGX: Array, strength_TG: Array, spec: RoutingSpec, outside: float = -np.inf) -> Array:
    """ranking_TE with `outside` in all but the `top_groups` strongest groups."""
    best_TG = np.argsort(-strength_TG, axis=-1, kind="stable")[:, : spec.top_groups]
    kept_TG = np.zeros(strength_TG.shape, bool)
    np.put_along_axis(kept_TG, best_TG, True, axis=-1)
    return np.where(kept_TG[..., None], grouped_TGX, np.float32(outside)).reshape(len(grouped_TGX), spec.num_experts)


def select_top_k(ranking_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    """ids_TK by falling rank; an exact tie goes to the lower id; NaN counts as the lowest."""
    return np.argsort(-ranking_TE, axis=-1, kind="stable")[:, : spec.top_k]


def weight_source(scores_TE: Array, ranking_TE: Array) -> Array:
    """Whence the weights are taken: the scores as they were before the correction."""
    return scores_TE


def combine_weights(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    """weights_TK: the scores of the selected experts, divided by their sum when the spec says so."""
    weights_TK = np.take_along_axis(scores_TE, ids_TK, axis=-1)
    return weights_TK / weights_TK.sum(axis=-1, keepdims=True) if spec.normalize_topk else weights_TK


def scale_weights(weights_TK: Array, spec: RoutingSpec) -> Array:
    return weights_TK if spec.scaling_factor == 1.0 else weights_TK * np.float32(spec.scaling_factor)


def round_weights(weights_TK: Array, spec: RoutingSpec, rounding: Rounding) -> Array:
    """transformers keeps float32 in DeepSeek-V3's router and Mixtral's and casts in the others; either is honest."""
    return weights_TK if spec.scoring == "sigmoid" else rounding(weights_TK)


def shown_logits(logits_TE: Array, scores_TE: Array) -> Array:
    """What is reported as router logits: as they were before the softmax."""
    return logits_TE


def router_input(normed_TD: Array, residual_TD: Array) -> Array:
    """What the router of a decoder layer reads: the hidden state after the post-attention norm."""
    return normed_TD


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
