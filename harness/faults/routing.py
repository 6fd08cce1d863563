"""The honest router of the subject: logits in the model's dtype, softmax in float32, top-k, renormalisation in float32.

Source of the order: transformers 5 `MixtralTopKRouter` and `Qwen3MoeTopKRouter`, which differ in one point: Mixtral combines with float32
weights, Qwen3-MoE casts them to the model's dtype first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.faults.numerics import Array, Rounding, softmax
from implementations.interface import ModelConfig, PinnedRouting, RoutingSpec, Unsupported

if TYPE_CHECKING:
    from harness.faults.seams import Seams


@dataclass(frozen=True)
class Routes:
    """One MoE layer's routing of T tokens, as it is used to combine."""

    logits_TE: Array
    ids_TK: Array
    weights_TK: Array


def softmax_scores(logits_TE: Array, spec: RoutingSpec) -> Array:
    """float32 scores over all experts. Raises Unsupported for a scoring other than softmax in float32."""
    if (spec.scoring, spec.scoring_dtype) != ("softmax", "float32"):
        raise Unsupported(f"scoring {spec.scoring} in {spec.scoring_dtype}")
    return softmax(logits_TE)


def select_top_k(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    """ids_TK by falling score; an exact tie goes to the lower id; NaN counts as the lowest score."""
    return np.argsort(-scores_TE, axis=-1, kind="stable")[:, : spec.top_k]


def combine_weights(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    """weights_TK: the scores of the selected experts, divided by their sum when the spec says so."""
    weights_TK = np.take_along_axis(scores_TE, ids_TK, axis=-1)
    return weights_TK / weights_TK.sum(axis=-1, keepdims=True) if spec.normalize_topk else weights_TK


def round_weights(weights_TK: Array, config: ModelConfig, rounding: Rounding) -> Array:
    return weights_TK if config.family == "mixtral" else rounding(weights_TK)


def route(x_TD: Array, router_ED: Array, config: ModelConfig, rounding: Rounding, seams: Seams, pinned: PinnedRouting | None) -> Routes:
    """`pinned` has L = 1. Without pinned weights the model's own scores of the pinned experts are used."""
    spec = config.routing
    logits_TE = seams.router_logits(x_TD, router_ED, rounding, seams)
    scores_TE = seams.scores(logits_TE, spec)
    ids_TK = seams.select(scores_TE, logits_TE, spec) if pinned is None else pinned.topk_ids_LTK[0].astype(np.int64)
    if pinned is None or pinned.topk_weights_LTK is None:
        weights_TK = seams.weights(scores_TE, logits_TE, ids_TK, spec)
    else:
        weights_TK = pinned.topk_weights_LTK[0]
    return Routes(logits_TE, ids_TK, seams.round_weights(weights_TK.astype(np.float32), config, rounding))


def router_logits(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    return seams.linear(x_TD, router_ED, None, rounding)


def router_input(normed_TD: Array, residual_TD: Array) -> Array:
    """What the router of a decoder layer reads: the hidden state after the post-attention norm."""
    return normed_TD
