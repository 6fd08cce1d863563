"""The oracle against what others computed: HF's golden outputs, and closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moe_harness.cases.cases import Case, golden_cases
from moe_harness.cases.synthetic import FLAT, PEAKED, small, synthesize
from moe_harness.judge.distance import relative_rms
from moe_harness.oracle.layers import rotate, silu, visible

CASES = golden_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_oracle_agrees_with_hf_to_float32_rounding(case: Case) -> None:
    for row in range(len(case.prompts_BS)):
        assert relative_rms(case.expected["logits_BSV"][row], case.free_run(row).logits_SV) < 1e-6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_oracle_routes_as_hf_does(case: Case) -> None:
    ids_LTK = np.concatenate([case.free_run(row).topk_ids_LSK for row in range(len(case.prompts_BS))], axis=1)
    weights_LTK = np.concatenate([case.free_run(row).topk_weights_LSK for row in range(len(case.prompts_BS))], axis=1)
    order = np.argsort(ids_LTK, -1), np.argsort(case.expected["topk_ids_LTK"], -1)
    assert np.array_equal(np.take_along_axis(ids_LTK, order[0], -1), np.take_along_axis(case.expected["topk_ids_LTK"], order[1], -1))
    theirs = np.take_along_axis(case.expected["topk_weights_LTK"], order[1], -1)
    assert np.take_along_axis(weights_LTK, order[0], -1) == pytest.approx(theirs, rel=2e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_prompts_have_no_near_tie(case: Case) -> None:
    assert case.expected["gap_LT"].min() > 1e-4


def test_pinning_the_own_choice_changes_nothing_and_another_does() -> None:
    case, ids = CASES[0], CASES[0].prompts_BS[0]
    free = case.free_run(0)
    assert np.array_equal(case.oracle.forward(ids, free.topk_ids_LSK).logits_SV, free.logits_SV)
    other = (free.topk_ids_LSK + 1) % case.config.routing.num_experts
    assert relative_rms(case.oracle.forward(ids, other).logits_SV, free.logits_SV) > 0.1


def test_prefix_does_not_see_the_future() -> None:
    case, ids = CASES[0], CASES[0].prompts_BS[0]
    assert case.oracle.forward(ids[:20]).logits_SV == pytest.approx(case.free_run(0).logits_SV[:20], rel=1e-9, abs=1e-9)


def test_rotation_keeps_length_and_depends_on_distance_alone() -> None:
    x_SHP = np.repeat(np.random.default_rng(0).standard_normal((1, 2, 8)), 10, axis=0)
    turned = rotate(x_SHP, 100.0)
    assert np.linalg.norm(turned, axis=-1) == pytest.approx(np.linalg.norm(x_SHP, axis=-1))
    assert np.sum(turned[2] * turned[5]) == pytest.approx(np.sum(turned[4] * turned[7]))


def test_window_shows_exactly_w_positions() -> None:
    assert visible(6, 3).sum(-1).tolist() == [1, 2, 3, 3, 3, 3]
    assert visible(4, None).sum(-1).tolist() == [1, 2, 3, 4]


def test_silu_does_not_overflow() -> None:
    assert silu(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.0, 1000.0]


def test_synthetic_router_scale_is_what_was_asked(tmp_path: Path) -> None:
    config = replace(small("mixtral"), hidden_size=256, head_dim=32)
    ids = np.random.default_rng(0).integers(0, 256, 64)
    for scale in (FLAT, PEAKED):
        case = Case("synthetic", synthesize(config, tmp_path / str(scale), router_scale=scale))
        assert np.std(case.oracle.forward(ids).router_logits_LSE) == pytest.approx(scale, rel=0.3)


def test_synthetic_checkpoints_repeat_by_seed(tmp_path: Path) -> None:
    first, again, other = (synthesize(small("qwen3_moe"), tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    weights = [(path / "model.safetensors").read_bytes() for path in (first, again, other)]
    assert weights[0] == weights[1] != weights[2]
