"""Outputs made from logits and routes: the honest choice of the next token and of where a row ends, the routing in the contract's arrays,
and the loss, mean cross entropy of the next token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moe_harness.emulator.numerics import Array, softmax
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import Routes
from moe_harness.implementations.interface import GenerationSpec, InvalidInput, ModelConfig, Routing, RoutingSpec, StepOutput, TopLogProbs


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


IGNORED = -100


def kept_labels(labels_BS: Array, valid_BS: Array) -> Array:
    """-100 where a label, or the token before it, is a pad: nothing was predicted there."""
    predicted_BS = np.pad(valid_BS[:, 1:] & valid_BS[:, :-1], ((0, 0), (1, 0)))
    return np.where(predicted_BS, labels_BS, IGNORED)


def targets(labels_BS: Array) -> Array:
    """target_BS of the logits at the same place: the label one to the right; nothing follows the last."""
    return np.concatenate([labels_BS[:, 1:], np.full_like(labels_BS[:, :1], IGNORED)], axis=1)


def mean_loss(logits_BSV: Array, targets_BS: Array, valid_BS: Array) -> float:
    """Nats per target that is not ignored. Raises InvalidInput where none is left."""
    counted_BS = targets_BS != IGNORED
    if not counted_BS.any():
        raise InvalidInput("labels_BS: no label is left to compare with")
    return float(token_losses(logits_BSV[counted_BS], targets_BS[counted_BS]).mean(dtype=np.float64))


def token_losses(logits_TV: Array, targets_T: Array) -> Array:
    """-log softmax at the target, per token, float32."""
    shifted_TV = logits_TV - logits_TV.max(axis=-1, keepdims=True)
    chosen_T = np.take_along_axis(shifted_TV, targets_T[:, None], axis=-1)[:, 0]
    return np.log(np.exp(shifted_TV).sum(axis=-1)) - chosen_T
