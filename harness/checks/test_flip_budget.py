"""ROUTE: flips that rounding excuses one by one must be plausible together. Legend: T tokens, K top-k, E experts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from moe_harness.cases.near_ties import both_ways, every_pair, margins
from moe_harness.checks.test_margins import has_a_boundary
from moe_harness.judge.flips import LIMIT, Contest, count_probability, count_surprise, worst_bias
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.oracle.routing import ranks_logits
from moe_harness.suite.clause import clause
from moe_harness.suite.subject import Subject
from moe_harness.suite.transparent import one_layer

# Leads in units of an honest router's noise, which flips no more than half of the smaller and a fifteenth of the larger.
GAPS = (0.5, 1.5)
# Near zero a dtype's grid is fine, so that small constant offsets show; far from it, offsets in proportion to the logit.
LEVELS, SCORE_LEVELS = (0.0, 1.5, -3.0), (0.0, 1.25, -1.25)
REPEATS = 24  # of every expert in each contest, both ways: 24 flips at even odds have p = 6e-8
MOST_TOKENS = 4096  # of a contest, for models of many experts


@clause("ROUTE-18", "No more selections are flipped than rounding flips", when=has_a_boundary)
def test_number_of_flips(subject: Subject, verdict: Verdict) -> None:
    contests = dict(_contests(subject))
    verdict.judge(Metric("flip_count_surprise", count_surprise(contests.values()), LIMIT))
    _say(verdict, contests)


@clause("ROUTE-19", "No expert gains or loses more selections than rounding gives or takes", when=has_a_boundary)
def test_no_expert_is_favoured(subject: Subject, verdict: Verdict) -> None:
    contests = dict(_contests(subject))
    worst = worst_bias(list(contests.values()), subject.config.routing.num_experts)
    verdict.judge(Metric("expert_bias_surprise", worst.surprise, LIMIT), about=f"{worst}; {list(contests)[worst.contest]}")
    _say(verdict, contests)


def _contests(subject: Subject) -> Iterator[tuple[str, Contest]]:
    """One for each MoE layer, level and gap, and its name."""
    probe, oracle, spec = subject.probe(), subject.case.oracle, subject.config.routing
    repeats = min(REPEATS, max(2, MOST_TOKENS // spec.num_experts // 2 * 2))
    levels = LEVELS if ranks_logits(spec) else SCORE_LEVELS
    for layer, level, gap in product(range(len(subject.config.moe_layers)), levels, GAPS):
        wish = every_pair(spec.num_experts, gap, level, repeats, seed=100 * subject.case.seed + layer)
        states = both_ways(margins(oracle, layer, wish, subject.dtype, unit="noise_T"), len(wish.gap_T))
        ids_TK, _ = one_layer(probe.route(layer, states.x_TD), len(states.x_TD), spec.top_k)
        yield f"MoE layer {layer}, logits about {level}, leads of {gap} times the noise", states.contest(ids_TK)


def _say(verdict: Verdict, contests: dict[str, Contest]) -> None:
    found = contests.values()
    verdict.saw(tokens=sum(len(c.flipped_T) for c in found), flips=sum(int(np.sum(c.flipped_T)) for c in found))
    verdict.saw(flips_expected_at_most=round(sum(float(np.sum(count_probability(c))) for c in found), 1))
    verdict.require(tokens=512)
