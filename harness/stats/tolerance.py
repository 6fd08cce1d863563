"""A tolerance limit on log-normal errors whose spread has several sources.

An error is what a kind of implementation (split-K, another order of summation, ...) makes of an input. Both vary: samples that share a kind
or a case are not independent, so the limit counts how many independent samples the data are worth.
Source: Howe 1969, Krishnamoorthy and Mathew 2009, section 4 (one-way random model); the approximation for two crossed sources is
validated by leaving kinds and cases out, and by honest runs that the floors have not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Spread:
    """Of log errors: mean, standard deviation of one new sample, number of independent samples that the mean is worth."""

    mean: float
    deviation: float
    independent: float

    def limit(self, exceeded: float, confidence: float) -> float:
        """The log error that a new sample exceeds with a probability of at most `exceeded`, with this confidence: mean + k * deviation, k
        from the noncentral t distribution. Both are shares of one."""
        n = max(self.independent, 2.0)
        k = stats.nct.ppf(confidence, n - 1, stats.norm.isf(exceeded) * np.sqrt(n)) / np.sqrt(n)
        return self.mean + float(k) * self.deviation


def spread(log_errors: np.ndarray, kinds: Sequence[str] | np.ndarray, cases: Sequence[str] | np.ndarray) -> Spread:
    """`kinds`, `cases`: the two sources of each sample."""
    mean, within = float(log_errors.mean()), float(log_errors.var(ddof=1))
    sources = [_between(log_errors, np.unique(labels, return_inverse=True)[1]) for labels in (kinds, cases)]
    within = max(within - sum(variance for variance, _ in sources), 0.1 * within)
    total = within + sum(variance for variance, _ in sources)
    of_mean = within / len(log_errors) + sum(variance / count for variance, count in sources)
    return Spread(mean, float(np.sqrt(total)), total / of_mean if of_mean else float(len(log_errors)))


def _between(values: np.ndarray, groups: np.ndarray) -> tuple[float, int]:
    """(variance of the groups' true means, number of groups): one-way analysis of variance by the method of moments."""
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        return 0.0, 1
    means = np.bincount(groups, values) / sizes
    inside = ((values - means[groups]) ** 2).sum() / max(len(values) - len(sizes), 1)
    among = (sizes * (means - values.mean()) ** 2).sum() / (len(sizes) - 1)
    typical = (len(values) - (sizes**2).sum() / len(values)) / (len(sizes) - 1)
    return float(max(among - inside, 0.0) / typical), len(sizes)
