"""Faulty routers: functions for the seams `scores`, `select`, `weights` and `router_logits`. What each stands for: `router.py`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moe_harness.emulator.numerics import Array, Rounding, linear, softmax
from moe_harness.emulator.routing import combine_weights, select_top_k
from moe_harness.emulator.seams import Seams
from moe_harness.implementations.interface import RoutingSpec


def by_rank(scores_TE: Array) -> Array:
    """All ids by falling score, ties to the lower id."""
    return np.argsort(-scores_TE, axis=-1, kind="stable")


def last_row_is_padding(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    ids_TK = select_top_k(scores_TE, logits_TE, spec).copy()
    ids_TK[-1:] = 0
    return ids_TK


def last_expert_is_elsewhere(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    ids_TK = select_top_k(scores_TE, logits_TE, spec)
    return np.where(ids_TK == spec.num_experts - 1, spec.num_experts, ids_TK)


def weights_of_clipped_ids(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    """What a kernel reads for an id outside the table: its edge."""
    return combine_weights(scores_TE, logits_TE, ids_TK.clip(0, spec.num_experts - 1), spec)


def select_two(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return by_rank(scores_TE)[:, :2]


def select_ranks_from_second(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return np.roll(by_rank(scores_TE), -1, axis=1)[:, : spec.top_k]


def select_with_bias(scores_TE: Array, logits_TE: Array, spec: RoutingSpec, factor: float = 1.3) -> Array:
    return select_top_k(scores_TE * np.where(np.arange(spec.num_experts) == 0, np.float32(factor), np.float32(1)), logits_TE, spec)


def select_from_unsorted(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return np.sort(by_rank(scores_TE)[:, : spec.top_k + 1], axis=1)[:, : spec.top_k]


def select_masking_with_zero(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    left_TE, rows, ids = logits_TE.copy(), np.arange(len(logits_TE)), []
    for _ in range(spec.top_k):
        ids.append(left_TE.argmax(axis=1))
        left_TE[rows, ids[-1]] = 0.0
    return np.stack(ids, axis=1)


def select_with_zero_buffer(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    ids_TK = _select_with_zero_slots(logits_TE, spec)
    return np.where(ids_TK < spec.num_experts, ids_TK, 0)


def _select_with_zero_slots(logits_TE: Array, spec: RoutingSpec) -> Array:
    padded = np.concatenate([logits_TE, np.zeros((len(logits_TE), spec.top_k), np.float32)], axis=1)
    return by_rank(padded)[:, : spec.top_k]


def select_with_padded_experts(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return _select_with_zero_slots(logits_TE, spec)


def select_with_padded_ranking(ranking_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    """Corrected scores are taken to be positive, so zeros fill what a kernel's table has beyond E; its slots count on from expert 0."""
    return _select_with_zero_slots(ranking_TE, spec) % spec.num_experts


def relu_scores(logits_TE: Array, spec: RoutingSpec) -> Array:
    return softmax(np.maximum(logits_TE, 0))


def select_by_value(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    values_TK = np.take_along_axis(scores_TE, select_top_k(scores_TE, logits_TE, spec), axis=1)
    return np.argmax(scores_TE[:, None, :] == values_TK[:, :, None], axis=2)


def select_by_threshold(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    lowest_T1 = np.take_along_axis(scores_TE, by_rank(scores_TE)[:, spec.top_k - 1 : spec.top_k], axis=1)
    return np.argsort(~(scores_TE >= lowest_T1), axis=1, kind="stable")[:, : spec.top_k]


def select_at_most_all_but_one(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    ids_TK = select_top_k(scores_TE, logits_TE, spec).copy()
    ids_TK[:, spec.num_experts - 1 :] = 0
    return ids_TK


def select_sentinel_for_nan(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    nan_T1 = np.isnan(logits_TE).any(axis=1, keepdims=True)
    return np.where(nan_T1, -1, select_top_k(scores_TE, logits_TE, spec))


def softmax_of_batch(logits_TE: Array, spec: RoutingSpec) -> Array:
    exponentials = np.exp(logits_TE - logits_TE.max(initial=-np.inf))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def softmax_in_half(logits_TE: Array, spec: RoutingSpec) -> Array:
    exponentials = np.exp(logits_TE.astype(np.float16)).astype(np.float32)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def sigmoid_scores(logits_TE: Array, spec: RoutingSpec) -> Array:
    return 1 / (1 + np.exp(-logits_TE))


def logits_in_bfloat16(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    low = Rounding("bfloat16")
    return linear(low(x_TD), low(router_ED), None, low)


def select_in_id_order(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return np.sort(select_top_k(scores_TE, logits_TE, spec), axis=1)


def weights_in_score_order(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    return -np.sort(-combine_weights(scores_TE, logits_TE, ids_TK, spec), axis=1)


def uniform_weights(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    weights_TK = combine_weights(scores_TE, logits_TE, ids_TK, spec)
    return np.broadcast_to(weights_TK.mean(axis=1, keepdims=True), weights_TK.shape)


def raw_logits_unless_normalized(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    return combine_weights(scores_TE if spec.normalize_topk else logits_TE, logits_TE, ids_TK, spec)


def l1_of_logits(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    chosen_TK = np.take_along_axis(logits_TE, ids_TK, axis=1)
    return chosen_TK / np.abs(chosen_TK).sum(axis=1, keepdims=True)


def never_normalized(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    return combine_weights(scores_TE, logits_TE, ids_TK, replace(spec, normalize_topk=False))


def always_normalized(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    return combine_weights(scores_TE, logits_TE, ids_TK, replace(spec, normalize_topk=True))


def first_token_weight_at_top_1(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    weights_TK = combine_weights(scores_TE, logits_TE, ids_TK, spec)
    return np.broadcast_to(weights_TK[:1], weights_TK.shape) if spec.top_k == 1 else weights_TK


def normalized_over_tokens_at_top_1(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    if spec.top_k > 1 or not spec.normalize_topk:
        return combine_weights(scores_TE, logits_TE, ids_TK, spec)
    best_T1 = np.take_along_axis(scores_TE, ids_TK, axis=1)
    return best_T1 / best_T1.sum()


def one_at_top_1(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    weights_TK = combine_weights(scores_TE, logits_TE, ids_TK, spec)
    return np.ones_like(weights_TK) if spec.top_k == 1 else weights_TK
