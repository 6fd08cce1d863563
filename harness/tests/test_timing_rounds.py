"""What is taken before and around the rounds: warm-up, canaries, clocks, plans, series. And what is said of them: quantiles."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats

from moe_harness.bench import canary
from moe_harness.bench.blocks import BLOCKS, QUADS, Plan, Series, plan
from moe_harness.bench.clock import LONG, Arm, repeats, tick
from moe_harness.bench.timing import FEWEST_ROUNDS, MOST_ROUNDS, PATIENT_ROUNDS, rounds_for
from moe_harness.bench.warmup import WarmUp, steady_from, warm_up
from moe_harness.stats import quantiles
from moe_harness.stats.medians import median_interval
from moe_harness.stats.paired import FEWEST_BLOCKS


@dataclass
class FakeArm:
    """An arm whose rounds take the times given, the last for ever."""

    times: list[float]
    now: float = 0.0
    taken: int = 0
    prepared: int = field(default=0)

    def step(self) -> None:
        self.now += self.times[min(self.taken, len(self.times) - 1)]
        self.taken += 1

    def prepare(self) -> None:
        self.prepared += 1

    def arm(self) -> Arm:
        return Arm("fake", self.step, self.prepare, clock=lambda: self.now)


def noisy(levels: np.ndarray, seed: int = 0, noise: float = 0.02) -> list[float]:
    return list(levels * np.exp(np.random.default_rng(seed).normal(0, noise, len(levels))))


@pytest.mark.parametrize("slow", [2, 4, 7, 20])
@pytest.mark.parametrize("factor", [1.2, 3.0])
def test_warm_up_ends_at_the_change_point(slow: int, factor: float) -> None:
    levels = np.where(np.arange(60) < slow, factor, 1.0)
    assert all(abs(steady_from(noisy(levels, seed)) - slow) <= 1 for seed in range(10))


def test_a_fixed_number_of_rounds_would_be_wrong() -> None:
    """Three, as before: of a warm-up of seven, four slow rounds are left among the samples."""
    seconds = noisy(np.where(np.arange(60) < 7, 3.0, 1.0))
    assert max(seconds[3:]) > 2.5 and max(seconds[steady_from(seconds) :]) < 1.5


def test_a_decay_is_over_when_little_of_it_is_left() -> None:
    levels = 1 + 2 * np.exp(-np.arange(80) / 5)
    assert all(levels[steady_from(noisy(levels, seed))] < 1.15 for seed in range(10))


def test_steady_rounds_have_no_warm_up() -> None:
    assert sum(steady_from(noisy(np.ones(40), seed)) > 0 for seed in range(200)) <= 10


def test_a_single_interruption_is_no_change() -> None:
    levels = np.ones(40)
    levels[[5, 20, 38]] = 4.0
    assert all(steady_from(noisy(levels, seed)) == 0 for seed in range(20))


def test_a_step_to_slower_is_found_too() -> None:
    assert abs(steady_from(noisy(np.where(np.arange(60) < 25, 1.0, 1.5))) - 25) <= 1


def test_warming_up_goes_on_until_it_is_steady() -> None:
    fake = FakeArm(noisy(np.where(np.arange(300) < 12, 0.05, 0.02)))
    found = warm_up(fake.arm())
    assert found.steady and 11 <= found.rounds <= 13 and fake.prepared == fake.taken == len(found.seconds)
    assert found.typical == pytest.approx(0.02, rel=0.05)


def test_a_drift_without_end_is_not_called_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_harness.bench.warmup.MOST_ROUNDS", 100)
    found = warm_up(FakeArm(noisy(1.05 ** np.arange(400), noise=0.005)).arm())
    assert not found.steady and found.rounds == len(found.seconds)


def test_warming_up_a_very_slow_step_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_harness.bench.warmup.MOST_S", 0.05)
    found = warm_up(Arm("slow", lambda: time.sleep(0.02)))
    assert not found.steady and len(found.seconds) <= 3 and found.cost >= 0.02


@pytest.mark.parametrize("q, count", [(0.5, 5), (0.9, 29), (0.95, 59), (0.99, 299)])
def test_samples_that_bound_a_quantile(q: float, count: int) -> None:
    """0.99^299 < 0.05: with so many the largest is above the 99th percentile, at 95 %."""
    assert quantiles.needed(q) == count and 1 - q**count >= 0.95 > 1 - q ** (count - 1)


def test_p99_is_a_reason_until_there_are_enough_rounds() -> None:
    samples = list(np.random.default_rng(0).lognormal(size=299))
    assert quantiles.percentiles(samples[:298])["p99"] == {"reason": "p99 needs 299 rounds, there are 298"}
    assert quantiles.percentiles(samples)["p99"]["value"] == pytest.approx(np.quantile(samples, 0.99))


@pytest.mark.parametrize("q, n", [(0.5, 12), (0.5, 60), (0.9, 80)])
def test_order_statistics_hold_the_quantile_as_often_as_they_say(q: float, n: int) -> None:
    rng, truth = np.random.default_rng(0), float(stats.lognorm.ppf(q, 1))
    intervals = [quantiles.interval(list(rng.lognormal(size=n)), q) for _ in range(500)]
    assert np.mean([found is not None and found[0] <= truth <= found[1] for found in intervals]) >= 0.93


def test_a_normal_interval_does_not_hold_the_median_of_timings() -> None:
    rng = np.random.default_rng(0)
    means = [(x.mean(), 1.96 * x.std(ddof=1) / np.sqrt(60)) for x in rng.lognormal(size=(500, 60))]
    assert np.mean([abs(mean - 1.0) <= half for mean, half in means]) < 0.5


@pytest.mark.parametrize("n", [6, 7, 12, 13, 50, 400])
def test_the_medians_interval_is_the_reports(n: int) -> None:
    samples = list(np.random.default_rng(n).random(n))
    assert quantiles.interval(samples, 0.5) == median_interval(samples)[1:]


def test_too_few_samples_have_no_interval() -> None:
    assert quantiles.interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.5) is None


def test_a_loud_canary_marks_the_blocks_beside_it() -> None:
    songs = [1.0, 1.02, 0.99, 1.6, 1.01, 1.0, 0.98, 1.0]
    assert canary.disturbed_blocks(songs) == [2, 3]


def test_being_busy_all_the_time_is_no_event() -> None:
    """Half of the canaries of a busy machine are interrupted: a fixed factor would throw away most blocks."""
    songs = list(np.where(np.random.default_rng(0).random(21) < 0.5, 1.0, 8.0))
    assert canary.disturbed_blocks(songs) == []
    assert sum(song > canary.TOLERANCE * float(np.median(songs)) or song == 8.0 for song in songs) > 5


def test_a_canary_is_held_against_its_reference() -> None:
    assert not canary.Canary(1.0, 1.2, 1.0).disturbed
    assert canary.Canary(1.0, 1.3, 1.0).to_record() == {
        "before": 1.0, "after": 1.3, "reference": 1.0, "tolerance": canary.TOLERANCE, "disturbed": True,
    }  # fmt: skip
    assert 0 < canary.sing() < 5 and canary.reference() == canary.reference()


def test_short_steps_are_repeated_until_a_round_is_long_against_the_clock() -> None:
    found = repeats(Arm("a", lambda: None), Arm("b", lambda: sum(range(100))))
    arm = Arm("a", lambda: None).repeated(found)
    began = time.perf_counter()
    arm.time()
    assert found > 100 and time.perf_counter() - began > LONG * tick() / 20
    assert repeats(Arm("a", lambda: None, prepare=lambda: None)) == 1
    assert repeats(Arm("a", lambda: time.sleep(0.001))) == 1


def test_a_round_is_told_in_seconds_a_step() -> None:
    fake = FakeArm([0.5])
    assert fake.arm().repeated(4).time() == pytest.approx(0.5) and fake.taken == 4


def of(typical: float, cost: float | None = None) -> WarmUp:
    return WarmUp((typical,), 0, True, cost or typical, typical)


@pytest.mark.parametrize("typical, quads", [(1e-3, QUADS), (0.01, 2), (1.0, 1)])
def test_the_default_plan(typical: float, quads: int) -> None:
    assert plan(of(typical, cost=9 * typical), of(typical, cost=9 * typical)) == Plan(BLOCKS, quads)


@pytest.mark.parametrize("budget, expected", [(4.0, Plan(BLOCKS, 5)), (0.4, Plan(10, 1)), (0.01, Plan(FEWEST_BLOCKS, 1))])
def test_a_budget_is_seconds(budget: float, expected: Plan) -> None:
    assert plan(of(0.001, cost=0.01), of(0.001, cost=0.01), budget) == expected


@pytest.mark.parametrize("seconds, rounds", [(1e-6, MOST_ROUNDS), (0.05, 40), (1.0, FEWEST_ROUNDS), (10.0, PATIENT_ROUNDS)])
def test_rounds_fill_the_time_within_limits(seconds: float, rounds: int) -> None:
    assert rounds_for(seconds) == rounds


def test_a_series_takes_both_arms_as_often_in_a_drawn_order() -> None:
    order: list[str] = []
    arms = Arm("a", lambda: order.append("a")), Arm("b", lambda: order.append("b"))
    found = Series(arms, Plan(3, 4), seed=1).take()
    assert {tuple(order[i : i + 4]) for i in range(0, 48, 4)} == {("a", "b", "b", "a"), ("b", "a", "a", "b")}
    assert [len(block) for arm in found.samples for block in arm] == [8] * 6 and len(found.songs) == 4


def test_rounds_of_b_are_handed_out_for_another_clock_to_time() -> None:
    order: list[str] = []
    found = Series((Arm("a", lambda: order.append("a")), Arm("b", lambda: order.append("b"))), Plan(2, 2), seed=0)
    handed = 0
    for take_round in found.pending():
        take_round()
        handed += 1
    assert handed == found.plan.rounds == order.count("b") == order.count("a") == 8
