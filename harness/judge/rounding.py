"""What rounding may do, from theory alone: no number here was measured. Higham 2002, chapters 2 and 3; Higham and Mary 2019 for errors that
grow as the square root of the number of terms."""

from __future__ import annotations

import math

import numpy as np

# u = eps / 2: the largest relative error of one rounding (Higham 2002, section 2.1).
UNIT_ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
SMALLEST_STEP = {"float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}  # between subnormal numbers


def weight_error(dtype: str) -> float:
    """Relative error of a combine weight computed from exact logits: rounding to `dtype` before and after an L1 normalisation in it, plus a
    float32 softmax whose exponents reach 64 (each exponent's rounding is a relative error of the result)."""
    return 4 * UNIT_ROUNDOFF[dtype] + 64 * UNIT_ROUNDOFF["float32"]


def weight_allowance(expected: np.ndarray, moved: np.ndarray, dtype: str) -> np.ndarray:
    """Relative allowance of a combine weight whose logits may move its log by `moved`: that, its own rounding, and a step of the
    dtype's smallest numbers, which float16 reaches at weights below 6e-5."""
    return np.expm1(moved) + weight_error(dtype) + SMALLEST_STEP[dtype] / expected


def router_rounding(dtype: str, hidden_size: int) -> float:
    """Relative error of a router logit in units of |x| @ |W|: one rounding to `dtype` and a float32 accumulation over `hidden_size` terms,
    whose errors grow like the square root of their number (Higham and Mary 2019)."""
    return UNIT_ROUNDOFF[dtype] + math.sqrt(hidden_size) * UNIT_ROUNDOFF["float32"]


def accumulation(*terms: int) -> float:
    """Relative error of consecutive float32 products over so many terms each."""
    return UNIT_ROUNDOFF["float32"] * sum(math.sqrt(count) for count in terms)
