"""Routing in float64. Legend: T tokens, E experts, K top-k, G groups, D hidden.

Source: Shazeer et al. 2017 (top-k gating); Jiang et al. 2024, section 2 (Mixtral); Qwen3 technical report (norm_topk_prob); DeepSeek-V3
technical report, section 2.1.2 (sigmoid scores, correction bias, groups, scaling). The order of operations: see RoutingSpec.
"""

from __future__ import annotations

import numpy as np

from moe_harness.implementations.interface import RoutingSpec


def router_logits(x_TD: np.ndarray, w_ED: np.ndarray, bias_E: np.ndarray | None = None) -> np.ndarray:
    """Logits (T, E) = x @ w.T + bias in float64."""
    logits_TE = x_TD.astype(np.float64) @ w_ED.astype(np.float64).T
    return logits_TE if bias_E is None else logits_TE + bias_E.astype(np.float64)


def scores(logits_TE: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """Scores (T, E) of all experts, before selection. Raises ValueError for an unknown scoring function."""
    if spec.scoring == "softmax":
        shifted = np.exp(logits_TE - logits_TE.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)
    if spec.scoring == "sigmoid":
        return 1.0 / (1.0 + np.exp(-logits_TE))
    raise ValueError(f"unknown scoring {spec.scoring!r}")


def ranks_logits(spec: RoutingSpec) -> bool:
    """Whether the scores' top-k is the logits': they rise together, and nothing is added or summed in between."""
    return not spec.correction_bias and spec.num_groups == 1


def ranking(logits_TE: np.ndarray, spec: RoutingSpec, correction_E: np.ndarray | None = None) -> np.ndarray:
    """What selection ranks (T, E): the logits where their order is the scores' (exact where float scores would underflow into false
    ties), else the scores plus the correction."""
    if ranks_logits(spec):
        return logits_TE
    return scores(logits_TE, spec) + (0.0 if correction_E is None else correction_E.astype(np.float64))


def group_scores(ranking_TE: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """(T, G): the sum of each group's two best."""
    grouped = np.sort(ranking_TE.reshape(len(ranking_TE), spec.num_groups, -1), axis=-1)
    return grouped[..., -2:].sum(-1)


def in_top_groups(ranking_TE: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """Boolean (T, E): experts of the best `top_groups` groups."""
    best = np.argsort(-group_scores(ranking_TE, spec), axis=-1, kind="stable")[:, : spec.top_groups]
    group_of_E = np.arange(spec.num_experts) // (spec.num_experts // spec.num_groups)
    return (group_of_E[None, :, None] == best[:, None, :]).any(-1)


def select(ranking_TE: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """Ids (T, K) of the K best of a `ranking`, best first, ties to the lowest id."""
    if spec.num_groups > 1:
        ranking_TE = np.where(in_top_groups(ranking_TE, spec), ranking_TE, -np.inf)
    return np.argsort(-ranking_TE, axis=-1, kind="stable")[:, : spec.top_k]


def combine_weights(logits_TE: np.ndarray, ids_TK: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """Weights (T, K) with which the experts `ids_TK` are combined; they sum to `scaling_factor` iff `normalize_topk`."""
    chosen = np.take_along_axis(scores(logits_TE, spec), ids_TK, axis=-1)
    return spec.scaling_factor * (chosen / chosen.sum(-1, keepdims=True) if spec.normalize_topk else chosen)


def gap(ranking_TE: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """By how much the ranking's K-th expert leads the next (T,), the K-th group included: how far selection is from a flip. Infinite when
    K = E."""
    leads = np.full(len(ranking_TE), np.inf)
    if spec.num_groups > spec.top_groups:
        leads = _lead(group_scores(ranking_TE, spec), spec.top_groups)
    if spec.num_groups > 1:
        ranking_TE = np.where(in_top_groups(ranking_TE, spec), ranking_TE, -np.inf)
    return np.minimum(leads, _lead(ranking_TE, spec.top_k))


def _lead(values: np.ndarray, k: int) -> np.ndarray:
    if k == values.shape[-1]:
        return np.full(len(values), np.inf)
    ranked = -np.sort(-values, axis=-1)
    return ranked[:, k - 1] - ranked[:, k]
