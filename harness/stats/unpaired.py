"""The ratio of two medians with a bootstrap interval: of samples that are not paired, so that a machine's drift counts as a change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

CONFIDENCE, RESAMPLES = 0.95, 4000
FEWEST = 6  # rounds; below, even the median alone has no 95 % interval


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
