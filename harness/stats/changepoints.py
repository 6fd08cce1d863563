"""Steps in a series of measurements: the L1 Potts functional, minimised exactly.

Minimise over piecewise constant fits: sum |x_i - fit_i| + penalty * (number of steps). The minimum of absolute errors makes outliers cheap,
and the dynamic programme over the last step's place is exact (Friedrich, Kempe, Liebscher, Winkler, Complexity penalized M-estimation,
J. Comput. Graph. Statist. 17, 2008; airspeed velocity finds regressions with the same functional). A level must hold for LEAST points, so
that one bad night is no step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 3
FEWEST = 8  # points; of fewer the noise is not known
_PENALTY = 12.0  # in units of the noise: at most 1 % of series without a step get one; see docs/history.md
_GAUSS = 0.6745 * 2**0.5  # median |difference of two| of a unit normal


@dataclass(frozen=True)
class Step:
    """From `index` on the level is `after` and no longer `before`."""

    index: int
    before: float
    after: float


def steps(values: Sequence[float] | np.ndarray) -> list[Step]:
    """Steps of a series in time order; none under FEWEST points."""
    x_N = np.asarray(values, np.float64)
    if len(x_N) < FEWEST:
        return []
    starts = [*potts(x_N, penalty(x_N)), len(x_N)]
    levels = [float(np.median(x_N[a:b])) for a, b in zip(starts, starts[1:], strict=False)]
    return [Step(start, old, new) for start, old, new in zip(starts[1:], levels, levels[1:], strict=False)]


def penalty(x_N: np.ndarray) -> float:
    """What a step must save. The noise is the median absolute difference of neighbours, which a few steps do not move."""
    noise = float(np.median(np.abs(np.diff(x_N)))) / _GAUSS
    return max(_PENALTY * noise, 1e-12 * float(np.abs(x_N).max()) + 1e-300)


def potts(x_N: np.ndarray, penalty: float) -> list[int]:
    """Starts of the segments of the exact minimiser, 0 included. Quadratic in the length, times sorting."""
    count, costs_NN = len(x_N), _costs(x_N)
    best, origin = np.full(count + 1, np.inf), np.zeros(count + 1, int)
    best[0] = -penalty
    for end in range(LEAST, count + 1):
        totals = best[: end - LEAST + 1] + costs_NN[: end - LEAST + 1, end - 1] + penalty
        origin[end] = int(np.argmin(totals))
        best[end] = totals[origin[end]]
    starts, end = [], count
    while end > 0:
        end = int(origin[end])
        starts.append(end)
    return starts[::-1]


def _costs(x_N: np.ndarray) -> np.ndarray:
    """[first, last] -> sum of absolute deviations from the median: of the sorted window, the upper half's sum less the lower half's."""
    count = len(x_N)
    costs_NN = np.zeros((count, count))
    for length in range(2, count + 1):
        sorted_WL = np.sort(np.lib.stride_tricks.sliding_window_view(x_N, length), axis=1)
        half = length // 2
        first = np.arange(count - length + 1)
        costs_NN[first, first + length - 1] = sorted_WL[:, -half:].sum(axis=1) - sorted_WL[:, :half].sum(axis=1)
    return costs_NN
