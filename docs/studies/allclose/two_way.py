"""Rules that hold a candidate directly against a reference. Each gives measured / allowed: above 1 the candidate fails; NaN is infinite.

Arrays are (tokens, columns), in float64.
"""

from __future__ import annotations

import numpy as np

from moe_harness.judge.distance import kl_divergence

# (k, relative tolerance) of the k most likely tokens, None: all; the absolute tolerance; what a differing first token may lead by.
TIERS: tuple[tuple[int | None, float], ...] = ((5, 0.01), (50, 0.02), (1000, 0.03), (None, 0.05))
TIER_ABSOLUTE, FLIP = 1e-5, 1e-3
TIER_ROUNDING = 0.005  # errors are rounded to two decimals before they are compared, so each tier allows half a hundredth more


def allclose(observed: np.ndarray, reference: np.ndarray, tolerance: float) -> float:
    """|observed - reference| <= tolerance + tolerance * |reference| everywhere: numpy's and torch's, with rtol = atol."""
    return worst(np.abs(observed - reference) / (tolerance + tolerance * np.abs(reference)))


def cosine(observed: np.ndarray, reference: np.ndarray, similarity: float) -> float:
    """Cosine of the angle between the flattened arrays at least `similarity`."""
    scale = float(np.linalg.norm(observed) * np.linalg.norm(reference))
    return worst((1.0 - np.sum(observed * reference) / scale) / (1.0 - similarity)) if scale else np.inf


def nmse(observed: np.ndarray, reference: np.ndarray, limit: float) -> float:
    """Squared error over the reference's own square, both summed over everything."""
    return worst(np.sum((observed - reference) ** 2) / np.sum(reference**2) / limit)


def max_kl(observed: np.ndarray, reference: np.ndarray, limit: float) -> float:
    """The largest KL(reference || observed), in nats, of any position's next-token distribution."""
    return worst(kl_divergence(reference, observed) / limit)


def tiers(observed: np.ndarray, reference: np.ndarray) -> float:
    """Position by position: a constant shift is removed by regression; then the errors of the k most likely tokens, relative to the largest
    of their logits, must stay within the tolerance of each k; and where the first token differs, the candidate may prefer its own to the
    expected one by less than FLIP. Logits that are -inf on either side are left out."""
    shown = ~(np.isneginf(observed) | np.isneginf(reference))
    observed, reference = np.where(shown, observed, 0.0), np.where(shown, reference, 0.0)
    shifted = observed - _shift(observed, reference, shown)[:, None]
    order = np.argsort(-np.where(shown, reference, -np.inf), axis=-1, kind="stable")
    expected, found, counted = (np.take_along_axis(a, order, axis=-1) for a in (reference, shifted, shown))
    return max(*(_tier(found, expected, counted, k, tolerance) for k, tolerance in TIERS), _flips(found, counted))


def _tier(found: np.ndarray, expected: np.ndarray, counted: np.ndarray, k: int | None, tolerance: float) -> float:
    found, expected, counted = found[:, :k], expected[:, :k], counted[:, :k]
    errors = np.where(counted, np.abs(found - expected) - TIER_ABSOLUTE, 0.0)
    return worst(errors / np.max(np.abs(expected), axis=-1, keepdims=True) / (tolerance + TIER_ROUNDING))


def _flips(found: np.ndarray, counted: np.ndarray) -> float:
    """Column 0 is the expected first token."""
    return worst((np.max(np.where(counted, found, -np.inf), axis=-1) - found[:, 0]) / FLIP)


def _shift(observed: np.ndarray, reference: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """The intercept of the least-squares line observed = slope * reference + shift of each position."""
    count = np.maximum(shown.sum(-1), 1)
    means = [a.sum(-1) / count for a in (observed, reference)]
    centred = [np.where(shown, a - m[:, None], 0.0) for a, m in zip((observed, reference), means, strict=True)]
    spread = np.sum(centred[1] ** 2, axis=-1)
    slope = np.where(spread > 0, np.sum(centred[0] * centred[1], axis=-1) / np.where(spread > 0, spread, 1.0), 0.0)
    return means[0] - slope * means[1]


def worst(ratios: np.ndarray | float) -> float:
    """The largest; NaN anywhere is infinite."""
    largest = float(np.max(ratios))
    return np.inf if np.isnan(largest) else largest
