"""Exact loads: their apportionment, the routings made of them, the check before timing, and what uniform routing touches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_harness.bench import loads, skew
from moe_harness.bench.loads import WrongLoads, apportion, count, drawn, expected_touched, place, verify
from moe_harness.bench.skew import SHARES, SKEWS, pin
from moe_harness.implementations.interface import RoutingSpec, Unsupported


@st.composite
def routers(draw: st.DrawFn) -> tuple[int, int, int]:
    """(T, E, K)."""
    E = draw(st.integers(1, 24))
    return draw(st.integers(1, 60)), E, draw(st.integers(1, E))


shares = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=24)


@given(shares, st.integers(1, 50), st.data())
def test_apportioned_loads_sum_up_and_respect_the_cap(shares_E: list[float], cap: int, data: st.DataObject):
    total = data.draw(st.integers(0, cap * len(shares_E)))
    loads_E = apportion(shares_E, total, cap)
    assert loads_E.sum() == total and loads_E.min() >= 0 and loads_E.max() <= cap


@given(shares, st.integers(1, 50), st.data())
def test_a_larger_share_never_gets_less(shares_E: list[float], cap: int, data: st.DataObject):
    loads_E = apportion(shares_E, data.draw(st.integers(0, cap * len(shares_E))), cap)
    order = np.argsort(shares_E, kind="stable")
    larger = np.diff(np.array(shares_E)[order]) > 0
    assert (np.diff(loads_E[order])[larger] >= 0).all()


@pytest.mark.parametrize(
    ("shares_E", "total", "cap", "expected"),
    [
        ([1, 1, 1], 10, 10, [4, 3, 3]),  # equal remainders: the lower id
        ([4, 1.5, 1.5, 1], 8, 8, [4, 2, 1, 1]),  # quotas 4, 1.5, 1.5, 1
        ([1, 1 / 2, 1 / 3], 11, 11, [6, 3, 2]),  # quotas 6, 3, 2
        ([8, 1, 1], 10, 5, [5, 3, 2]),  # the first is full at 5; 5 are left for two equal shares
        ([1, 0, 0], 7, 4, [4, 2, 1]),  # shares of zero get what nobody else may have
        ([1, 1], 0, 3, [0, 0]),
    ],
)
def test_apportionment_by_hand(shares_E: list[float], total: int, cap: int, expected: list[int]):
    assert apportion(shares_E, total, cap).tolist() == expected


@pytest.mark.parametrize(("shares_E", "total", "cap"), [([1, 1], 5, 2), ([-1, 2], 1, 2), ([1], -1, 2), ([], 1, 1)])
def test_impossible_apportionments_are_refused(shares_E: list[float], total: int, cap: int):
    with pytest.raises(ValueError, match="cannot be given"):
        apportion(shares_E, total, cap)


@given(routers(), st.integers(0, 2**32), st.data())
def test_placed_loads_are_exact_and_experts_distinct(router: tuple[int, int, int], seed: int, data: st.DataObject):
    T, E, K = router
    shares_E = data.draw(st.lists(st.floats(0, 10), min_size=E, max_size=E))
    loads_E = apportion(shares_E, T * K, T)
    ids_TK = place(loads_E, T, seed)
    assert count(ids_TK, E).tolist() == loads_E.tolist()
    assert all(len(set(row)) == K for row in ids_TK.tolist())
    verify(ids_TK, loads_E, K)


@given(routers(), st.integers(0, 100), st.sampled_from(SKEWS))
def test_every_skew_gives_every_token_its_experts(router: tuple[int, int, int], seed: int, name: str):
    T, E, K = router
    chosen = pin(name, T, RoutingSpec(E, K), seed)
    assert chosen.loads_E.sum() == T * K and chosen.ids_TK.shape == (T, K) and chosen.ids_TK.dtype == np.int64
    verify(chosen.ids_TK, chosen.loads_E, K)


def test_the_same_seed_gives_the_same_routing_and_another_one_another():
    spec = RoutingSpec(16, 4)
    for name in SKEWS:
        one, again, other = (pin(name, 40, spec, seed).ids_TK for seed in (1, 1, 2))
        assert np.array_equal(one, again) and not np.array_equal(one, other), name


def test_skews_by_hand():
    """24 tokens, 8 experts, 2 a token."""
    found = {name: pin(name, 24, RoutingSpec(8, 2)).loads_E.tolist() for name in SHARES}
    assert found["balanced"] == [6] * 8
    assert found["zipf"] == [18, 9, 6, 4, 4, 3, 2, 2]  # 48 / 2.7179 / r = 17.66 8.83 5.89 4.42 3.53 2.94 2.52 2.21
    assert found["hot-expert"] == [24, 4, 4, 4, 3, 3, 3, 3]
    assert found["hot-rank"] == [24, 24, 0, 0, 0, 0, 0, 0]  # four ranks of two experts
    assert found["dead-experts"] == [12, 12, 12, 12, 0, 0, 0, 0]
    assert pin("hot-rank", 24, RoutingSpec(8, 2)).about == {"ranks": 4}
    assert pin("hot-rank", 10, RoutingSpec(8, 3)).loads_E.tolist() == [10, 10, 2, 2, 2, 2, 1, 1]  # a rank of two cannot hold three


@pytest.mark.parametrize(
    ("ids_TK", "loads_E", "message"),
    [
        ([[0, 1], [0, 1]], [2, 1, 1], "expert 1 gets 2 tokens, expected 1"),
        ([[0, 0], [1, 2]], [2, 1, 1], "token 0 has an expert twice"),
        ([[0, 3], [1, 2]], [1, 1, 1], "expert 3"),
        ([[0], [1]], [1, 1, 0], "expected 2 experts a token"),
    ],
)
def test_a_wrong_load_is_caught(ids_TK: list[list[int]], loads_E: list[int], message: str):
    with pytest.raises(WrongLoads, match=message):
        verify(np.array(ids_TK), np.array(loads_E), top_k=2)


@pytest.mark.parametrize("name", SHARES)
def test_a_wrong_routing_never_reaches_the_clock(monkeypatch: pytest.MonkeyPatch, name: str):
    """Of a placement that moves one slot to another expert."""

    def wrong(loads_E: np.ndarray, tokens: int, seed: int) -> np.ndarray:
        ids_TK = loads.place(loads_E, tokens, seed)
        ids_TK[0, 0] = next(e for e in range(len(loads_E)) if e not in ids_TK[0])
        return ids_TK

    monkeypatch.setattr(skew, "place", wrong)
    with pytest.raises(WrongLoads, match="gets"):
        pin(name, 24, RoutingSpec(8, 2))


@pytest.mark.parametrize("loads_E", [[3, 0], [1, 1, 1], [-1, 3]])
def test_impossible_placements_are_refused(loads_E: list[int]):
    with pytest.raises(ValueError, match="no routing of 2 tokens"):
        place(np.array(loads_E), tokens=2, seed=0)


def touched(draws: list[np.ndarray]) -> tuple[float, float]:
    """Mean number of different experts and its standard error."""
    numbers = np.array([len(np.unique(ids_TK)) for ids_TK in draws])
    return numbers.mean(), numbers.std(ddof=1) / np.sqrt(len(numbers))


@pytest.mark.parametrize(("T", "E", "K"), [(4, 8, 2), (4, 64, 4), (16, 128, 8), (64, 128, 8)])
def test_uniform_routing_touches_as_many_experts_as_theory_says(T: int, E: int, K: int):
    mean, error = touched([drawn(T, E, K, seed) for seed in range(600)])
    assert abs(mean - expected_touched(T, E, K)) < 4 * error


def test_balanced_loads_are_not_uniform_routing():
    """They touch more experts: a benchmark on them would move more bytes than real routing does."""
    spec, T = RoutingSpec(64, 4), 16
    mean, error = touched([pin("balanced", T, spec, seed).ids_TK for seed in range(50)])
    assert mean - expected_touched(T, 64, 4) > 10 and error < 0.1


def test_expected_touched_by_hand():
    assert expected_touched(1, 8, 2) == 2.0  # one token has its K experts
    assert expected_touched(2, 4, 1) == pytest.approx(1.75)  # 4 (1 - (3/4)^2)


def test_an_unknown_skew_and_a_missing_trace_are_said():
    with pytest.raises(KeyError, match="unknown skew 'flat'"):
        pin("flat", 4, RoutingSpec(8, 2))
    with pytest.raises(Unsupported, match="no trace was given"):
        pin("trace", 4, RoutingSpec(8, 2))
