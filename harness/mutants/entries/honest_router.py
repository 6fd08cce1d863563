"""Honest kinds: precision and form of router logits, scores and weights. Each stands on matmuls that sum in an order drawn by the seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_harness.emulator import routing, sums
from moe_harness.emulator.numerics import Array, Rounding, sigmoid, softmax
from moe_harness.emulator.seams import Seams
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.mutants.entries.honest_sums import on_drawn_order
from moe_harness.mutants.entry import GITHUB, Change, Honest, Seeded, change

LOG2_E = np.float32(np.log2(np.e))


def logits_in_float32(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    return seams.network.linear(x_TD, router_ED, None, Rounding("float32"))


def logits_by_another_kernel(seed: int) -> Change:
    """The router alone sums over split parts."""
    linear = sums.as_linear(sums.split(seed + 1))
    return change(router_logits=lambda x_TD, router_ED, rounding, seams: linear(x_TD, router_ED, None, rounding))


def softmax_scores(softmax_of: Callable[[Array], Array]) -> Change:
    """Another softmax where the scores are one."""

    def scores(logits_TE: Array, spec: RoutingSpec) -> Array:
        return softmax_of(logits_TE) if spec.scoring == "softmax" else routing.scores(logits_TE, spec)

    return change(scores=scores)


def by_log_sum(logits_TE: Array) -> Array:
    highest = logits_TE.max(axis=1, keepdims=True)
    return np.exp(logits_TE - (highest + np.log(np.exp(logits_TE - highest).sum(axis=1, keepdims=True))))


def by_powers_of_two(logits_TE: Array) -> Array:
    """2**(x log2 e), as kernels without a fast exp do."""
    scaled = logits_TE * LOG2_E
    powers = np.exp2(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def by_reciprocal(logits_TE: Array) -> Array:
    powers = np.exp(logits_TE - logits_TE.max(axis=1, keepdims=True))
    return powers * (np.float32(1) / powers.sum(axis=1, keepdims=True))


def in_float64(logits_TE: Array) -> Array:
    return softmax(logits_TE.astype(np.float64)).astype(np.float32)


def summed_in_drawn_order(seed: int) -> Change:
    order = sums.order_of(seed)

    def softmax_of(logits_TE: Array) -> Array:
        shuffled = np.exp(logits_TE - logits_TE.max(axis=1, keepdims=True))
        return shuffled / np.cumsum(shuffled[:, order(logits_TE.shape[1])], axis=1)[:, -1:]

    return softmax_scores(softmax_of)


def sigmoid_in_two_branches(logits_TE: Array, spec: RoutingSpec) -> Array:
    if spec.scoring != "sigmoid":
        return routing.scores(logits_TE, spec)
    small = np.exp(-np.abs(logits_TE))
    return np.where(logits_TE < 0, small, np.float32(1)) / (np.float32(1) + small)


def sigmoid_in_float64(logits_TE: Array, spec: RoutingSpec) -> Array:
    if spec.scoring != "sigmoid":
        return routing.scores(logits_TE, spec)
    return sigmoid(logits_TE.astype(np.float64)).astype(np.float32)


def select_by_logits(ranking_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    """Equal to the honest selection only where nothing was added to the scores and no group was masked; left alone otherwise."""
    ranks_alike = not spec.correction_bias and spec.num_groups == 1
    return routing.select_top_k(logits_TE if ranks_alike else ranking_TE, logits_TE, spec)


def softmax_of_selected(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    """Equal to the honest weights only when these are renormalised softmax scores; left alone otherwise."""
    if not spec.normalize_topk or spec.scoring != "softmax":
        return routing.combine_weights(scores_TE, logits_TE, ids_TK, spec)
    return softmax(np.take_along_axis(logits_TE, ids_TK, axis=1))


def times_reciprocal(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    weights_TK = np.take_along_axis(scores_TE, ids_TK, axis=-1)
    return weights_TK * (np.float32(1) / weights_TK.sum(axis=-1, keepdims=True)) if spec.normalize_topk else weights_TK


def normalized_twice(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    weights_TK = routing.combine_weights(scores_TE, logits_TE, ids_TK, spec)
    return weights_TK / weights_TK.sum(axis=1, keepdims=True) if spec.normalize_topk else weights_TK


def weights_in_model_dtype(weights_TK: Array, spec: RoutingSpec, rounding: Rounding) -> Array:
    return rounding(weights_TK)


def weights_in_float32(weights_TK: Array, spec: RoutingSpec, rounding: Rounding) -> Array:
    return weights_TK


def rounded_then_normalized(weights_TK: Array, spec: RoutingSpec, rounding: Rounding) -> Array:
    rounded_TK = rounding(weights_TK)
    if not spec.normalize_topk:
        return rounded_TK
    return rounding(np.float32(spec.scaling_factor) * rounded_TK / rounding(rounded_TK.sum(axis=1, keepdims=True)))


NXD = f"{GITHUB}/aws-neuron/neuronx-distributed/blob/fbac349/src/neuronx_distributed/modules/moe/expert_mlps_v2.py"
MEGATRON_ROUTER = f"{GITHUB}/NVIDIA/Megatron-LM/blob/core_v0.14.0/megatron/core/transformer/moe/router.py"
SIGMOID = ("dots1",)

KINDS: tuple[Honest, ...] = (
    Honest("router-logits-in-float32", "Router logits are not rounded, as Megatron's moe_router_dtype asks.",
           MEGATRON_ROUTER, on_drawn_order(change(router_logits=logits_in_float32))),
    Honest("router-by-another-kernel", "The router's matmul is split over K, the others are not.",
           None, on_drawn_order(Seeded(logits_by_another_kernel))),
    Honest("benign-litgpt-2014", "Softmax written as exp(l - logsumexp(l)).",
           f"{GITHUB}/Lightning-AI/litgpt/pull/2014", on_drawn_order(softmax_scores(by_log_sum))),
    Honest("softmax-by-powers-of-two", "Softmax by exp2.", None, on_drawn_order(softmax_scores(by_powers_of_two))),
    Honest("softmax-by-reciprocal", "Softmax multiplies by 1 / sum.", None, on_drawn_order(softmax_scores(by_reciprocal))),
    Honest("softmax-in-float64", "Softmax in float64.", None, on_drawn_order(softmax_scores(in_float64))),
    Honest("softmax-in-drawn-order", "Softmax adds one term after the other, in any order.",
           None, on_drawn_order(Seeded(summed_in_drawn_order))),
    Honest("sigmoid-in-two-branches", "Sigmoid scores without overflow: exp of negative numbers only.",
           None, on_drawn_order(change(scores=sigmoid_in_two_branches)), families=SIGMOID),
    Honest("sigmoid-in-float64", "Sigmoid scores in float64.", None, on_drawn_order(change(scores=sigmoid_in_float64)), families=SIGMOID),
    Honest("benign-megatron-955", "Top-k of the logits, then softmax over them: equal where weights are renormalised, and used only there.",
           f"{GITHUB}/NVIDIA/Megatron-LM/issues/955", on_drawn_order(change(select=select_by_logits, weights=softmax_of_selected)),
           bypasses=("scores", "correct", "limit_groups", "weight_source")),
    Honest("benign-trtllm-2752", "Weights are renormalised once more.",
           f"{GITHUB}/NVIDIA/TensorRT-LLM/pull/2752", on_drawn_order(change(weights=normalized_twice))),
    Honest("weights-by-reciprocal", "Weights are multiplied by 1 / sum.", None, on_drawn_order(change(weights=times_reciprocal))),
    Honest("weights-in-model-dtype", "Weights are cast to the model's dtype in every family.",
           None, on_drawn_order(change(round_weights=weights_in_model_dtype))),
    Honest("weights-in-float32", "Weights stay float32 in every family.",
           None, on_drawn_order(change(round_weights=weights_in_float32))),
    Honest("neuron-affinity-dtype", "Scores are cast to the model's dtype before they are divided by their sum.",
           NXD, on_drawn_order(change(round_weights=rounded_then_normalized)), bypasses=("weights", "scale")),
)  # fmt: skip
