"""Medians with their intervals: one with a distribution-free interval, and the ratio of two with a bootstrap interval, of samples that are
not paired, so that a machine's drift counts as a change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import median

import numpy as np

CONFIDENCE, RESAMPLES = 0.95, 4000
SMALLEST = 6  # 1 - 2 * 0.5^5 = 0.9375 < 0.95 <= 1 - 2 * 0.5^6
FEWEST = 6  # rounds; below, even the median alone has no 95 % interval


def median_interval(samples: Sequence[float]) -> tuple[float, float | None, float | None]:
    """(median, low, high): [x_(r), x_(n+1-r)] covers the population's median with probability 1 - 2 P(Bin(n, 1/2) < r), the largest r for
    which that is at least CONFIDENCE; valid for any continuous distribution of independent samples. Under SMALLEST samples there is none:
    None, None. Source: David and Nagaraja, Order Statistics, 7.1."""
    ordered = sorted(samples)
    rank = _rank(len(ordered))
    if rank == 0:
        return median(ordered), None, None
    return median(ordered), ordered[rank - 1], ordered[-rank]


def _rank(count: int) -> int:
    rank, tail = 0, 0.0
    while True:
        tail += math.comb(count, rank) / 2**count  # P(Bin <= rank) = P(Bin < rank + 1)
        if 2 * tail > 1 - CONFIDENCE:
            return rank
        rank += 1


@dataclass(frozen=True)
class Ratio:
    """Time of the run over time of the base: above 1 is slower."""

    value: float
    low: float
    high: float


def ratio_of_medians(base: Sequence[float], run: Sequence[float], name: str) -> Ratio:
    """Percentile bootstrap over rounds, each side resampled by itself (Efron and Tibshirani, An Introduction to the Bootstrap, 13.3). The
    seed follows from `name`: the same records give the same interval, whatever else is compared."""
    rng = np.random.default_rng(int.from_bytes(sha256(name.encode()).digest()[:8], "big"))
    ratios = _medians(rng, run) / _medians(rng, base)
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(float(np.median(run) / np.median(base)), float(low), float(high))


def verdict(ratio: Ratio, margin: float) -> str:
    """equivalent: the interval lies within the margin; slower, faster: it excludes 1 and the ratio exceeds the margin; else
    inconclusive. `margin`: 0.05 allows 1/1.05 to 1.05."""
    least, most = 1 / (1 + margin), 1 + margin
    if least <= ratio.low and ratio.high <= most:
        return "equivalent"
    if ratio.low > 1 and ratio.value > most:
        return "slower"
    return "faster" if ratio.high < 1 and ratio.value < least else "inconclusive"


def _medians(rng: np.random.Generator, samples: Sequence[float]) -> np.ndarray:
    values = np.asarray(samples, np.float64)
    return np.asarray(np.median(rng.choice(values, (RESAMPLES, len(values))), axis=1))
