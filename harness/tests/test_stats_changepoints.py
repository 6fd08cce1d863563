"""Steps are found where there are some, and on noise in at most one series of a hundred."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.report.compare.trend import trends
from moe_harness.stats.changepoints import FEWEST, LEAST, potts, steps


def correlated(rng: np.random.Generator, count: int) -> np.ndarray:
    """AR(1) with 0.3: a machine's slow days come in rows."""
    noise, x = rng.standard_normal(count + 20), np.zeros(count + 20)
    for i in range(1, count + 20):
        x[i] = 0.3 * x[i - 1] + noise[i]
    return x[20:]


NOISES = {
    "normal": lambda rng, count: rng.standard_normal(count),
    "heavy tails": lambda rng, count: rng.standard_t(3, count),
    "skewed": lambda rng, count: np.exp(0.5 * rng.standard_normal(count)),
    "correlated": correlated,
}


@pytest.mark.parametrize("count", [8, 30])
@pytest.mark.parametrize("noise", NOISES)
def test_noise_has_no_step(noise: str, count: int) -> None:
    """300 series each: 3 is one per cent; a rate of 1 % would exceed 7 in one of a hundred such tests."""
    rng = np.random.default_rng(11)
    assert sum(bool(steps(NOISES[noise](rng, count))) for _ in range(300)) <= 7


def test_noise_of_every_kind_together_has_a_step_in_at_most_one_per_cent() -> None:
    rng = np.random.default_rng(13)
    found = [bool(steps(make(rng, count))) for make in NOISES.values() for count in (8, 12, 30) for _ in range(100)]
    assert sum(found) <= 0.01 * len(found)


@pytest.mark.parametrize(("count", "at", "size"), [(20, 10, 5.0), (40, 20, 3.0), (60, 50, 4.0), (12, 6, 6.0)])
def test_a_step_is_found_where_it_is(count: int, at: int, size: float) -> None:
    rng = np.random.default_rng(17)
    hits = 0
    for _ in range(100):
        found = steps(rng.standard_normal(count) + size * (np.arange(count) >= at))
        hits += len(found) == 1 and abs(found[0].index - at) <= 1 and abs(found[0].after - found[0].before - size) < 2
    assert hits >= 90


def test_two_steps_and_back() -> None:
    x = np.concatenate([np.zeros(15), np.full(15, 8.0), np.zeros(15)]) + 0.5 * np.random.default_rng(3).standard_normal(45)
    assert [step.index for step in steps(x)] == [15, 30]


def test_a_bad_night_is_no_step_whatever_its_size() -> None:
    x = np.random.default_rng(5).standard_normal(30)
    x[[4, 12, 20]] += 100
    assert steps(x) == []


def test_short_and_constant_series_have_none_and_an_exact_step_without_noise_is_one() -> None:
    assert steps([1.0] * (FEWEST - 1)) == [] and steps([1.0] * 50) == [] and steps([]) == []
    assert [step.index for step in steps([3.0] * 10 + [4.0] * 10)] == [10]


def test_the_fit_is_the_minimum() -> None:
    """Against all segmentations of a short series."""
    rng, penalty = np.random.default_rng(9), 2.0
    for _ in range(20):
        x = rng.standard_normal(9).round(2) + np.repeat([0.0, 3.0, 0.0], 3)
        cuts = [[0, *inner] for inner in ([], *([a] for a in range(9)), *([a, b] for a in range(9) for b in range(9)))]
        legal = [starts for starts in cuts if all(b - a >= LEAST for a, b in zip(starts, [*starts[1:], 9], strict=True))]
        best = min(cost(x, starts, penalty) for starts in legal)
        assert cost(x, potts(x, penalty), penalty) == pytest.approx(best)


def cost(x: np.ndarray, starts: list[int], penalty: float) -> float:
    parts = [x[a:b] for a, b in zip(starts, [*starts[1:], len(x)], strict=True)]
    return sum(float(np.abs(part - np.median(part)).sum()) for part in parts) + penalty * (len(starts) - 1)


def test_a_trend_names_the_run_and_the_factor() -> None:
    rng = np.random.default_rng(1)
    values = [0.01 * (1.3 if night >= 12 else 1.0) * float(np.exp(0.01 * rng.standard_normal())) for night in range(24)]
    entries = [{"run": f"night-{night:02d}", "metrics": {"decode": value, "zero": 0.0}} for night, value in enumerate(values)]
    (trend,) = trends(entries)
    ((run, before, after),) = trend.steps
    assert run == "night-12" and after / before == pytest.approx(1.3, rel=0.02)
