"""Quantiles of timings with order-statistic confidence intervals: no assumption about the distribution.

Of n independent samples the number below the q-quantile is binomial (n, q); so the interval between two order statistics holds the
quantile with a probability that only n and q decide (David and Nagaraja, Order Statistics, 7.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
SHOWN = (0.5, 0.9, 0.99)


def interval(samples: Sequence[float], q: float, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """(low, high) order statistics that hold the q-quantile with at least this confidence, each side missing it with at most half of the
    rest. None where n is too small for that."""
    ordered, n, tail = np.sort(samples), len(samples), (1 - confidence) / 2
    below = stats.binom.cdf(np.arange(n), n, q)  # below[i]: that at most i samples lie under the quantile
    low = int(np.sum(below <= tail)) - 1
    high = int(np.sum(below < 1 - tail))
    return (float(ordered[low]), float(ordered[high])) if low >= 0 and high < n else None


def needed(q: float, confidence: float = CONFIDENCE) -> int:
    """Samples of which the largest is above the q-quantile with this confidence (one-sided): 299 for p99 at 95 %."""
    return math.ceil(math.log(1 - confidence) / math.log(q))


def percentile(samples: Sequence[float], q: float, confidence: float = CONFIDENCE) -> dict[str, Any]:
    """{value, low, high}, the interval None where n is too small; {reason} instead of a number where even an upper bound is out of
    reach."""
    if len(samples) < needed(q, confidence):
        return {"reason": f"p{100 * q:g} needs {needed(q, confidence)} rounds, there are {len(samples)}"}
    low, high = interval(samples, q, confidence) or (None, None)
    return {"value": float(np.quantile(samples, q)), "low": low, "high": high}


def percentiles(samples: Sequence[float]) -> dict[str, dict[str, Any]]:
    """{"p50": ..., "p90": ..., "p99": ...} in the samples' unit."""
    return {f"p{100 * q:g}": percentile(samples, q) for q in SHOWN}
