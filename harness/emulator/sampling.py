"""The honest choice of the next token and of where a row ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from moe_harness.emulator.numerics import Array, softmax
from moe_harness.implementations.interface import GenerationSpec, InvalidInput, ModelConfig, TopLogProbs

if TYPE_CHECKING:
    from moe_harness.emulator.seams import Seams


def last_valid(valid_BS: Array) -> Array:
    """Index_B of each row's last valid token within the call."""
    return valid_BS.shape[1] - 1 - np.argmax(valid_BS[:, ::-1], axis=1)


def top_log_probs(logits_BSV: Array, n: int) -> TopLogProbs:
    """The n likeliest tokens of every position and their log-probabilities over all tokens."""
    highest_BS1 = logits_BSV.max(axis=-1, keepdims=True)
    log_probs_BSV = logits_BSV - (highest_BS1 + np.log(np.exp(logits_BSV - highest_BS1).sum(axis=-1, keepdims=True)))
    ids_BSN = np.argsort(-log_probs_BSV, axis=-1, kind="stable")[..., :n]
    return TopLogProbs(ids_BSN, np.take_along_axis(log_probs_BSV, ids_BSN, axis=-1))


def steps(spec: GenerationSpec, S: int, max_length: int) -> int:
    """How many tokens to generate after S positions. N of them take N - 1 slots: the last one is not fed back. Raises InvalidInput."""
    if spec.max_new_tokens < 0 or S + spec.max_new_tokens - 1 > max_length:
        raise InvalidInput(f"max_new_tokens {spec.max_new_tokens} after {S} positions; max_length is {max_length}")
    return spec.max_new_tokens


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def sample(logits_BV: Array, history: Sequence[list[int]], spec: GenerationSpec, rng: np.random.Generator, seams: Seams) -> Array:
    """ids_B: the highest logit at temperature 0, else a draw from the kept tokens. `history`: prompt and new ids of each row."""
    if spec.temperature == 0:
        return np.argmax(logits_BV, axis=-1)
    kept_BV = seams.sampling.keep_likely(logits_BV / np.float32(spec.temperature), spec)
    return seams.sampling.draw(softmax(kept_BV), rng)


def draw(probabilities_BV: Array, rng: np.random.Generator) -> Array:
    """ids_B by inverting each row's cumulative distribution at a random number of its own."""
    return invert(probabilities_BV, rng.random((len(probabilities_BV), 1)))


def invert(probabilities_BV: Array, u_B1: Array) -> Array:
    cumulative_BV = np.cumsum(probabilities_BV, axis=-1, dtype=np.float64)
    return (cumulative_BV <= u_B1 * cumulative_BV[:, -1:]).sum(axis=-1)


def keep_likely(logits_BV: Array, spec: GenerationSpec) -> Array:
    """-inf outside the `top_k` most likely tokens and outside the smallest set of them that holds `top_p` of the probability."""
    order_BV = np.argsort(-logits_BV, axis=-1, kind="stable")
    ranked_BV = np.take_along_axis(logits_BV, order_BV, axis=-1)
    if spec.top_k:
        ranked_BV[:, spec.top_k :] = -np.inf
    ranked_BV = np.where(within(softmax(ranked_BV), spec.top_p), ranked_BV, -np.inf)
    kept_BV = np.empty_like(logits_BV)
    np.put_along_axis(kept_BV, order_BV, ranked_BV, axis=-1)
    return kept_BV


def within(ranked_BV: Array, top_p: float) -> Array:
    """Which of the falling probabilities belong to the smallest set that holds `top_p`; always the first. All of them at 1."""
    if top_p == 1:
        return np.ones(ranked_BV.shape, bool)
    before_BV = np.cumsum(ranked_BV, axis=-1, dtype=np.float64) - ranked_BV
    return (before_BV < top_p) | (np.arange(ranked_BV.shape[1]) == 0)


def stop_ids(config: ModelConfig, spec: GenerationSpec) -> frozenset[int]:
    return frozenset(config.eos_token_ids if spec.eos_token_ids is None else spec.eos_token_ids)


def ended(ids_B: Array, history: Sequence[list[int]], stop: frozenset[int], before_B: Array) -> Array:
    """ended_B after these ids: a row ends on its own, at any id of `stop` that it generated. `before_B`: which had ended before."""
    return before_B | np.isin(ids_B, list(stop))
