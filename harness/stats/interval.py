"""A median and its distribution-free confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

CONFIDENCE = 0.95
SMALLEST = 6  # 1 - 2 * 0.5^5 = 0.9375 < 0.95 <= 1 - 2 * 0.5^6


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
