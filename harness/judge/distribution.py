"""Do counts follow probabilities?"""

from __future__ import annotations

import numpy as np
from scipy import stats

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
