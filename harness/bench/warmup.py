"""Warm-up: how many rounds come before the steady state, found by change-points.

The rule is that of Barrett et al., "Virtual Machine Warmup Blows Hot and Cold" (OOPSLA 2017): the steady state begins at the last
change-point of the series. Change-points are those of binary segmentation of the log times by least squares, each paying Yao's penalty
(Yao 1988, "Estimating the number of change-points via Schwarz' criterion"): variance times log n for each of its two parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMALLEST_SHIFT = 0.02  # of the level: a smaller change is no warm-up worth waiting for
PENALTY = 4.0  # times variance times log n; Yao's is 2 for normal noise of known variance, ours is estimated and heavy-tailed
TAIL = 10  # rounds without a change that make a steady state
CHUNK, CHUNK_S = 15, 0.1  # rounds and seconds before the series is looked at again
MOST_ROUNDS, MOST_S = 400, 8.0


@dataclass(frozen=True)
class WarmUp:
    """`seconds`: of all rounds taken. `rounds`: how many came before the steady state; all of them where none was reached."""

    seconds: tuple[float, ...]
    rounds: int
    steady: bool

    @property
    def level(self) -> float:
        """Median seconds of the steady rounds; where there are none, of the last ones."""
        return float(np.median(self.seconds[self.rounds :] or self.seconds[-TAIL:]))


def warm_up(time_round: Callable[[], float]) -> WarmUp:
    """Takes rounds until the last TAIL or more of them show no change, or until MOST_ROUNDS or MOST_S."""
    seconds: list[float] = []
    while True:
        seconds += _chunk(time_round)
        start = steady_from(seconds)
        if len(seconds) - start >= TAIL:
            return WarmUp(tuple(seconds), start, True)
        if len(seconds) >= MOST_ROUNDS or sum(seconds) >= MOST_S:
            return WarmUp(tuple(seconds), len(seconds), False)


def _chunk(time_round: Callable[[], float]) -> list[float]:
    taken: list[float] = []
    while len(taken) < CHUNK or (sum(taken) < CHUNK_S and len(taken) < MOST_ROUNDS // 4):
        taken.append(time_round())
        if sum(taken) >= MOST_S:
            break
    return taken


def steady_from(seconds: list[float]) -> int:
    """Index of the first round after the last change-point; 0 where there is none."""
    levels = np.log(_without_spikes(np.asarray(seconds, float)))
    start, noise = 0, _noise(levels)
    while (cut := _change(levels[start:], noise)) is not None:
        start += cut
    return start


def _without_spikes(seconds: np.ndarray) -> np.ndarray:
    """The smaller of each round and its successor: one interrupted round is no change of level."""
    return np.minimum(seconds, np.append(seconds[1:], seconds[-1:]))


def _noise(levels: np.ndarray) -> float:
    """Variance, from the differences of neighbours: a step or a slope is no noise. Median-based, so that spikes are none either."""
    if len(levels) < 3:
        return 0.0
    return float((1.4826 * np.median(np.abs(np.diff(levels)))) ** 2 / 2)


def _change(levels: np.ndarray, noise: float) -> int | None:
    """The best split by least squares, if it pays its penalty and the levels differ by enough to matter."""
    n = len(levels)
    if n < 3:
        return None
    left = np.arange(1, n)
    sums = np.cumsum(levels)
    before, after = sums[:-1] / left, (sums[-1] - sums[:-1]) / (n - left)
    gain = left * (n - left) / n * (before - after) ** 2  # how much the sum of squares falls
    best = int(np.argmax(gain))
    matters = abs(before[best] - after[best]) > np.log1p(SMALLEST_SHIFT)
    return int(left[best]) if matters and gain[best] > PENALTY * noise * np.log(n) else None
