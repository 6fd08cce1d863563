"""States at chosen gaps are what they say, in every dtype; strategies draw what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_harness.cases.cases import Case, golden_cases
from moe_harness.cases.near_ties import every_pair, margins
from moe_harness.cases.strategies import STEPS, capacity_edges, close_logits
from moe_harness.cases.tensors import round_to
from moe_harness.implementations.interface import DTYPES
from moe_harness.oracle.routing import ranks_logits, select

CASES = {case.name: case for case in golden_cases()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [0.0, 0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_states_have_the_wished_gap(case: Case, gap: float, dtype: str) -> None:
    """Nearly all wishes come true. The pair is the one at the boundary: the oracle selects the one that leads, and not the other."""
    spec = case.config.routing
    for level in (0.0, 1.25):
        wish = every_pair(spec.num_experts, gap, level, 4, seed=0)
        found = margins(case.oracle, 0, wish, dtype)
        least = 0.6 if ranks_logits(spec) or gap < 8 else 0.1  # scores are bounded, and so is the lead that they leave room for
        assert len(found.x_TD) > least * len(wish.gap_T)
        assert np.array_equal(round_to(found.x_TD, dtype), found.x_TD)
        assert found.gap_T / found.allowance_T == pytest.approx(np.full(len(found.x_TD), gap), abs=0.1 * max(gap, 1))
        logits_TE, ids_TK, _ = case.oracle.route(0, found.x_TD)
        assert np.array_equal(case.oracle.ranking(0, logits_TE), found.ranking_TE)
        contest = found.contest(ids_TK)
        assert not contest.flipped_T[found.gap_T != 0].any()
        swapped_TK = np.where(ids_TK == contest.leader_T[:, None], contest.chaser_T[:, None], ids_TK)
        assert found.contest(swapped_TK).flipped_T.all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_states_are_tied_more_closely_than_the_dtype_can_tell(dtype: str) -> None:
    case = CASES["mixtral"]
    found = margins(case.oracle, 1, every_pair(12, 0.0, 1.25, 8, seed=3), dtype)
    assert np.median(np.abs(found.gap_T)) < 1e-6


def test_every_expert_is_as_often_ahead_as_behind() -> None:
    wish = every_pair(8, 0.5, 1.0, 6, seed=5)
    assert np.bincount(wish.leader_T).tolist() == np.bincount(wish.chaser_T).tolist() == [6] * 8
    assert sorted(zip(wish.leader_T, wish.chaser_T, strict=True)) == sorted(zip(wish.chaser_T, wish.leader_T, strict=True))
    assert np.all(wish.leader_T != wish.chaser_T)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), sizes=st.sampled_from([(4, 1), (12, 3), (16, 4)]))
def test_close_logits_are_exact_and_neighbours(data: st.DataObject, dtype: str, sizes: tuple[int, int]) -> None:
    num_experts, top_k = sizes
    logits_TE = data.draw(close_logits(num_experts, top_k, dtype))
    assert np.array_equal(round_to(logits_TE, dtype), logits_TE)
    ranked_TE = -np.sort(-logits_TE.astype(np.float64), axis=1)
    ulp_T = (
        2.0 ** np.floor(np.log2(np.abs(ranked_TE[:, top_k - 1 : top_k + 1]).min(1)))
        / {"float32": 2**23, "bfloat16": 2**7, "float16": 2**10}[dtype]
    )
    assert set((ranked_TE[:, top_k - 1] - ranked_TE[:, top_k]) / ulp_T) <= set(STEPS[dtype])
    others = np.delete(ranked_TE, [top_k - 1, top_k], axis=1)
    assert np.abs(others - ranked_TE[:, [top_k]]).min() > 0.2


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.data())
def test_loads_reach_around_a_capacity(data: st.DataObject) -> None:
    chosen = data.draw(capacity_edges(12, 3))
    assert all(len(set(row)) == 3 for row in chosen)
    loads = np.bincount(np.ravel(chosen), minlength=12)
    capacities = [int(np.ceil(f * len(chosen) * 3 / 12)) for f in (1.0, 1.25, 1.5, 2.0)]
    assert any(abs(load - capacity) <= 1 for load in loads for capacity in capacities)


def test_the_oracle_selects_the_larger_neighbour() -> None:
    logits_TE = np.array([[0.5, 0.50390625, -1.0, 0.0]])
    spec = CASES["mixtral"].config.routing
    assert select(logits_TE, type(spec)(4, 1)).tolist() == [[1]]
