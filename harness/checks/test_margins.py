"""ROUTE: hidden states and logits that stand at a chosen distance from a flip. Legend: T tokens, E experts."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from moe_harness.cases.near_ties import Wish, margins
from moe_harness.cases.strategies import close_logits, explore, wishes
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.judge import routing
from moe_harness.judge.certificate import certify
from moe_harness.judge.rounding import softmax_resolution
from moe_harness.judge.verdict import Verdict
from moe_harness.oracle.routing import gap, ranks_logits
from moe_harness.suite.clause import clause
from moe_harness.suite.subject import Subject
from moe_harness.suite.transparent import one_layer, variants


def has_a_boundary(spec: RoutingSpec) -> bool:
    """And rounds no more than once before the scores: a bias added to rounded logits is another rounding."""
    return spec.top_k < spec.num_experts and not spec.router_bias


def ranks_plain_logits(spec: RoutingSpec) -> bool:
    return ranks_logits(spec) and not spec.router_bias


@clause("ROUTE-16", "Hidden states a chosen distance from a flip: selection is the oracle's beyond the margin", when=has_a_boundary)
def test_selection_at_chosen_gaps(subject: Subject, verdict: Verdict) -> None:
    probe, oracle, spec = subject.probe(), subject.case.oracle, subject.config.routing

    layers = st.integers(0, len(subject.config.moe_layers) - 1)

    @explore(subject.workshop.thorough, examples=30, layer=layers, wish=wishes(spec.num_experts))
    def check(layer: int, wish: Wish) -> None:
        states = margins(oracle, layer, wish, subject.dtype)
        if not len(states.x_TD):  # an impossible wish: two groups further apart than their experts can be, say
            return
        ids_TK, _ = one_layer(probe.route(layer, states.x_TD), len(states.x_TD), spec.top_k)
        certificate = certify(states.ranking_TE, ids_TK, states.delta_TE, spec)
        lead_T = states.gap_T / states.allowance_T
        shown = list(zip(states.leader_T.tolist(), states.chaser_T.tolist(), lead_T.round(2).tolist(), strict=True))
        verdict.judge(*routing.certified(certificate), about=f"MoE layer {layer}: (expert, expert, lead / allowance) {shown}")
        verdict.saw(tokens=len(shown), beyond_margin=int(np.sum(np.abs(lead_T) > 1)), **certificate.counts())

    verdict.require(beyond_margin=24)


@clause("ROUTE-17", "Logits one unit in the last place apart: the larger one is selected", when=ranks_plain_logits)
def test_neighbouring_logits_are_told_apart(subject: Subject, verdict: Verdict) -> None:
    routers = [*variants(subject, top_k=1)[:1], *variants(subject)]

    def logits_of(number: int) -> st.SearchStrategy[tuple[int, np.ndarray]]:
        spec = routers[number].spec
        return st.tuples(st.just(number), close_logits(spec.num_experts, spec.top_k, subject.dtype))

    @explore(subject.workshop.thorough, drawn=st.integers(0, len(routers) - 1).flatmap(logits_of))
    def check(drawn: tuple[int, np.ndarray]) -> None:
        router, logits_TE = routers[drawn[0]], drawn[1]
        ranking_TE = router.ranking(logits_TE)
        resolution_TE = softmax_resolution(ranking_TE)
        certificate = certify(ranking_TE, router.route(logits_TE)[0], resolution_TE, router.spec)
        about = f"E={router.spec.num_experts}, k={router.spec.top_k}: {logits_TE.tolist()}"
        verdict.judge(*routing.certified(certificate), about=about)
        told_apart = gap(ranking_TE, router.spec) > 2 * resolution_TE.max(-1)
        verdict.saw(tokens=len(logits_TE), beyond_margin=int(told_apart.sum()), **certificate.counts())

    verdict.require(beyond_margin=12)
