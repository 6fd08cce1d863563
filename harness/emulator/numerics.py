"""Arithmetic of the subject: float32 throughout, rounded to the load dtype after each operation. Nothing here is shared with the oracle.

ml_dtypes' own matmul returns unrounded float32, so low precision is emulated: compute in float32, then round explicitly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

Array = np.ndarray
STORAGE = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16), "float32": np.dtype(np.float32)}
# A masked score. Finite, so that a row that sees no key stays finite; exp(MASKED - max) is exactly 0 beside any real score.
MASKED = np.float32(-3.0e38)


@dataclass(frozen=True)
class Rounding:
    """Rounds float32 arrays to the nearest value of `dtype` and returns them as float32."""

    dtype: str

    def __call__(self, x: Array) -> Array:
        x = np.asarray(x, np.float32)
        return x if self.dtype == "float32" else x.astype(STORAGE[self.dtype]).astype(np.float32)


Linear = Callable[[Array, Array, Array | None, Rounding], Array]


def linear(x: Array, weight_OI: Array, bias_O: Array | None, rounding: Rounding) -> Array:
    """x (..., I) times the transposed weight, plus the bias, accumulated in float32 and rounded once."""
    y = x @ weight_OI.T
    return rounding(y if bias_O is None else y + bias_O)


def rms_norm(x: Array, weight: Array, eps: float, rounding: Rounding) -> Array:
    """Over the last axis, in float32; rounded before and after the multiplication with the weight."""
    inverse = 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps))
    return rounding(rounding(x * inverse) * weight)


def softmax(x: Array) -> Array:
    """Over the last axis, in float32, not rounded."""
    if x.shape[-1] == 0:
        return x
    shifted = x - x.max(axis=-1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def sigmoid(x: Array) -> Array:
    return np.float32(1.0) / (np.float32(1.0) + np.exp(-x))


def silu(x: Array) -> Array:
    return x / (1.0 + np.exp(-x))
