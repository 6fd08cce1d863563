"""The honest choice of the next token and of where a row ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.faults.numerics import Array, softmax
from implementations.interface import GenerationSpec, ModelConfig


def last_valid(valid_BS: Array) -> Array:
    """Index_B of each row's last valid token within the call."""
    return valid_BS.shape[1] - 1 - np.argmax(valid_BS[:, ::-1], axis=1)


def sample(logits_BV: Array, history: Sequence[list[int]], spec: GenerationSpec, rng: np.random.Generator) -> Array:
    """ids_B: the highest logit at temperature 0, else a draw from the kept tokens. `history`: prompt and new ids of each row."""
    if spec.temperature == 0:
        return np.argmax(logits_BV, axis=-1)
    probabilities_BV = softmax(_keep_likely(logits_BV / np.float32(spec.temperature), spec))
    return np.array([rng.choice(len(p), p=p.astype(np.float64) / p.sum(dtype=np.float64)) for p in probabilities_BV])


def _keep_likely(logits_BV: Array, spec: GenerationSpec) -> Array:
    """-inf outside the `top_k` most likely tokens and outside the smallest set of them that holds `top_p` of the probability."""
    order_BV = np.argsort(-logits_BV, axis=-1, kind="stable")
    ranked_BV = np.take_along_axis(logits_BV, order_BV, axis=-1)
    if spec.top_k:
        ranked_BV[:, spec.top_k :] = -np.inf
    before_BV = np.cumsum(softmax(ranked_BV), axis=-1) - softmax(ranked_BV)
    ranked_BV = np.where((before_BV < spec.top_p) | (np.arange(ranked_BV.shape[1]) == 0), ranked_BV, -np.inf)
    kept_BV = np.empty_like(logits_BV)
    np.put_along_axis(kept_BV, order_BV, ranked_BV, axis=-1)
    return kept_BV


def stop_ids(config: ModelConfig, spec: GenerationSpec) -> frozenset[int]:
    return frozenset(config.eos_token_ids if spec.eos_token_ids is None else spec.eos_token_ids)


def ended(ids_B: Array, history: Sequence[list[int]], stop: frozenset[int], before_B: Array) -> Array:
    """ended_B after these ids: a row ends on its own, at any id of `stop` that it generated. `before_B`: which had ended before."""
    return before_B | np.isin(ids_B, list(stop))
