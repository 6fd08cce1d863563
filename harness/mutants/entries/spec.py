"""Faults of what a RoutingSpec asks beyond softmax and top-k: correction bias, groups, scaling factor, router bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moe_harness.emulator import numerics
from moe_harness.emulator.numerics import Array, Rounding, softmax
from moe_harness.emulator.routing import correct, keep_groups, limit_groups, scale_weights
from moe_harness.emulator.seams import Seams, changed
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.mutants.entry import GITHUB, Fault, change

GROUPED = ("deepseek_v3", "dots1")  # with a correction bias, groups and a scaling factor
BIASED = ("gpt_oss",)
VLLM_GROUPS = f"{GITHUB}/vllm-project/vllm/pull/13474"


def correction_in_bfloat16(scores_TE: Array, correction_E: Array | None) -> Array:
    return correct(scores_TE, None if correction_E is None else Rounding("bfloat16")(correction_E))


def correction_times_scores(scores_TE: Array, correction_E: Array | None) -> Array:
    return scores_TE if correction_E is None else scores_TE * (1 + correction_E)


def groups_by_best(ranking_TE: Array, spec: RoutingSpec) -> Array:
    grouped_TGX = ranking_TE.reshape(len(ranking_TE), spec.num_groups, spec.num_experts // spec.num_groups)
    return keep_groups(grouped_TGX, grouped_TGX.max(axis=-1), spec)


def groups_by_sum(ranking_TE: Array, spec: RoutingSpec) -> Array:
    grouped_TGX = ranking_TE.reshape(len(ranking_TE), spec.num_groups, spec.num_experts // spec.num_groups)
    return keep_groups(grouped_TGX, grouped_TGX.sum(axis=-1), spec)


def groups_masked_with_zero(ranking_TE: Array, spec: RoutingSpec) -> Array:
    masked_TE = limit_groups(ranking_TE, spec)
    return np.where(np.isneginf(masked_TE), np.float32(0), masked_TE)


def groups_interleaved(ranking_TE: Array, spec: RoutingSpec) -> Array:
    order_E = np.arange(spec.num_experts).reshape(-1, spec.num_groups).T.ravel()  # group g holds experts g, g + G, g + 2G, ...
    limited_TE = np.empty_like(ranking_TE)
    limited_TE[:, order_E] = limit_groups(ranking_TE[:, order_E], spec)
    return limited_TE


def one_group_more(ranking_TE: Array, spec: RoutingSpec) -> Array:
    return limit_groups(ranking_TE, replace(spec, top_groups=min(spec.top_groups + 1, spec.num_groups)))


def normalized_after_scaling(weights_TK: Array, spec: RoutingSpec) -> Array:
    scaled_TK = scale_weights(weights_TK, spec)
    return scaled_TK / scaled_TK.sum(axis=-1, keepdims=True) if spec.normalize_topk else scaled_TK


def scaled_unless_normalized(weights_TK: Array, spec: RoutingSpec) -> Array:
    return weights_TK if spec.normalize_topk else scale_weights(weights_TK, spec)


def scaled_twice(weights_TK: Array, spec: RoutingSpec) -> Array:
    return scale_weights(scale_weights(weights_TK, spec), spec)


def without_bias(logits_TE: Array, bias_E: Array | None, rounding: Rounding) -> Array:
    return logits_TE


def bias_of_first_expert(logits_TE: Array, bias_E: Array | None, rounding: Rounding) -> Array:
    return logits_TE if bias_E is None else rounding(logits_TE + bias_E[:1])


def bias_on_scores(seams: Seams) -> Seams:
    """The bias reaches the scores only after the softmax; what is reported are the logits that the softmax saw."""
    kept: list[Array | None] = [None]

    def remember(logits_TE: Array, bias_E: Array | None, rounding: Rounding) -> Array:
        kept[0] = bias_E
        return logits_TE

    def late(logits_TE: Array, spec: RoutingSpec) -> Array:
        return softmax(logits_TE) if kept[0] is None else softmax(logits_TE) + kept[0]

    return changed(seams, add_bias=remember, scores=late)


def softmax_for_sigmoid(logits_TE: Array, spec: RoutingSpec) -> Array:
    return softmax(logits_TE)


def sigmoid_of_half(logits_TE: Array, spec: RoutingSpec) -> Array:
    """tanh(x/2) where (1 + tanh(x/2)) / 2 is meant, cut off at 0."""
    return np.maximum(np.tanh(logits_TE / 2), np.float32(1e-20)) if spec.scoring == "sigmoid" else numerics.softmax(logits_TE)


CORRECTION: tuple[Fault, ...] = (
    Fault("correction-in-weights", "Weights are gathered from the corrected scores, with which selection ranks.",
          None, change(weight_source=lambda scores_TE, ranking_TE: ranking_TE), ("ROUTE-12",), families=GROUPED),
    Fault("correction-ignored", "e_score_correction_bias is loaded and not used.",
          None, change(correct=lambda scores_TE, correction_E: scores_TE), ("ROUTE-12",), families=GROUPED),
    Fault("correction-times-scores", "The correction multiplies: score * (1 + bias).",
          None, change(correct=correction_times_scores), ("ROUTE-12",), families=GROUPED),
    Fault("vllm-23640-correction-cast", "The correction bias is cast to bfloat16 at load: a step of its rounding moves selections.",
          f"{GITHUB}/vllm-project/vllm/pull/23640", change(correct=correction_in_bfloat16), ("CONV-02",), families=("dots1",)),
    Fault("softmax-for-sigmoid", "A softmax router of the family before: the correction then weighs against scores of another size.",
          None, change(scores=softmax_for_sigmoid), ("ROUTE-12", "ROUTE-05"), families=GROUPED),
    Fault("tanh-for-sigmoid", "A sigmoid through tanh without the final (1 + t) / 2: negative logits all score zero.",
          None, change(scores=sigmoid_of_half), ("ROUTE-07",), families=GROUPED),
)  # fmt: skip

GROUPS: tuple[Fault, ...] = (
    Fault("vllm-13474-group-by-best", "A group counts by its best expert, not by the sum of its two best.",
          VLLM_GROUPS, change(limit_groups=groups_by_best), ("ROUTE-13",), families=GROUPED),
    Fault("vllm-13474-masked-with-zero", "Experts of groups left out get score 0, which beats a negative corrected score.",
          VLLM_GROUPS, change(limit_groups=groups_masked_with_zero), ("ROUTE-13",), families=GROUPED,
          trigger="a group in use with a negative corrected score among the k highest"),
    Fault("group-by-sum", "A group counts by the sum of all its experts.",
          None, change(limit_groups=groups_by_sum), ("ROUTE-13",), families=GROUPED),
    Fault("groups-interleaved", "Group g holds experts g, g + G, ... (as ranks do) instead of a run.",
          None, change(limit_groups=groups_interleaved), ("ROUTE-13",), families=GROUPED),
    Fault("groups-ignored", "n_group is read and not used: top-k over all experts.",
          None, change(limit_groups=lambda ranking_TE, spec: ranking_TE), ("ROUTE-13", "ROUTE-04"), families=GROUPED),
    Fault("one-group-more", "topk_group + 1 groups stay.", None, change(limit_groups=one_group_more), ("ROUTE-13",), families=GROUPED),
)  # fmt: skip

SCALING: tuple[Fault, ...] = (
    Fault("scaling-ignored", "routed_scaling_factor is not applied.",
          None, change(scale=lambda weights_TK, spec: weights_TK), ("ROUTE-14", "ROUTE-03"), families=GROUPED),
    Fault("scaling-before-normalising", "Weights are scaled and then divided by their sum: the factor vanishes.",
          None, change(scale=normalized_after_scaling), ("ROUTE-14",), families=GROUPED),
    Fault("scaling-in-else-branch", "The factor is applied only where weights are not normalised.",
          None, change(scale=scaled_unless_normalized), ("ROUTE-14",), families=GROUPED),
    Fault("scaling-twice", "The router scales, and the block scales again.",
          None, change(scale=scaled_twice), ("ROUTE-14", "ROUTE-05"), families=GROUPED),
)  # fmt: skip

BIAS: tuple[Fault, ...] = (
    Fault("router-bias-forgotten", "The router's linear layer is built without its bias.",
          None, change(add_bias=without_bias), ("ROUTE-15", "ROUTE-04"), families=BIASED),
    Fault("router-bias-after-softmax", "The bias is added to the scores instead of the logits.",
          None, bias_on_scores, ("ROUTE-15", "ROUTE-05"), families=BIASED),
    Fault("router-bias-of-first-expert", "The bias is read with stride 0: every expert gets the first one's, and a softmax does not care.",
          None, change(add_bias=bias_of_first_expert), ("ROUTE-15",), families=BIASED),
)  # fmt: skip

FAULTS = CORRECTION + GROUPS + SCALING + BIAS
