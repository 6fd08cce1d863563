"""Warm-up: how many rounds come before the steady state, found by change-points.

The rule is that of Barrett et al., "Virtual Machine Warmup Blows Hot and Cold" (OOPSLA 2017): the steady state begins at the last
change-point of the series. Change-points are those of binary segmentation of the log times by least squares, each paying Yao's penalty
(Yao 1988, "Estimating the number of change-points via Schwarz' criterion"): variance times log n for each of its two parameters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moe_harness.bench.clock import Arm

SMALLEST_SHIFT = 0.02  # of the level: a smaller change is no warm-up worth waiting for
PENALTY = 6.0  # times variance times log n; Yao's is 2 for normal noise of known variance, ours is estimated and heavy-tailed
TAIL = 10  # rounds without a change that make a steady state
CHUNK, CHUNK_S = 15, 0.1  # rounds and seconds before the series is looked at again
MOST_ROUNDS, MOST_S = 400, 5.0


@dataclass(frozen=True)
class WarmUp:
    """`seconds`: of all rounds taken. `rounds`: how many came before the steady state; all of them where none was reached. `cost`: seconds
    that a round takes in the mean, preparation and interruptions included; `typical`: the median, without."""

    seconds: tuple[float, ...]
    rounds: int
    steady: bool
    cost: float
    typical: float


def warm_up(arm: Arm) -> WarmUp:
    """Takes rounds until the last TAIL or more of them show no change, or until MOST_ROUNDS or MOST_S."""
    seconds: list[float] = []
    began = time.perf_counter()
    while True:
        seconds += _chunk(arm.time, began + MOST_S)
        start, spent = steady_from(seconds), time.perf_counter() - began
        steady = len(seconds) - start >= TAIL
        if steady or len(seconds) >= MOST_ROUNDS or spent >= MOST_S:
            tail = seconds[start:] if steady else seconds[-TAIL:]
            return WarmUp(
                tuple(seconds), start if steady else len(seconds), steady, spent / len(seconds), arm.repeats * float(np.median(tail))
            )


def _chunk(time_round: Callable[[], float], end: float) -> list[float]:
    """CHUNK rounds, more where they are short, fewer where the clock's `end` comes first."""
    taken: list[float] = []
    while len(taken) < CHUNK or (sum(taken) < CHUNK_S and len(taken) < MOST_ROUNDS // 4):
        taken.append(time_round())
        if time.perf_counter() >= end:
            break
    return taken


def steady_from(seconds: list[float]) -> int:
    """Index of the first round after the last change-point; 0 where there is none."""
    times = np.asarray(seconds, float)
    levels, noise, start = np.log(_without_spikes(times)), _noise(np.log(times)), 0
    while (cut := _change(levels[start:], noise)) is not None:
        start += cut
    return start


def _without_spikes(seconds: np.ndarray) -> np.ndarray:
    """The smaller of each round and its successor: one interrupted round is no change of level."""
    return np.minimum(seconds, np.append(seconds[1:], seconds[-1:]))


def _noise(logs: np.ndarray) -> float:
    """Variance of a round, from the differences of neighbours: a step or a slope is no noise. Median-based, so that spikes are none
    either."""
    if len(logs) < 3:
        return 0.0
    return float((1.4826 * np.median(np.abs(np.diff(logs)))) ** 2 / 2)


def _change(levels: np.ndarray, noise: float) -> int | None:
    """The best split by least squares, if it pays its penalty and the levels differ by enough to matter. The last slow round, which took
    the value of the fast one behind it, goes with the slow ones."""
    n = len(levels)
    if n < 3:
        return None
    left = np.arange(1, n)
    sums = np.cumsum(levels)
    before, after = sums[:-1] / left, (sums[-1] - sums[:-1]) / (n - left)
    gain = left * (n - left) / n * (before - after) ** 2  # how much the sum of squares falls
    best = int(np.argmax(gain))
    faster = float(before[best] - after[best])
    if abs(faster) <= np.log1p(SMALLEST_SHIFT) or gain[best] <= PENALTY * noise * np.log(n):
        return None
    return int(left[best]) + (faster > 0)
