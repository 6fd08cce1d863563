"""The flip budget: flips that rounding excuses one by one must be as few, and as little to one expert's side, as rounding makes them.

Tests are one-sided. An honest router may flip less often than the largest honest noise does (it may not round at all), so a token's flip
has a probability between 0 and `probability_T`, and what is too many for the largest noise is too many for every smaller one: the tail of a
sum of independent Bernoulli variables (Poisson-binomial) grows with each probability. Legend: T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

FALSE_ALARM = 1e-4  # per test; -log10 of it is the bound
LIMIT = -float(np.log10(FALSE_ALARM))


@dataclass(frozen=True)
class Contest:
    """Tokens whose selection stands between two experts: `leader_T` is ahead of `chaser_T` in what the oracle ranks. `flipped_T`: the
    chaser was selected and the leader was not. `probability_T`: of that, at most, for an honest router whose ties all go to the chaser;
    `strict_T`: the same where they all stay with the leader."""

    leader_T: np.ndarray
    chaser_T: np.ndarray
    flipped_T: np.ndarray
    probability_T: np.ndarray
    strict_T: np.ndarray


@dataclass(frozen=True)
class Bias:
    """The expert with the least credible gain or loss, `contest` in what order it was given. `surprise`: -log10 of the p-value, corrected
    for all experts, both directions and all contests."""

    surprise: float
    expert: int
    contest: int
    gained: bool
    flips: int
    expected: float

    def __str__(self) -> str:
        what = "gains" if self.gained else "loses"
        return f"expert {self.expert} {what} {self.flips} tokens, where the largest honest noise gives {self.expected:.1f}"


def flip_probability(gap: np.ndarray, step: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The largest honest probability that rounding flips a lead of `gap`. `step`: half the grid's distance at both values, added;
    `deviation`: the largest standard deviation of the difference of their other errors, taken as normal.

    Rounded to a grid, two values become equal with probability 1 - gap / step where the grid lies anywhere with equal probability, and the
    worst tie rule flips them all. Other errors, which may be there or not, raise what the grid leaves of the lead, gap - step U > 0:
    P(deviation Z > gap - step U > 0) with U uniform, Z normal, is deviation / step times F(max(gap - step, 0) / deviation)
    - F(gap / deviation), F(t) = E max(Z - t, 0) = phi(t) - t Q(t). Where ties stay, a flip takes a lead of a whole step more."""
    deviation = np.maximum(deviation, 1e-9 * (step + gap) + 1e-300)
    step = np.maximum(step, 1e-6 * deviation)
    noise = deviation / step * (_excess(np.maximum(gap - step, 0.0) / deviation) - _excess(gap / deviation))
    return np.clip(np.maximum(1 - gap / step, 0.0) + noise, 0.0, 1.0)


def _excess(t: np.ndarray) -> np.ndarray:
    """E max(Z - t, 0) of a standard normal Z."""
    return np.exp(-0.5 * t * t) / np.sqrt(2 * np.pi) - t * ndtr(-t)


def upper_tail(probabilities: np.ndarray, count: int) -> float:
    """P(at least `count` of the independent events happen), exactly: the distribution grows by one event at a time. All terms are positive,
    so that small tails keep their relative accuracy; only the first `count` terms are held, and what reaches `count` stays there."""
    if count <= 0:
        return 1.0
    below, reached = np.zeros(count), 0.0
    below[0] = 1.0
    for p in probabilities:
        reached += below[-1] * p
        below[1:] += p * (below[:-1] - below[1:])
        below[0] *= 1 - p
    return float(min(reached, 1.0))


def surprise(p_value: float, tests: int = 1) -> float:
    """-log10 of a p-value that was the smallest of so many tests (Bonferroni; for the smallest Holm's correction is the same)."""
    return max(0.0, -float(np.log10(max(tests * p_value, 1e-300))))


def count_probability(contest: Contest) -> np.ndarray:
    """(T): of a flip, where each pair comes both ways round alike: a tie rule that flips one of the two leaves the other, whatever the
    rule. Half of the tokens with one probability and half with the other spread less than all with the mean (Hoeffding 1956)."""
    return (contest.probability_T + contest.strict_T) / 2


def count_surprise(contests: Iterable[Contest]) -> float:
    """Are there more flips in all contests together than the largest honest noise makes? Each pair of experts must come both ways round."""
    found = list(contests)
    flips = sum(int(c.flipped_T.sum()) for c in found)
    return surprise(upper_tail(np.concatenate([count_probability(c) for c in found]), flips)) if flips else 0.0


def worst_bias(contests: Sequence[Contest], num_experts: int) -> Bias:
    """Does an expert win from those ahead of it, or lose to those behind it, more often than noise allows, whatever the tie rule? Each
    expert in each contest is tested by itself, both ways."""
    tests = 2 * num_experts * max(len(contests), 1)
    found = [
        _one_sided(contest, number, expert, gained, tests)
        for number, contest in enumerate(contests)
        for expert in range(num_experts)
        for gained in (True, False)
    ]
    return max(found, key=lambda bias: bias.surprise, default=Bias(0.0, 0, 0, True, 0, 0.0))


def _one_sided(contest: Contest, number: int, expert: int, gained: bool, tests: int) -> Bias:
    about_T = (contest.chaser_T if gained else contest.leader_T) == expert
    flips, probabilities = int(contest.flipped_T[about_T].sum()), contest.probability_T[about_T]
    return Bias(surprise(upper_tail(probabilities, flips), tests), expert, number, gained, flips, float(probabilities.sum()))
