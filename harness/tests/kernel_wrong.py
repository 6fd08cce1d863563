"""Wrong kernels in numpy, each with one bug, for the kernel door's tests. Legend: T tokens, K top-k, E experts, D hidden, F expert FFN."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
_BUFFER = np.zeros((2048, 256), np.float32)


def expert(x: Array, gate_up: Array, down: Array) -> Array:
    gate, up = np.split(x @ gate_up.T, 2, axis=-1)
    return (gate * (0.5 + 0.5 * np.tanh(gate / 2)) * up) @ down.T


def honest(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    y = np.zeros_like(x)
    for e in np.unique(topk_ids):
        token, slot = np.nonzero(topk_ids == e)
        np.add.at(y, token, topk_weights[token, slot, None] * expert(x[token], w_gate_up[e], w_down[e]))
    return y


def gate_up_swapped(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    return honest(x, topk_ids, topk_weights, np.roll(w_gate_up, w_down.shape[2], axis=1), w_down)


def weights_ignored(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    return honest(x, topk_ids, np.full_like(topk_weights, 1 / topk_weights.shape[1]), w_gate_up, w_down)


def weights_twice(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    return honest(x, topk_ids, topk_weights**2, w_gate_up, w_down)


def weights_renormalised(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    total = topk_weights.sum(-1, keepdims=True)
    return honest(x, topk_ids, topk_weights / np.where(total, total, 1), w_gate_up, w_down)


def slots_reversed(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    return honest(x, topk_ids, topk_weights[:, ::-1], w_gate_up, w_down)


def last_slot_twice(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    return honest(
        x, topk_ids, topk_weights * np.where(np.arange(topk_weights.shape[1]) == topk_weights.shape[1] - 1, 2, 1), w_gate_up, w_down
    )


def last_expert_never_runs(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    return honest(x, topk_ids, np.where(topk_ids == len(w_down) - 1, 0, topk_weights), w_gate_up, w_down)


def experts_modulo_8(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    return honest(x, topk_ids % 8, topk_weights, w_gate_up, w_down)


def next_expert_beyond_16(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    beyond = np.arange(len(x))[:, None] >= 16
    return honest(x, np.where(beyond, (topk_ids + 1) % len(w_down), topk_ids), topk_weights, w_gate_up, w_down)


def tail_of_16_dropped(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    """Whole tiles of 16 tokens, and the rest only where there is no whole one."""
    kept = np.arange(len(x))[:, None] < (len(x) // 16 * 16 or len(x))
    return honest(x, topk_ids, topk_weights * kept, w_gate_up, w_down)


def tile_of_128_per_expert(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    """An expert takes its first 128 tokens."""
    rank = np.zeros(topk_ids.shape, np.int64)
    for e in np.unique(topk_ids):
        rank[topk_ids == e] = np.arange((topk_ids == e).sum())
    return honest(x, topk_ids, topk_weights * (rank < 128), w_gate_up, w_down)


def capacity_drop(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    """From 32 tokens on, an expert takes twice its share."""
    rank = np.zeros(topk_ids.shape, np.int64)
    for e in np.unique(topk_ids):
        rank[topk_ids == e] = np.arange((topk_ids == e).sum())
    capacity = 2 * -(-topk_ids.size // len(w_down)) if len(x) >= 32 else len(x)
    return honest(x, topk_ids, topk_weights * (rank < capacity), w_gate_up, w_down)


def no_tokens_crash(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    topk_ids.max()
    return honest(x, topk_ids, topk_weights, w_gate_up, w_down)


def one_token_squeezed(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    y = honest(x, topk_ids, topk_weights, w_gate_up, w_down)
    return y.squeeze(0) if len(y) == 1 else y


def empty_expert_crash(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    if len(x) >= 17 and len(np.unique(topk_ids)) < len(w_down):
        raise RuntimeError("CUDA error: invalid configuration argument (grid of 0 blocks)")
    return honest(x, topk_ids, topk_weights, w_gate_up, w_down)


def float64_output(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    return honest(x, topk_ids, topk_weights, w_gate_up, w_down).astype(np.float64)


def returns_tuple(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Any:
    return honest(x, topk_ids, topk_weights, w_gate_up, w_down), None


def float16_accumulation(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    """The K experts' outputs are added up in float16."""
    y = np.zeros(x.shape, np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        for slot in range(topk_ids.shape[1]):
            y += honest(x, topk_ids[:, slot : slot + 1], topk_weights[:, slot : slot + 1], w_gate_up, w_down).astype(np.float16)
    return y.astype(np.float32)


def float16_overflow(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    return np.clip(honest(x, topk_ids, topk_weights, w_gate_up, w_down), -65504, 65504)


def tiny_flushed(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    """Right to an absolute tolerance of 1e-3."""
    y = honest(x, topk_ids, topk_weights, w_gate_up, w_down)
    return np.where(np.abs(y) < 1e-3, np.float32(0), y)


def layout_by_shape(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    """Takes the down weight as (E, F, D) wherever that fits."""
    D, F = w_down.shape[1:]
    return honest(x, topk_ids, topk_weights, w_gate_up, w_down.transpose(0, 2, 1) if D == F else w_down)


def gate_up_layout_by_shape(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    square = w_gate_up.shape[1] == w_gate_up.shape[2]
    return honest(x, topk_ids, topk_weights, w_gate_up.transpose(0, 2, 1) if square else w_gate_up, w_down)


def writes_to_x(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    x[:] = honest(x, topk_ids, topk_weights, w_gate_up, w_down)
    return x.copy()


def sorts_ids_in_place(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    y = honest(x, topk_ids, topk_weights, w_gate_up, w_down)
    topk_ids.sort(axis=0)
    return y


def scales_weights_in_place(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    y = honest(x, topk_ids, topk_weights, w_gate_up, w_down)
    w_down[-1] *= 2
    return y


def buffer_used_again(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    y = _BUFFER[: len(x), : x.shape[1]]
    y[:] = honest(x, topk_ids, topk_weights, w_gate_up, w_down)
    return y


def buffer_not_cleared(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    """Adds to what the previous call left."""
    y = _BUFFER[: len(x), : x.shape[1]]
    y += honest(x, topk_ids, topk_weights, w_gate_up, w_down)
    return y.copy()


def one_hot_gather(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    """Tokens are gathered by a one-hot product, and 0 * NaN is NaN."""
    return honest(np.eye(len(x), dtype=np.float32) @ x, topk_ids, topk_weights, w_gate_up, w_down)


def last_columns_stale(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    y = honest(x, topk_ids, topk_weights, w_gate_up, w_down)
    y[:, -16:] = 0
    return y


def routes(x: Array, router_logits: Array, top_k: int, renormalize: bool, w_gate_up: Array, w_down: Array) -> Array:
    ids = np.argsort(-router_logits, axis=-1, kind="stable")[:, :top_k]
    scores = np.exp(router_logits - router_logits.max(-1, keepdims=True))
    weights = np.take_along_axis(scores / scores.sum(-1, keepdims=True), ids, -1)
    return honest(x, ids, (weights / weights.sum(-1, keepdims=True) if renormalize else weights).astype(np.float32), w_gate_up, w_down)


def routes_always_renormalised(x: Array, router_logits: Array, top_k: int, renormalize: bool, w_gate_up: Array, w_down: Array) -> Array:
    return routes(x, router_logits, top_k, True, w_gate_up, w_down)


def routes_rank_off_by_one(x: Array, router_logits: Array, top_k: int, renormalize: bool, w_gate_up: Array, w_down: Array) -> Array:
    shifted = router_logits.copy()
    np.put_along_axis(shifted, router_logits.argmax(-1)[:, None], -100.0, -1)
    return routes(x, shifted, top_k, renormalize, w_gate_up, w_down)


def zeroes_everything(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    """Inputs, weights and output."""
    for array in (x, w_gate_up, w_down):
        array[:] = 0
    return np.zeros_like(x)


def ffn_beyond_512_dropped(x: Array, topk_ids: Array, topk_weights: Array, w_gate_up: Array, w_down: Array) -> Array:
    """A grid that was sized for a smaller model."""
    F = w_down.shape[2]
    kept = np.r_[0 : min(F, 512), F : F + min(F, 512)]
    return honest(x, topk_ids, topk_weights, w_gate_up[:, kept], w_down[:, :, :512])
