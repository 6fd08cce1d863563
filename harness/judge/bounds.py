"""Interim bounds by dtype, each with its reason. They are to be replaced by floors measured over many honest variants.

The error bounds are two to four times the worst value seen over hf (eager, batched_mm, grouped_mm), native, the numpy subject and its
honest variants on the golden and the synthetic models (3 layers at most); docs/spec.md lists the values seen.
"""

from __future__ import annotations

import math

import numpy as np

# u = eps / 2: the largest relative error of one rounding (Higham 2002, section 2.1).
UNIT_ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
SMALLEST_STEP = {"float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}  # between subnormal numbers
# Relative RMS error of one MoE block on an input that is exactly representable: a few roundings.
BLOCK = {"float32": 1.2e-6, "bfloat16": 2e-2, "float16": 2.4e-3}
# How much worse than all together may one expert's tokens, one token of a block, one position of the logits be.
WORST_EXPERT, WORST_TOKEN, WORST_POSITION = 2.0, 5.0, 8.0
_LOGITS = {"float32": 2e-6, "bfloat16": 2e-2, "float16": 3.2e-3}
_ROUTER = {"float32": 1.6e-6, "bfloat16": 2.8e-2, "float16": 4e-3}
_KL = {"float32": 1e-11, "bfloat16": 8e-3, "float16": 4e-5}
_MEASURED_LAYERS, _UNMEASURED = 3, 3.0


def _leeway(layers: int, measured: bool) -> float:
    """Independent roundings of every layer add up as the square root of their number. On a checkpoint that was not measured, weights may
    amplify them more than the golden models' do (a random peaked Qwen3-MoE: 3.5 times)."""
    return math.sqrt(max(layers, _MEASURED_LAYERS) / _MEASURED_LAYERS) * (1.0 if measured else _UNMEASURED)


def logits(dtype: str, layers: int, measured: bool) -> float:
    """Relative RMS error of logits against the oracle with the candidate's routing pinned: smooth, so it grows with u and depth alone."""
    return _LOGITS[dtype] * _leeway(layers, measured)


def router(dtype: str, layers: int, measured: bool) -> float:
    """Error of router logits inside the model, in units of their own RMS: what hidden states accumulate before they reach the router."""
    return _ROUTER[dtype] * _leeway(layers, measured)


def kl(dtype: str, layers: int, measured: bool) -> float:
    """Mean KL divergence (nats) of free-running next-token distributions, expert flips included; quadratic in the logit error."""
    return _KL[dtype] * _leeway(layers, measured) ** 2


def weight_error(dtype: str) -> float:
    """Relative error of a combine weight computed from exact logits: rounding to `dtype` before and after an L1 normalisation in it, plus a
    float32 softmax whose exponents reach 64 (each exponent's rounding is a relative error of the result)."""
    return 4 * UNIT_ROUNDOFF[dtype] + 64 * UNIT_ROUNDOFF["float32"]


def weight_allowance(expected: np.ndarray, moved: np.ndarray, dtype: str) -> np.ndarray:
    """Relative allowance of a combine weight whose logits may move its log by `moved`: that, its own rounding, and a step of the
    dtype's smallest numbers, which float16 reaches at weights below 6e-5."""
    return np.expm1(moved) + weight_error(dtype) + SMALLEST_STEP[dtype] / expected
