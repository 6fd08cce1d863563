"""The honest attention of the subject: positions, RoPE, QK norm, masks and grouped-query attention over the cache. Packed sequences lie
several in one row, each from position 0, none seeing another.

Legend beyond the interface's: Q queries of this call, M cache slots in use.
"""

from __future__ import annotations

import numpy as np

from moe_harness.emulator.numerics import MASKED, Array, Rounding, rms_norm, softmax
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import KeyView, Tables
from moe_harness.implementations.interface import ModelConfig


def valid_tokens(lengths_B: Array, S: int, padding: str) -> Array:
    """valid_BS: False at pads."""
    slots_S = np.arange(S)[None, :]
    return slots_S < lengths_B[:, None] if padding == "right" else slots_S >= S - lengths_B[:, None]


def prefill_positions(valid_BS: Array, start_B: Array, used: int) -> Array:
    """positions_BS: each row counts its own valid tokens on from `start_B`, however many slots were `used`; pads repeat a neighbour's."""
    return start_B[:, None] + np.maximum(np.cumsum(valid_BS, axis=1) - 1, 0)


def decode_positions(start_B: Array, used: int) -> Array:
    """positions_B1 of the next token of each row."""
    return start_B[:, None]


def rope_tables(positions_BS: Array, config: ModelConfig, rounding: Rounding) -> Tables:
    """(cos, sin), each (B, S, P/2); angles in float32, tables in the model's dtype. Source: Su et al. 2021, as transformers rounds it."""
    P = config.head_dim
    inverse = np.float32(1.0) / np.float32(config.rope_theta) ** (np.arange(0, P, 2, dtype=np.float32) / np.float32(P))
    angles = positions_BS[..., None].astype(np.float32) * inverse
    return rounding(np.cos(angles)), rounding(np.sin(angles))


def rotate(x_BSHP: Array, tables: Tables, rounding: Rounding) -> Array:
    """Rotates the pairs (i, i + P/2): the layout of HF checkpoints."""
    half = x_BSHP.shape[-1] // 2
    cos, sin = (table[:, :, None, :] for table in tables)
    low, high = x_BSHP[..., :half], x_BSHP[..., half:]
    turned_low = rounding(rounding(low * cos) + rounding(-high * sin))
    turned_high = rounding(rounding(high * cos) + rounding(low * sin))
    return np.concatenate([turned_low, turned_high], axis=-1)


def qk_norm(x_BSHP: Array, weight: Array, eps: float, rounding: Rounding) -> Array:
    """Each head on its own; all heads as one vector where the weight spans them (OLMoE)."""
    if len(weight) == x_BSHP.shape[-1]:
        return rms_norm(x_BSHP, weight, eps, rounding)
    return rms_norm(x_BSHP.reshape(*x_BSHP.shape[:2], -1), weight, eps, rounding).reshape(x_BSHP.shape)


def position_heads(x_BSHP: Array, norm_P: Array | None, eps: float, tables: Tables, rounding: Rounding, seams: Seams) -> Array:
    """Query or key heads ready for scores: QK norm where the family has one, then RoPE."""
    if norm_P is not None:
        x_BSHP = seams.attention.qk_norm(x_BSHP, norm_P, eps, rounding)
    return seams.attention.rotate(x_BSHP, tables, rounding)


def visible_keys(view: KeyView) -> Array:
    """mask_BQM: causal, within the window, within the packed sequence, no pads."""
    distance_BQM = view.query_BQ[:, :, None] - view.key_BM[:, None, :]
    same_BQM = view.segment_BQ[:, :, None] == view.key_segment_BM[:, None, :]
    mask_BQM = (distance_BQM >= 0) & view.valid_BM[:, None, :] & same_BQM
    return mask_BQM if view.window is None else mask_BQM & (distance_BQM < view.window)


def attention_scale(config: ModelConfig) -> float:
    return float(config.head_dim) ** -0.5


def repeat_kv(x_BNMP: Array, groups: int) -> Array:
    """x_BHMP: query heads n*groups .. (n+1)*groups - 1 share key/value head n."""
    return np.repeat(x_BNMP, groups, axis=1)


def attend(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
    """Context (B, H, Q, P). Scores rounded, softmax in float32, probabilities rounded (transformers' eager attention)."""
    scores = rounding(q_BHQP @ k_BHMP.swapaxes(-1, -2))
    scores = rounding(np.multiply(scores, np.float32(scale), out=scores))
    np.copyto(scores, MASKED, where=~mask_BQM[:, None])
    return rounding(rounding(softmax(scores)) @ v_BHMP)


def segments(cu_seqlens: Array) -> Array:
    """Number_T of the sequence that each token belongs to."""
    return np.repeat(np.arange(len(cu_seqlens) - 1), np.diff(cu_seqlens))


def packed_positions(cu_seqlens: Array) -> Array:
    """Position_T of each token in its own sequence."""
    return np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))


def packed_last(cu_seqlens: Array) -> Array:
    """Index of each sequence's last token."""
    return cu_seqlens[1:] - 1
