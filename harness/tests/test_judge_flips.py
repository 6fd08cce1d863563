"""The flip budget: closed forms, and honest routers simulated, none of which it may accuse too often."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from moe_harness.cases.tensors import round_to
from moe_harness.judge.flips import FALSE_ALARM, Contest, count_surprise, flip_probability, surprise, upper_tail, worst_bias

RUNS, E, REPEATS = 10_000, 8, 24
STEP, DEVIATION = 2.0**-7, 2.0**-8  # bfloat16 logits between 1 and 2, and what else may be wrong with their difference
Ties = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (leader, chaser) -> the chaser wins a tie


def test_the_tail_of_equal_probabilities_is_binomial() -> None:
    for count in (0, 1, 3, 10, 20, 21):
        assert upper_tail(np.full(20, 0.3), count) == pytest.approx(stats.binom.sf(count - 1, 20, 0.3), rel=1e-12)


def test_the_tail_of_unequal_probabilities_by_enumeration() -> None:
    p = np.array([0.1, 0.7, 0.25, 0.5, 0.0, 1.0])
    outcomes = np.array(np.meshgrid(*[[0, 1]] * len(p))).reshape(len(p), -1).T
    weights = np.prod(np.where(outcomes, p, 1 - p), axis=1)
    for count in range(8):
        assert upper_tail(p, count) == pytest.approx(weights[outcomes.sum(1) >= count].sum(), abs=1e-15)


def test_small_tails_keep_their_accuracy() -> None:
    assert upper_tail(np.full(24, 0.01), 24) == pytest.approx(1e-48, rel=1e-9)
    assert upper_tail(np.zeros(3), 1) == 0.0 and surprise(0.0) == 300


def test_flip_probability_has_its_limits() -> None:
    gap = np.array([0.0, 0.25, 0.5, 1.0, 2.0])
    assert flip_probability(gap, np.ones(5), np.zeros(5)) == pytest.approx([1, 0.75, 0.5, 0, 0], abs=1e-6)  # rounding alone
    assert flip_probability(gap, np.zeros(5), np.ones(5)) == pytest.approx([1, *stats.norm.sf(gap[1:])], abs=1e-6)  # noise; a tie


@pytest.mark.parametrize("largest", [1e-4, 0.1, 1.0, 30.0])
def test_flip_probability_bounds_all_smaller_noise_and_is_reached(largest: float) -> None:
    random = np.random.default_rng(0)
    uniform, normal = random.random(100_000), random.standard_normal(100_000)
    for gap in (0.0, 0.3, 0.9, 1.5):
        found = flip_probability(np.array([gap]), np.array([1.0]), np.array([largest]))[0]
        seen = [np.mean(uniform + share * largest * normal > gap) for share in (0.0, 0.1, 0.5, 1.0)]
        assert max(seen) <= found + 4 / math.sqrt(4e5)
        if gap > 1:
            assert seen[-1] == pytest.approx(found, abs=4 / math.sqrt(4e5))


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Each pair both ways round."""
    random = np.random.default_rng(1)
    orders = [random.permutation(E) for _ in range(REPEATS // 2)]
    partners = [np.roll(order, random.integers(1, E)) for order in orders]
    return np.concatenate([*orders, *partners]), np.concatenate([*partners, *orders])


LEADER, CHASER = pairs()
GAP = np.full(len(LEADER), (STEP + DEVIATION) / 2)
PROBABILITIES = flip_probability(GAP, np.full_like(GAP, STEP), np.full_like(GAP, DEVIATION))
STRICT = flip_probability(GAP + STEP, np.full_like(GAP, STEP), np.full_like(GAP, DEVIATION))
TIES: dict[str, Ties] = {
    "lower id": lambda leader, chaser: chaser < leader,
    "higher id": lambda leader, chaser: chaser > leader,
    "expert 3 first": lambda leader, chaser: (chaser == 3) | ((leader != 3) & (chaser < leader)),
    "expert 3 last": lambda leader, chaser: (leader == 3) | ((chaser != 3) & (chaser < leader)),
}


def honest_flips(random: np.random.Generator, ties: Ties, rounds: bool, deviation: float) -> np.ndarray:
    """A router whose logits carry normal errors, are rounded to bfloat16 or kept, and compared."""
    middle = random.uniform(1.25, 1.75, len(LEADER))
    ahead, behind = (middle + sign * GAP / 2 + deviation / math.sqrt(2) * random.standard_normal(len(middle)) for sign in (1, -1))
    if rounds:
        ahead, behind = (round_to(values.astype(np.float32), "bfloat16") for values in (ahead, behind))
    return (behind > ahead) | ((behind == ahead) & ties(LEADER, CHASER))


def alarms(flips: Callable[[np.random.Generator], np.ndarray], runs: int) -> tuple[int, int]:
    """(count, bias) alarms at the nominal rate of one in a hundred, so that 10^4 runs can tell."""
    random, found = np.random.default_rng(2), np.zeros(2, int)
    for _ in range(runs):
        contest = Contest(LEADER, CHASER, flips(random), PROBABILITIES, STRICT)
        found += [count_surprise([contest]) > 2, worst_bias([contest], E).surprise > 2]
    return int(found[0]), int(found[1])


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize(("rounds", "deviation"), [(True, DEVIATION), (True, 0.0), (False, DEVIATION), (True, DEVIATION / 3)])
def test_no_honest_router_is_accused_more_often_than_it_should_be(ties: str, rounds: bool, deviation: float) -> None:
    """10^4 runs in all, over tie rules and over routers that round and that do not; at most the nominal rate, as far as chance lets see."""
    runs = RUNS // 16
    counted, biased = alarms(lambda random: honest_flips(random, TIES[ties], rounds, deviation), runs)
    most = stats.binom.isf(1e-3, runs, 0.01)
    assert counted <= most and biased <= most


def test_the_bias_test_is_not_idle_at_its_worst_null() -> None:
    """Flips with exactly the largest probabilities reach the nominal rate's order of magnitude, corrected and discrete as the test is."""
    _, biased = alarms(lambda random: random.random(len(LEADER)) < PROBABILITIES, 2000)
    assert 0 < biased <= stats.binom.isf(1e-3, 2000, 0.01)


def test_an_offset_of_most_of_a_step_is_found_and_named() -> None:
    def biased(random: np.random.Generator) -> np.ndarray:
        return honest_flips(random, TIES["lower id"], True, 0.0) | (CHASER == 5)

    contest = Contest(LEADER, CHASER, biased(np.random.default_rng(3)), PROBABILITIES, STRICT)
    found = worst_bias([contest], E)
    assert found.surprise > -math.log10(FALSE_ALARM) and (found.expert, found.gained) == (5, True)
    assert f"expert 5 gains {REPEATS} tokens" in str(found)


def test_twice_the_noise_is_too_many_flips() -> None:
    flipped_T = np.random.default_rng(4).random(len(LEADER)) < PROBABILITIES + STRICT
    contest = Contest(LEADER, CHASER, flipped_T, PROBABILITIES, STRICT)
    assert count_surprise([contest]) > -math.log10(FALSE_ALARM)


def test_no_contest_says_nothing() -> None:
    assert worst_bias([], E).surprise == 0.0 and count_surprise([]) == 0.0
