"""The parts of a layer in float64: causal grouped-query attention over one unpadded sequence, expert and dense feed-forward.

Legend: S sequence, H heads, N key/value heads, P head size, T tokens, K top-k, E experts, D hidden, F expert FFN.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import expit

from moe_harness.implementations.interface import ModelConfig

Weights = Mapping[str, np.ndarray]


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and Sennrich 2019)."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotate(x_SHP: np.ndarray, theta: float) -> np.ndarray:
    """Rotary embedding at positions 0..S-1, dimension p paired with p + P/2 (Su et al. 2021; halves layout of GPT-NeoX and HF)."""
    half = x_SHP.shape[-1] // 2
    angles = np.arange(x_SHP.shape[0])[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    first, second = x_SHP[..., :half], x_SHP[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def visible(length: int, window: int | None) -> np.ndarray:
    """Boolean (S, S): query row q sees key column k iff q - window < k <= q."""
    q, k = np.arange(length)[:, None], np.arange(length)[None, :]
    return (k <= q) & (k > q - (window or length))


def attention(x_SD: np.ndarray, weights: Weights, config: ModelConfig) -> np.ndarray:
    """Attention output (S, D) of normed hidden states. `weights`: one layer's `attention.*` tensors by their last name parts."""
    q, k, v = (_project(x_SD, weights, part, config) for part in "qkv")
    if config.qk_norm != "none":
        q, k = _qk_norm(q, weights["q_norm.weight"], config), _qk_norm(k, weights["k_norm.weight"], config)
    q, k = rotate(q, config.rope_theta), rotate(k, config.rope_theta)
    group = config.num_attention_heads // config.num_key_value_heads
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    q_HSP, k_HSP, v_HSP = (x.transpose(1, 0, 2) for x in (q, k, v))
    raw_HSS = q_HSP @ k_HSP.transpose(0, 2, 1) / np.sqrt(config.head_dim)
    raw_HSS = np.where(visible(len(x_SD), config.sliding_window), raw_HSS, -np.inf)
    probabilities = np.exp(raw_HSS - raw_HSS.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    return _linear((probabilities @ v_HSP).transpose(1, 0, 2).reshape(len(x_SD), -1), weights, "o")


def _project(x_SD: np.ndarray, weights: Weights, part: str, config: ModelConfig) -> np.ndarray:
    return _linear(x_SD, weights, part).reshape(len(x_SD), -1, config.head_dim)


def _qk_norm(x_SHP: np.ndarray, weight: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Over each head (Qwen3), or over all heads as one vector (OLMoE, before the split into heads)."""
    x = x_SHP.reshape(len(x_SHP), -1) if config.qk_norm == "projection" else x_SHP
    return rms_norm(x, weight, config.rms_norm_eps).reshape(x_SHP.shape)


def _linear(x: np.ndarray, weights: Weights, part: str) -> np.ndarray:
    y = x @ weights[f"{part}.weight"].T
    return y + weights[f"{part}.bias"] if f"{part}.bias" in weights else y


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x), without overflow for large negative x."""
    return x * expit(x)


def swiglu(x_TD: np.ndarray, gate_up_2FD: np.ndarray, down_DF: np.ndarray) -> np.ndarray:
    """SwiGLU (Shazeer 2020): down(silu(gate x) * (up x)), shape (T, D). Gate is the first half of the rows."""
    gate, up = np.split(x_TD @ gate_up_2FD.T, 2, axis=-1)
    return (silu(gate) * up) @ down_DF.T


def moe(x_TD: np.ndarray, ids_TK: np.ndarray, weights_TK: np.ndarray, gate_up_E2FD: np.ndarray, down_EDF: np.ndarray) -> np.ndarray:
    """Sum over the K experts of weight * expert(x), shape (T, D), one expert at a time."""
    y_TD = np.zeros_like(x_TD)
    for e in np.unique(ids_TK):
        token, slot = np.nonzero(ids_TK == e)
        out = swiglu(x_TD[token], gate_up_E2FD[e].astype(np.float64), down_EDF[e].astype(np.float64))
        np.add.at(y_TD, token, weights_TK[token, slot, None] * out)
    return y_TD
