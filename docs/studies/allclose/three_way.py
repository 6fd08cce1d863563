"""Rules that hold a candidate's error against that of a reference implementation in the same dtype, both measured from float64.

Each gives measured / allowed: above 1 the candidate fails.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allclose.evidence import Evidence
from allclose.two_way import allclose, worst

SAME_MULTIPLIER = {"float32": 2.0, "bfloat16": 3.0, "float16": 3.0}
OVERLAP, LARGEST_RATIO, RMS_RATIO = 0.99, 5.0, 3.0  # of the module test: all inputs together; worst input, largest error and RMS
BINS = 100


def same(given: Evidence, tolerance: float) -> float:
    """allclose to the reference implementation at `tolerance`, or RMSE(candidate) <= m * RMSE(reference) + tolerance / 10."""
    pooled = given.pooled
    allowed = SAME_MULTIPLIER[given.dtype] * _rms(pooled.same_dtype - pooled.exact) + tolerance / 10
    close = allclose(pooled.observed, pooled.same_dtype, tolerance)
    return min(close, worst(_rms(pooled.observed - pooled.exact) / allowed))


def rms_ratio(given: Evidence, limit: float) -> float:
    """RMSE(candidate) <= limit * RMSE(reference), over everything."""
    return _ratio(*_errors(given.pooled.observed, given.pooled.same_dtype, given.pooled.exact), _rms) / limit


def module_test(given: Evidence) -> float:
    """The two distributions of errors overlap by OVERLAP (Bhattacharyya's coefficient), or the candidate's RMS error is no larger; and
    no single input's largest error exceeds the reference's LARGEST_RATIO times, nor its RMS error RMS_RATIO times. An input is a row."""
    candidate, base = _errors(given.pooled.observed, given.pooled.same_dtype, given.pooled.exact)
    gate = min((1.0 - overlap(candidate, base)) / (1.0 - OVERLAP), _ratio(candidate, base, _rms))
    inputs = [_errors(*row) for row in zip(given.observed, given.same_dtype, given.exact, strict=True)]
    largest = max(_ratio(*errors, _largest) for errors in inputs) / LARGEST_RATIO
    return worst(np.array([gate, largest, max(_ratio(*errors, _rms) for errors in inputs) / RMS_RATIO]))


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Bhattacharyya's coefficient of two samples, by histograms of BINS equal bins over the range of both: 1 for equal distributions."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    low, high = float(min(a.min(), b.min())), float(max(a.max(), b.max()))
    if low == high:
        return 1.0
    shares = [np.histogram(sample, BINS, (low, high))[0] / sample.size for sample in (a, b)]
    return float(np.sum(np.sqrt(shares[0] * shares[1])))


def _errors(observed: np.ndarray, same_dtype: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return observed - exact, same_dtype - exact


def _ratio(candidate: np.ndarray, base: np.ndarray, size: Callable[[np.ndarray], float]) -> float:
    found, allowed = size(candidate), size(base)
    return worst(found / allowed) if allowed else (np.inf if found else 0.0)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(x)))
