"""BLOCK: how many tokens come, and to which experts. Legend: T tokens, E experts, K top-k, D hidden."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.cases.strategies import capacity_edges, explore
from moe_harness.cases.synthetic import small
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.block_runs import decided_states, judge_block, shape_metric
from moe_harness.suite.clause import clause
from moe_harness.suite.situations import like
from moe_harness.suite.subject import Subject
from moe_harness.suite.transparent import in_model, one_layer, transparent_model

# Around the tile sizes of kernels (16, 128), a single token, a pair, and a prompt of the usual length.
COUNTS = (1, 2, 15, 16, 17, 127, 128, 129, 4096)
CHOSEN, OTHERS = 3.0, -3.0


@clause("BLOCK-04", "The block equals the oracle for any number of tokens, none included")
@pytest.mark.parametrize("tokens", (0, *COUNTS))
def test_block_for_any_number_of_tokens(subject: Subject, verdict: Verdict, tokens: int) -> None:
    model = like(subject, "token-counts", small(subject.config.family, 16, 4))
    x_TD = decided_states(model, tokens)
    if not tokens:
        one_layer(model.probe().route(0, x_TD), 0, model.config.routing.top_k)
        verdict.judge(shape_metric(model.probe().moe_block(0, x_TD), x_TD), about="no tokens")
        verdict.saw(calls=2)
        verdict.require(calls=2)
        return
    judge_block(model, verdict, x_TD, about=f"{tokens} tokens")
    verdict.require(tokens=tokens)


@clause("BLOCK-08", "Experts without a token change nothing for the others")
def test_experts_without_tokens(subject: Subject, verdict: Verdict) -> None:
    for busy in (range(6), range(6, 12), (0, 2, 4, 6, 8, 10), (0, 1, 2, 9, 10, 11)):
        chosen = [[busy[t % 4], busy[t % 4 + 1], busy[t % 4 + 2]] for t in range(24)]
        _judge_load(subject, verdict, chosen, f"only experts {list(busy)} are chosen")
    verdict.require(tokens=96)


@clause("BLOCK-09", "All tokens may go to the same experts")
def test_same_experts_for_all_tokens(subject: Subject, verdict: Verdict) -> None:
    for chosen in ([0, 1, 2], [9, 10, 11], [0, 5, 11]):
        _judge_load(subject, verdict, [chosen] * 37, f"all 37 tokens to {chosen}")
    verdict.require(tokens=111)


@clause("BLOCK-11", "Nothing is dropped where one expert's load is at, below or above what a capacity would let in")
def test_loads_at_the_edges_of_capacities(subject: Subject, verdict: Verdict) -> None:
    spec = transparent_model(subject).config.routing

    @explore(subject.workshop.thorough, chosen=capacity_edges(spec.num_experts, spec.top_k))
    def check(chosen: list[list[int]]) -> None:
        loads = np.bincount(np.ravel(chosen), minlength=spec.num_experts).tolist()
        _judge_load(subject, verdict, chosen, f"{len(chosen)} tokens, experts chosen {loads} times")

    verdict.require(tokens=160)


def _judge_load(subject: Subject, verdict: Verdict, chosen_TK: list[list[int]], about: str) -> None:
    """Router logits that leave no doubt: each token's chosen experts lead by six. With groups, the oracle may choose fewer of them."""
    model = transparent_model(subject)
    others_E = OTHERS - np.arange(model.config.routing.num_experts, dtype=np.float32) / 16  # no two groups tie
    logits_TE = np.tile(others_E, (len(chosen_TK), 1))
    for t, experts in enumerate(chosen_TK):
        logits_TE[t, experts] = CHOSEN + np.arange(len(experts)) / 4
    x_TD = in_model(model).input(logits_TE)
    ids_TK, _ = one_layer(model.probe().route(0, x_TD), len(x_TD), model.config.routing.top_k)
    wanted_TK = model.case.oracle.route(0, x_TD)[1]
    verdict.judge(Metric("misrouted_tokens", int(np.sum((np.sort(ids_TK) != np.sort(wanted_TK)).any(-1))), 0), about=about)
    judge_block(model, verdict, x_TD, about=about, exact=True)
