"""Paired timing on simulated machines: coverage, false flags, detection, the smallest change seen. A wrong rule fails each of these
tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from moe_harness.bench.compare import DIFFERENT, again, recurring
from moe_harness.stats.paired import Estimate, PairConfig, call, estimate, log_ratios
from moe_harness.tests.timing_noise import Drift, Samples, busy_spells, periodic, quiet, random_walk, sequential, series

TRIALS = 120
PAIR_CONFIG = PairConfig()
DRIFTS = [quiet, random_walk, busy_spells, periodic]


def estimates(drift: Drift, effect: float, trials: int = TRIALS, **how: int | bool) -> list[Estimate]:
    rng = np.random.default_rng(7)
    return [estimate(*series(rng, drift, effect, **how), PAIR_CONFIG) for _ in range(trials)]  # type: ignore[arg-type]


def share(found: list[bool]) -> float:
    return sum(found) / len(found)


def unpaired(samples_a: Samples, samples_b: Samples) -> tuple[float, float]:
    """The wrong rule: rounds of each arm drawn for themselves, as if they had nothing to do with each other."""
    rng, a, b = np.random.default_rng(0), np.ravel(samples_a), np.ravel(samples_b)
    ratios = [np.median(rng.choice(b, len(b))) / np.median(rng.choice(a, len(a))) for _ in range(100)]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def blockless(samples_a: Samples, samples_b: Samples) -> tuple[float, float]:
    """The wrong rule: quads drawn one by one, although those of a block share its mood."""
    rng, quads = np.random.default_rng(0), np.ravel(log_ratios(samples_a, samples_b))
    medians = [np.median(rng.choice(quads, len(quads))) for _ in range(100)]
    low, high = np.exp(np.quantile(medians, [0.025, 0.975]))
    return float(low), float(high)


@pytest.mark.parametrize("drift", DRIFTS)
def test_the_interval_holds_the_truth_as_often_as_it_says(drift: Drift) -> None:
    assert share([found.low <= 1.03 <= found.high for found in estimates(drift, 1.03)]) >= 0.92


def test_an_unpaired_interval_is_wrong_or_useless() -> None:
    """On a machine with busy spells it misses the truth too often, or is many times as wide."""
    rng = np.random.default_rng(7)
    wrong = [unpaired(*series(rng, busy_spells, 1.03)) for _ in range(40)]
    right = [found.high - found.low for found in estimates(busy_spells, 1.03, 40)]
    missed = share([not low <= 1.03 <= high for low, high in wrong])
    assert missed > 0.08 or np.median([high - low for low, high in wrong]) > 5 * np.median(right)


def moody(rng: np.random.Generator, blocks: int = 20, quads: int = 3) -> tuple[Samples, Samples]:
    """Blocks that favour one arm or the other, all their quads alike: what alignment of a buffer, say, does from time to time."""
    a, b = series(rng, quiet, blocks=blocks, quads=quads)
    moods = np.exp(rng.normal(0, 0.03, blocks))
    return a, [[sample * mood for sample in block] for block, mood in zip(b, moods, strict=True)]


def test_blocks_are_drawn_whole() -> None:
    rng = np.random.default_rng(3)
    taken = [moody(rng) for _ in range(TRIALS)]
    right = [estimate(*samples, PAIR_CONFIG) for samples in taken]
    wrong = [blockless(*samples) for samples in taken]
    assert share([found.low <= 1 <= found.high for found in right]) >= 0.92
    assert share([low <= 1 <= high for low, high in wrong]) < 0.9


def false_flags(found: list[Estimate]) -> float:
    """Of comparisons with recurrence: neighbours are independent series."""
    return share([first.verdict in DIFFERENT and recurring(first, second).verdict in DIFFERENT for first, second in _batched(found)])


def _batched(found: list[Estimate]) -> list[tuple[Estimate, Estimate]]:
    return list(zip(found[::2], found[1::2], strict=True))


@pytest.mark.parametrize("drift", DRIFTS)
def test_equal_arms_are_told_apart_at_most_once_in_a_hundred(drift: Drift) -> None:
    assert false_flags(estimates(drift, 1.0, 2 * TRIALS, quads=1)) <= 0.01


def test_without_recurrence_they_are_told_apart_more_often() -> None:
    found = [each for drift in DRIFTS for each in estimates(drift, 1.0, quads=1)]
    assert share([each.verdict in DIFFERENT for each in found]) > 0.01


def test_one_arm_after_the_other_they_are_told_apart_most_of_the_time() -> None:
    rng = np.random.default_rng(7)
    p_values = [stats.mannwhitneyu(*sequential(rng, random_walk)).pvalue for _ in range(TRIALS)]
    assert share([p < 0.002 for p in p_values]) > 0.5


def test_a_fixed_order_keeps_step_with_a_periodic_machine() -> None:
    """ABBA over and over, every second time in phase with a machine that is slow in two of four rounds: A is hit, or B is."""
    assert false_flags(estimates(periodic, 1.0, quads=1, drawn=False)) > 0.1


@pytest.mark.parametrize("drift", [quiet, random_walk, busy_spells])
def test_five_per_cent_are_seen(drift: Drift) -> None:
    found = estimates(drift, 1.05, 100)
    assert share([recurring(*both).verdict == "slower" for both in _batched(found) if both[0].verdict == "slower"]) >= 0.9
    assert share([each.verdict == "slower" for each in found]) >= 0.95


@pytest.mark.parametrize("drift", [quiet, random_walk, busy_spells])
@pytest.mark.parametrize("quads", [1, 3])
def test_the_smallest_change_seen_is_seen_as_often_as_it_says(drift: Drift, quads: int) -> None:
    mde = float(np.median([found.mde for found in estimates(drift, 1.0, 60, quads=quads)]))
    at, half = (share([found.verdict == "slower" for found in estimates(drift, 1 + size, quads=quads)]) for size in (mde, mde / 2))
    assert at >= 0.87 and half < 0.75  # a smallest change of half the size would be no such thing


def test_the_same_samples_give_the_same_answer() -> None:
    taken = series(np.random.default_rng(1), quiet)
    assert estimate(*taken, PAIR_CONFIG) == estimate(*taken, PAIR_CONFIG)


def test_disturbed_blocks_have_no_say() -> None:
    a, b = series(np.random.default_rng(1), quiet)
    spoilt = [[3 * sample for sample in block] if number < 12 else block for number, block in enumerate(b)]
    assert estimate(a, spoilt, PAIR_CONFIG).verdict == "slower"
    assert estimate(a, spoilt, PAIR_CONFIG, range(12)) == estimate(a[12:], b[12:], PAIR_CONFIG)


def test_too_few_undisturbed_blocks_give_no_number() -> None:
    found = estimate(*series(np.random.default_rng(1), quiet), PAIR_CONFIG, range(13))
    assert (found.verdict, found.ratio) == ("inconclusive", None) and "7 undisturbed blocks" in found.note


@pytest.mark.parametrize("a, b", [([[1.0, 1.0]], [[1.0]]), ([[1.0]], [[1.0]]), ([[1.0, 0.0]], [[1.0, 1.0]]), ([], [])])
def test_samples_that_do_not_pair_are_refused(a: Samples, b: Samples) -> None:
    with pytest.raises(ValueError):
        log_ratios(a, b)


@pytest.mark.parametrize(
    "low, high, word",
    [(0.99, 1.01, "equivalent"), (1.005, 1.015, "equivalent"), (1.01, 1.05, "slower"), (0.9, 0.95, "faster"), (0.9, 1.1, "inconclusive")],
)
def test_a_verdict_is_where_the_interval_lies(low: float, high: float, word: str) -> None:
    assert call(np.log(low), np.log(high), 0.02) == word


def given(low: float, high: float, delta: float = 0.02) -> Estimate:
    return Estimate(float(np.sqrt(low * high)), low, high, 0.03, call(float(np.log(low)), float(np.log(high)), delta))


@pytest.mark.parametrize(
    "second, word",
    [((1.02, 1.06), "slower"), ((0.99, 1.05), "inconclusive"), ((0.99, 1.01), "equivalent"), ((0.9, 0.95), "inconclusive")],
)
def test_a_difference_must_recur(second: tuple[float, float], word: str) -> None:
    found = recurring(given(1.01, 1.05), given(*second))
    assert found.verdict == word and ("did not recur" in found.note) == (word != "slower")
    assert found.low <= found.ratio <= found.high
    assert call(np.log(found.low), np.log(found.high), 0.02) == word  # the verdict follows from the interval that is shown


def test_numbers_of_a_pair_record_follow_from_its_samples() -> None:
    rng = np.random.default_rng(5)
    (a, b), (c, d) = series(rng, quiet, 1.05), series(rng, quiet, 1.05)
    record = {"samples_a": a + c, "samples_b": b + d, "blocks": [20, 20], "disturbed": [3, 21], "delta": 0.02, "confidence": 0.95}
    expected = recurring(estimate(a, b, PAIR_CONFIG, [3]), estimate(c, d, PAIR_CONFIG, [1]))
    assert again(record) == expected and expected.verdict == "slower"


@pytest.mark.parametrize("wrong", [{"delta": 0.0}, {"delta": 1.0}, {"confidence": 1.0}, {"confidence": 0.3}])
def test_questions_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        PairConfig(**wrong)
