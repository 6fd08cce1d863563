"""Scale-free distances between an observation and the oracle, in float64. Absolute tolerances say nothing: scales differ by decades. Of
counts: the chance that they follow given probabilities."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.special import log_softmax


def relative_rms(observed: np.ndarray, expected: np.ndarray) -> float:
    """RMS(observed - expected) / RMS(expected), over everything. 0 for empty arrays; infinite if an all-zero expectation is missed."""
    error, scale = _rms(observed - expected.astype(np.float64)), _rms(expected)
    return error / scale if scale else (0.0 if error == 0 else float("inf"))


def worst_row(observed: np.ndarray, expected: np.ndarray) -> float:
    """The largest row RMS error over the RMS of the whole expectation: one wrong token cannot hide in the mean."""
    if not observed.size:
        return 0.0
    rows = np.sqrt(np.mean((observed - expected.astype(np.float64)) ** 2, axis=-1))
    return float(np.max(rows) / _rms(expected))


def kl_divergence(expected_logits: np.ndarray, observed_logits: np.ndarray) -> np.ndarray:
    """KL(expected || observed) in nats for every row of logits (..., V)."""
    p, q = log_softmax(expected_logits.astype(np.float64), axis=-1), log_softmax(observed_logits.astype(np.float64), axis=-1)
    return np.sum(np.exp(p) * (p - q), axis=-1)


def top1_disagreement(expected_logits: np.ndarray, observed_logits: np.ndarray) -> float:
    """Share of rows whose most likely token differs."""
    return float(np.mean(expected_logits.argmax(-1) != observed_logits.argmax(-1)))


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if x.size else 0.0


LEAST_EXPECTED = 5.0  # per bin, for the chi-square distribution to hold (Cochran 1954)


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """p-value of `observed` counts under the `expected` probabilities (Pearson). Bins too rare to test go together into one, or, if that is
    still too rare, into the rarest of the others; what cannot occur is left out. 1.0 where one bin is all there is."""
    counts = expected * observed.sum()
    common, rare = counts >= LEAST_EXPECTED, (counts < LEAST_EXPECTED) & (counts > 0)
    pairs = sorted(zip(counts[common], observed[common], strict=True))
    rest = (counts[rare].sum(), observed[rare].sum())
    if rest[0] < LEAST_EXPECTED and pairs:
        pairs[0] = (pairs[0][0] + rest[0], pairs[0][1] + rest[1])
    elif rest[0] > 0:
        pairs.append(rest)
    if len(pairs) < 2:
        return 1.0
    statistic = sum((o - e) ** 2 / e for e, o in pairs)
    return float(stats.chi2.sf(statistic, len(pairs) - 1))
