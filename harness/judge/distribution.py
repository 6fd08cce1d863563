"""Do counts follow probabilities?"""

from __future__ import annotations

import numpy as np
from scipy import stats

LEAST_EXPECTED = 5.0  # per bin, for the chi-square distribution to hold (Cochran 1954)


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """p-value of `observed` counts under the `expected` probabilities (Pearson). Bins too rare to test go together into one; what cannot
    occur is left out."""
    counts = expected * observed.sum()
    common, rare = counts >= LEAST_EXPECTED, (counts < LEAST_EXPECTED) & (counts > 0)
    pairs = list(zip(observed[common], counts[common], strict=True))
    if rare.any():
        pairs.append((observed[rare].sum(), counts[rare].sum()))
    if len(pairs) < 2:
        return 1.0
    statistic = sum((o - e) ** 2 / e for o, e in pairs)
    return float(stats.chi2.sf(statistic, len(pairs) - 1))
