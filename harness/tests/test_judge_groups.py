"""Certificates where groups limit the selection, and of scores that carry a correction."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_harness.implementations.interface import RoutingSpec
from moe_harness.judge.certificate import SCORE_ROUNDING, certify, ranking_allowance
from moe_harness.oracle.routing import combine_weights, gap, in_top_groups, ranking, router_logits, select

SPEC = RoutingSpec(8, 2, scoring="sigmoid", correction_bias=True, num_groups=4, top_groups=2, scaling_factor=2.5)
# Groups (0, 1), (2, 3), (4, 5), (6, 7) score 1.0, 0.9, 0.8 and 0.1: the first two stay, though expert 4 is the best of all.
RANKING = np.array([[0.6, 0.4, 0.5, 0.4, 0.7, 0.1, 0.1, 0.0]])


def test_the_best_expert_of_a_losing_group_is_not_selected() -> None:
    assert select(RANKING, SPEC).tolist() == [[0, 2]]
    assert certify(RANKING, np.array([[0, 2]]), 0.0, SPEC).uncertified == 0
    assert certify(RANKING, np.array([[4, 0]]), 0.0, SPEC).uncertified == 1
    assert certify(RANKING, np.array([[4, 0]]), 0.0).uncertified == 0  # without groups it would be right


def test_a_near_tie_of_groups_excuses_the_other_group() -> None:
    """Groups one and two are 0.1 apart; a group sums two experts, so an allowance of 0.026 each covers both sums."""
    other = np.array([[4, 0]])
    assert certify(RANKING, other, 0.026, SPEC).excused == 1
    assert certify(RANKING, other, 0.024, SPEC).uncertified == 1


def test_an_expert_that_loses_inside_its_group_is_never_excused_by_a_near_tie_of_groups() -> None:
    assert certify(RANKING, np.array([[5, 0]]), 0.026, SPEC).uncertified == 1


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_selection_equals_brute_force(seed: int, top_groups: int) -> None:
    spec = RoutingSpec(8, 2, num_groups=4, top_groups=top_groups, correction_bias=True)
    ranking_TE = np.random.default_rng(seed).standard_normal((6, 8))
    for row, chosen in zip(ranking_TE, select(ranking_TE, spec), strict=True):
        groups = max(combinations(range(4), top_groups), key=lambda g: sum(row[2 * i] + row[2 * i + 1] for i in g))
        inside = [e for e in range(8) if e // 2 in groups]
        assert set(chosen) == set(sorted(inside, key=lambda e: -row[e])[:2])
    assert certify(ranking_TE, select(ranking_TE, spec), 0.0, spec).uncertified == 0


def test_the_gap_is_that_of_experts_or_of_groups_whichever_is_smaller() -> None:
    assert gap(RANKING, SPEC) == pytest.approx([0.1])  # both: 0.5 against 0.4 inside, 0.9 against 0.8 between groups
    assert in_top_groups(RANKING, SPEC).tolist() == [[True, True, True, True, False, False, False, False]]


def test_the_correction_ranks_but_does_not_weigh() -> None:
    logits_TE, correction_E = np.array([[0.0, 0.1, 0.2, -0.1, 0.0, 0.3, 0.1, 0.0]]), np.array([1.0, 1, 0, 0, 0, 0, 0, 0])
    chosen_TK = select(ranking(logits_TE, SPEC, correction_E), SPEC)
    assert set(chosen_TK[0]) == {0, 1}
    scores = 1 / (1 + np.exp(-logits_TE[0, chosen_TK[0]]))
    assert combine_weights(logits_TE, chosen_TK, SPEC)[0] == pytest.approx(2.5 * scores / scores.sum())


def test_a_router_bias_is_added_to_the_logits() -> None:
    assert router_logits(np.ones((1, 2)), np.eye(2), np.array([0.5, -1.0])).tolist() == [[1.5, 0.0]]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["sigmoid", "softmax"]), st.floats(1e-6, 0.05))
def test_ranking_allowance_covers_what_logits_may_move(seed: int, scoring: str, delta: float) -> None:
    spec = RoutingSpec(8, 2, scoring=scoring, correction_bias=True)
    random = np.random.default_rng(seed)
    logits_TE = 2 * random.standard_normal((16, 8))
    moved = ranking(logits_TE + delta * random.choice([-1, 1], logits_TE.shape), spec) - ranking(logits_TE, spec)
    assert np.all(np.abs(moved) <= np.expm1(ranking_allowance(delta, spec)))


def test_where_logits_are_ranked_their_own_error_is_the_allowance() -> None:
    assert ranking_allowance(0.25, RoutingSpec(8, 2, scoring="sigmoid")) == 0.25
    assert ranking_allowance(0.0, SPEC) == SCORE_ROUNDING
