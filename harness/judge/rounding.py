"""What rounding may do, from theory alone: no number here was measured. Higham 2002, chapters 2 and 3; Higham and Mary 2019 for errors that
grow as the square root of the number of terms. Legend: T tokens, E experts, P experts of a pair, D hidden.

An honest router multiplies x with W, sums in float32 in any order, whole or in parts, and keeps the float32 sum or rounds it once to the
model's dtype. The parts of a split sum may be rounded to that dtype too: PyTorch lets cuBLAS do so by default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# u = eps / 2: the largest relative error of one rounding (Higham 2002, section 2.1).
UNIT_ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
SMALLEST_STEP = {"float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}  # between subnormal numbers

U32 = UNIT_ROUNDOFF["float32"]
# The standard deviation of a float32 sum's error in units of its allowance: at most that of terms added one by one, all of one sign, the
# worst order of the worst data. Rounding errors are independent and uniform in +-u of a partial sum i/D of the whole, and sum i^2 ~ D^3/3.
ACCUMULATION_DEVIATION = 1 / 3
# A float32 softmax subtracts the maximum, off by u32 |l - max l|, exponentiates (an ulp or two) and divides: relative errors of a score
# are absolute ones of its logit.
SOFTMAX_ROUNDINGS = 4.0
MOST_PARTS = 4  # into which K is split where the parts are rounded


def weight_error(dtype: str) -> float:
    """Relative error of a combine weight computed from exact logits: rounding to `dtype` before and after an L1 normalisation in it, plus a
    float32 softmax whose exponents reach 64 (each exponent's rounding is a relative error of the result)."""
    return 4 * UNIT_ROUNDOFF[dtype] + 64 * UNIT_ROUNDOFF["float32"]


def weight_allowance(expected: np.ndarray, moved: np.ndarray, dtype: str) -> np.ndarray:
    """Relative allowance of a combine weight whose logits may move its log by `moved`: that, its own rounding, and a step of the
    dtype's smallest numbers, which float16 reaches at weights below 6e-5."""
    return np.expm1(moved) + weight_error(dtype) + SMALLEST_STEP[dtype] / expected


def accumulation(*terms: int) -> float:
    """Relative error of consecutive float32 products over so many terms each."""
    return UNIT_ROUNDOFF["float32"] * sum(math.sqrt(count) for count in terms)


@dataclass(frozen=True)
class RouterNoise:
    """What honest arithmetic may do to router logits. `accumulated_TE`: by how much a float32 sum may be off. `parts_TE`: what rounding its
    parts may add. `step_TE`: half the distance to the next value that the logit, or the score made of it, can take."""

    accumulated_TE: np.ndarray
    parts_TE: np.ndarray
    step_TE: np.ndarray

    @property
    def delta_TE(self) -> np.ndarray:
        """The margin certificate's allowance: how far a logit may be off, at most."""
        return self.accumulated_TE + self.parts_TE + self.step_TE


def router_noise(x_TD: np.ndarray, w_ED: np.ndarray, logits_TE: np.ndarray, dtype: str) -> RouterNoise:
    """Of a router without a bias, given `x_TD` (exact in `dtype`) and `w_ED` (as stored: it may be kept, or rounded once to `dtype`);
    `logits_TE`: the oracle's. Never of a candidate's logits.

    accumulated = sqrt(D) u32 |x||W|, and |x| |W - rounded W| where `dtype` does not hold the weights. parts = u |x||W|: each part is
    rounded, and their magnitudes add up to no more. step = half an ulp at the logit, and the resolution of a float32 softmax."""
    x_TD, w_ED = np.abs(x_TD.astype(np.float64)), w_ED.astype(np.float64)
    sums_TE, lost_ED = x_TD @ np.abs(w_ED).T, np.abs(w_ED - rounded(w_ED, dtype))
    accumulated_TE = accumulation(w_ED.shape[1]) * sums_TE
    if lost_ED.any():
        accumulated_TE = accumulated_TE + x_TD @ lost_ED.T
    step_TE = half_step(np.abs(logits_TE) + accumulated_TE, dtype) + softmax_resolution(logits_TE)
    return RouterNoise(accumulated_TE, UNIT_ROUNDOFF[dtype] * sums_TE, step_TE)


def parts_deviation(x_TD: np.ndarray, w_TPD: np.ndarray, dtype: str) -> np.ndarray:
    """(T, P): the largest standard deviation of what rounding the parts of a split sum adds. K is cut in at most MOST_PARTS runs, none of
    which sums to more than the range of the running sum; each part's error is uniform within u of it."""
    running_TPD = np.cumsum(x_TD.astype(np.float64)[:, None] * w_TPD, axis=-1)
    range_TP = np.maximum(running_TPD.max(-1), 0) - np.minimum(running_TPD.min(-1), 0)
    return math.sqrt(MOST_PARTS / 3) * UNIT_ROUNDOFF[dtype] * range_TP


def softmax_resolution(logits_TE: np.ndarray) -> np.ndarray:
    """How far logits must be apart for a float32 softmax to tell them apart, half of it for each of two."""
    return U32 * (logits_TE.max(-1, keepdims=True, initial=-np.inf) - logits_TE + SOFTMAX_ROUNDINGS)


def half_step(values: np.ndarray, dtype: str) -> np.ndarray:
    """Half the distance between neighbouring values of `dtype` at `values`: the largest error of one rounding, |v| u / 2 to |v| u."""
    _, exponents = np.frexp(values)
    return np.maximum(np.ldexp(UNIT_ROUNDOFF[dtype], exponents - 1), SMALLEST_STEP[dtype] / 2)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 `values` to the nearest of `dtype`, ties to even (its largest number left aside)."""
    step = 2 * half_step(values, dtype)
    return step * np.rint(values / step)
