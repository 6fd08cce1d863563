"""What honest arithmetic may do to a router's logits. Legend: T tokens, E experts, D hidden.

An honest router multiplies x with W, sums in float32 in any order, whole or in parts, and keeps the float32 sum or rounds it once to the
model's dtype. So do hf and native. A sum whose parts are rounded to bfloat16 (cuBLAS may, when it splits K and torch's
`allow_bf16_reduced_precision_reduction` is on) is a router in too low a precision here: near a logit of zero it is off by the rounding
of its parts, a thousand times the logit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.judge.bounds import SMALLEST_STEP, UNIT_ROUNDOFF

U32 = UNIT_ROUNDOFF["float32"]
# A float32 softmax subtracts the maximum, off by u32 |l - max l|, exponentiates (an ulp or two) and divides: relative errors of a score
# are absolute ones of its logit.
SOFTMAX_ROUNDINGS = 4.0


@dataclass(frozen=True)
class RouterNoise:
    """`accumulated_TE`: by how much a float32 sum may be off. `step_TE`: half the distance to the next value that the logit, or the score
    made of it, can take: two logits closer than both halves together may become equal, and then either is honestly first."""

    accumulated_TE: np.ndarray
    step_TE: np.ndarray

    @property
    def delta_TE(self) -> np.ndarray:
        """The margin certificate's allowance: how far a logit may be off."""
        return self.accumulated_TE + self.step_TE


def router_noise(x_TD: np.ndarray, w_ED: np.ndarray, logits_TE: np.ndarray, dtype: str) -> RouterNoise:
    """Of a router given `x_TD` (exact in `dtype`) and `w_ED` (as stored: it may be kept, or rounded once to `dtype`); `logits_TE`: the
    oracle's. Never of a candidate's logits.

    accumulated = sqrt(D) u32 |x||W|. Summed one by one, with products all of one sign, the worst order of the worst data, the error has
    a standard deviation of at most a third of that (rounding errors taken as independent, Higham and Mary 2019; sum i^2 ~ D^3/3, each
    uniform in +-u32 of a partial sum); random signs or sums by blocks make it many times smaller. Weights that `dtype` does not hold add
    |x| |W - rounded W|.
    step = half an ulp of `dtype` at the logit, and the resolution of a float32 softmax."""
    x_TD, w_ED = np.abs(x_TD.astype(np.float64)), w_ED.astype(np.float64)
    sums_TE, lost_ED = x_TD @ np.abs(w_ED).T, np.abs(w_ED - rounded(w_ED, dtype))
    accumulated_TE = np.sqrt(w_ED.shape[1]) * U32 * sums_TE
    if lost_ED.any():
        accumulated_TE = accumulated_TE + x_TD @ lost_ED.T
    return RouterNoise(accumulated_TE, half_step(np.abs(logits_TE) + accumulated_TE, dtype) + softmax_resolution(logits_TE))


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
