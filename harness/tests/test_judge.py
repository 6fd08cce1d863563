"""The judge passes the good case and fails the bad one."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_harness.cases.tensors import numpy_dtype, round_to
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.judge import routing
from moe_harness.judge.certificate import State, certify
from moe_harness.judge.distance import kl_divergence, relative_rms, top1_disagreement, worst_row
from moe_harness.judge.metric import Metric
from moe_harness.judge.rounding import UNIT_ROUNDOFF, half_step, rounded, router_noise
from moe_harness.judge.verdict import Inconclusive, Verdict, Violation
from moe_harness.oracle.routing import combine_weights, gap, select


def test_metric_passes_at_its_bound_and_fails_above_and_on_nan() -> None:
    assert not Metric("m", 1.0, 1.0).violated
    assert Metric("m", 1.0000001, 1.0).violated
    assert Metric("m", float("nan"), 1.0).violated
    assert not Metric("m", float("nan")).violated


def test_certificate_excuses_a_flip_within_the_margin_only() -> None:
    logits_TE = np.array([[3.0, 1.0, 0.9, -2.0]])
    flipped = np.array([[0, 2]])
    assert certify(logits_TE, flipped, 0.06).uncertified == 0
    assert certify(logits_TE, flipped, 0.06).excused == 1
    assert certify(logits_TE, flipped, 0.04).uncertified == 1
    assert certify(logits_TE, np.array([[0, 1]]), 0.0).excused == 0


def test_exact_tie_is_neither_flip_nor_error() -> None:
    certificate = certify(np.array([[1.0, 0.5, 0.5]]), np.array([[0, 2]]), 0.0)
    assert (certificate.uncertified, certificate.excused) == (0, 0)


def test_all_experts_selected_needs_no_certificate() -> None:
    assert certify(np.array([[1.0, 2.0]]), np.array([[1, 0]]), 0.0).uncertified == 0


def test_nan_logits_of_the_oracle_make_a_token_unobservable_and_no_other() -> None:
    certificate = certify(np.array([[np.nan, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]), np.array([[1], [2], [0]]), 0.1)
    assert certificate.states == [State.UNOBSERVABLE, State.CERTIFIED, State.UNCERTIFIED]
    assert certificate.counts() == {"certified": 1, "flips_excused": 0, "uncertified": 1, "unobservable": 1}


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_the_oracles_own_selection_is_always_certified(seed: int, top_k: int) -> None:
    logits_TE = np.random.default_rng(seed).standard_normal((16, 12))
    assert certify(logits_TE, select(logits_TE, RoutingSpec(12, top_k)), 0.0).uncertified == 0


@pytest.mark.parametrize("dtype", UNIT_ROUNDOFF)
def test_rounding_is_the_dtypes_own(dtype: str) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.standard_normal(1000), 1e-6 * rng.standard_normal(100), [0.0, 1.0, -2.0, 0.75]]).astype(np.float32)
    assert np.array_equal(rounded(values.astype(np.float64), dtype), round_to(values, dtype))
    assert np.all(np.abs(round_to(values, dtype) - values) <= half_step(values.astype(np.float64), dtype))


@pytest.mark.parametrize("dtype", UNIT_ROUNDOFF)
@pytest.mark.parametrize("positive", [False, True])
def test_allowance_covers_the_worst_honest_order_of_summation(dtype: str, positive: bool) -> None:
    """float32 sums one by one, of products of all signs and of one sign alone, then rounded to the dtype. Accumulation errors stay below a
    third of their allowance in standard deviation, as the flip budget takes for granted."""
    rng = np.random.default_rng(0)
    x_TD, w_ED = (round_to(rng.standard_normal(shape).astype(np.float32), "bfloat16") for shape in ((64, 512), (8, 512)))
    x_TD, w_ED = (np.abs(x_TD), np.abs(w_ED)) if positive else (x_TD, w_ED)
    sums_TE = np.zeros((64, 8), np.float32)
    for d in range(512):
        sums_TE += x_TD[:, d, None] * w_ED[None, :, d]
    exact_TE = x_TD.astype(np.float64) @ w_ED.T.astype(np.float64)
    noise = router_noise(x_TD, w_ED, exact_TE, dtype)
    assert np.all(np.abs(round_to(sums_TE, dtype) - exact_TE) <= noise.delta_TE)
    assert np.sqrt(np.mean(((sums_TE - exact_TE) / noise.accumulated_TE) ** 2)) < 1 / 3


def test_distances_are_scale_free_and_see_one_bad_row() -> None:
    expected = np.random.default_rng(0).standard_normal((50, 20))
    observed = expected.copy()
    observed[7] += 1.0
    assert relative_rms(1e-6 * observed, 1e-6 * expected) == pytest.approx(relative_rms(observed, expected))
    assert worst_row(observed, expected) > 5 * relative_rms(observed, expected)
    assert relative_rms(expected, expected) == 0.0
    assert np.isnan(relative_rms(np.full((2, 2), np.nan), np.ones((2, 2))))
    assert relative_rms(np.ones(3), np.zeros(3)) == float("inf")


def test_kl_and_top1() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 9))
    assert kl_divergence(logits, logits + 3.0) == pytest.approx(np.zeros(5), abs=1e-12)
    assert np.all(kl_divergence(logits, -logits) > 0)
    assert top1_disagreement(logits, -logits) == 1.0


def test_routing_metrics_fire() -> None:
    assert [m.violated for m in routing.ids(np.array([[0, 0], [1, 5]]), 5)] == [True, True]
    assert [m.violated for m in routing.ids(np.array([[0, 1], [4, 2]]), 5)] == [False, False]
    assert [m.violated for m in routing.weights_sane(np.array([[np.inf, -0.1]]))] == [True, True]
    expected = np.array([[0.6, 0.4]])
    assert routing.weight_sum(np.array([[0.6, 0.3]]), expected, 1e-3).violated
    assert routing.weights(np.array([[0.4, 0.6]]), expected, 1e-3).violated
    assert not routing.weights(expected, expected, 1e-3).violated


def test_renormalisation_is_what_the_spec_says() -> None:
    logits_TE = np.array([[2.0, 1.0, 0.0, -1.0]])
    ids_TK = select(logits_TE, RoutingSpec(4, 2))
    assert combine_weights(logits_TE, ids_TK, RoutingSpec(4, 2, normalize_topk=True)).sum() == pytest.approx(1.0)
    assert combine_weights(logits_TE, ids_TK, RoutingSpec(4, 2, normalize_topk=False)).sum() < 0.9
    assert gap(logits_TE, RoutingSpec(4, 2)) == pytest.approx([1.0])
    assert gap(logits_TE, RoutingSpec(4, 4)) == [np.inf]


def test_verdict_keeps_the_worst_value_and_the_violation() -> None:
    verdict = Verdict()
    verdict.judge(Metric("error", 0.1, 1.0))
    verdict.judge(Metric("error", 0.5, 1.0))
    verdict.judge(Metric("error", 0.2, 1.0))
    assert verdict.metrics["error"].value == 0.5
    with pytest.raises(Violation, match="error = 2"):
        verdict.judge(Metric("error", 2.0, 1.0), Metric("other", 0.0, 1.0))
    assert [m["value"] for m in verdict.to_record()["metrics"]] == [2.0, 0.0]


def test_verdict_without_enough_evidence_is_inconclusive() -> None:
    verdict = Verdict()
    verdict.saw(tokens=3)
    with pytest.raises(Inconclusive, match="tokens = 3, at least 64"):
        verdict.require(tokens=64)
    verdict.saw(tokens=61)
    verdict.require(tokens=64)


def test_unit_roundoffs_are_half_the_machine_epsilons() -> None:
    assert {name: float(ml_dtypes.finfo(numpy_dtype(name)).eps) / 2 for name in UNIT_ROUNDOFF} == UNIT_ROUNDOFF
