"""Routing in float64. Legend: T tokens, E experts, K top-k, D hidden.

Source: Shazeer et al. 2017 (top-k gating); Jiang et al. 2024, section 2 (Mixtral); Qwen3 technical report (norm_topk_prob).
"""

from __future__ import annotations

import numpy as np

from implementations.interface import RoutingSpec


def router_logits(x_TD: np.ndarray, w_ED: np.ndarray) -> np.ndarray:
    """Logits (T, E) = x @ w.T in float64."""
    return x_TD.astype(np.float64) @ w_ED.astype(np.float64).T


def scores(logits_TE: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """Scores (T, E) of all experts, before selection. Raises ValueError for an unknown scoring function."""
    if spec.scoring == "softmax":
        shifted = np.exp(logits_TE - logits_TE.max(-1, keepdims=True))
        return shifted / shifted.sum(-1, keepdims=True)
    if spec.scoring == "sigmoid":
        return 1.0 / (1.0 + np.exp(-logits_TE))
    raise ValueError(f"unknown scoring {spec.scoring!r}")


def select(logits_TE: np.ndarray, top_k: int) -> np.ndarray:
    """Ids (T, K) of the K largest logits, best first, ties to the lowest id. Scores rise with logits, so ranking logits is exact where
    float scores would underflow into false ties."""
    return np.argsort(-logits_TE, axis=-1, kind="stable")[:, :top_k]


def combine_weights(logits_TE: np.ndarray, ids_TK: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """Weights (T, K) with which the experts `ids_TK` are combined; sum to one iff `normalize_topk`."""
    chosen = np.take_along_axis(scores(logits_TE, spec), ids_TK, axis=-1)
    return chosen / chosen.sum(-1, keepdims=True) if spec.normalize_topk else chosen


def gap(logits_TE: np.ndarray, top_k: int) -> np.ndarray:
    """Logit gap (T,) between rank K and rank K+1: how far selection is from a flip. Infinite when K = E."""
    if top_k == logits_TE.shape[-1]:
        return np.full(logits_TE.shape[0], np.inf)
    ranked = -np.sort(-logits_TE, axis=-1)
    return ranked[:, top_k - 1] - ranked[:, top_k]
