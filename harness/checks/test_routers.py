"""ROUTE: what a RoutingSpec can ask beyond softmax and top-k, of routers by themselves and in models. Legend: T tokens, E experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from moe_harness.implementations.interface import RoutingSpec
from moe_harness.judge import routing
from moe_harness.judge.metric import Metric
from moe_harness.judge.rounding import UNIT_ROUNDOFF, weight_error
from moe_harness.judge.verdict import Verdict
from moe_harness.oracle.routing import combine_weights
from moe_harness.suite.clause import LOGIC, MODELS, ROUTERS, clause
from moe_harness.suite.exhibits import transparent_exhibit
from moe_harness.suite.subject import Subject
from moe_harness.suite.transparent import TransparentRouter, bare, inside, resized

BOTH, TOKENS = (MODELS, ROUTERS), 64


def has_correction(spec: RoutingSpec) -> bool:
    return spec.correction_bias


def has_groups(spec: RoutingSpec) -> bool:
    return spec.num_groups > 1


def has_scaling(spec: RoutingSpec) -> bool:
    return spec.scaling_factor != 1.0


def has_bias(spec: RoutingSpec) -> bool:
    return spec.router_bias


@clause("ROUTE-12", "A correction bias moves selections, never weights", about=BOTH, when=has_correction)
def test_correction_bias_selects_but_does_not_weigh(subject: Subject, verdict: Verdict) -> None:
    for router in _routers(subject):
        logits_TE = _logits(router)
        ids_TK, weights_TK = router.route(logits_TE)
        uncorrected_TK = np.argsort(-logits_TE, axis=-1, kind="stable")[:, : router.spec.top_k]
        expected_TK = combine_weights(router.biased(logits_TE), ids_TK, router.spec)  # of the scores, whatever the correction
        shown = partial(transparent_exhibit, subject, router)
        verdict.judge(*routing.selection(router.ranking(logits_TE), ids_TK, router.allowance(), router.spec), exhibit=shown)
        verdict.judge(routing.weights(weights_TK, expected_TK, weight_error(subject.dtype)), exhibit=shown)
        verdict.saw(tokens=TOKENS, selections_moved=int(np.sum((np.sort(ids_TK) != np.sort(uncorrected_TK)).any(-1))))
    verdict.require(selections_moved=8)


@clause("ROUTE-13", "Only experts of the best groups are chosen, a group counting by its two best", about=BOTH, when=has_groups)
def test_experts_come_from_the_best_groups(subject: Subject, verdict: Verdict) -> None:
    for router in (*_routers(subject), *_routers(subject, correction=-2)):  # corrected scores below zero must not lose to a mask's zeros
        logits_TE, spec = _logits(router), router.spec
        for shift in (0.0, -2.0):
            ids_TK, _ = router.route(logits_TE + shift)
            verdict.judge(*routing.ids(ids_TK, spec.num_experts), about=f"logits shifted by {shift}")
            groups_TK = ids_TK // (spec.num_experts // spec.num_groups)
            used = max(len(set(row)) for row in groups_TK.tolist())
            shown = partial(transparent_exhibit, subject, router)
            verdict.judge(Metric("groups_used", used, spec.top_groups), exhibit=shown)
            ranking_TE = router.ranking(logits_TE + shift)
            selected = routing.selection(ranking_TE, ids_TK, router.allowance(), spec)
            verdict.judge(*selected, about=f"logits shifted by {shift}", exhibit=shown)
            free = np.argsort(-ranking_TE, axis=-1, kind="stable")[:, : spec.top_k]
            verdict.saw(tokens=TOKENS, tokens_limited=int(np.sum((np.sort(free) != np.sort(ids_TK)).any(-1))))
    verdict.require(tokens_limited=8)


@clause("ROUTE-14", "The scaling factor multiplies the weights after normalisation", about=BOTH, when=has_scaling)
def test_scaling_comes_after_normalisation(subject: Subject, verdict: Verdict) -> None:
    for router in _routers(subject):
        _, weights_TK = router.route(_logits(router))
        sums_T = weights_TK.astype(np.float64).sum(-1)
        if router.spec.normalize_topk:
            error = float(np.max(np.abs(sums_T / router.spec.scaling_factor - 1)))
            metric = Metric("weight_sum_error", error, weight_error(subject.dtype))
            verdict.judge(metric, exhibit=partial(transparent_exhibit, subject, router))
            verdict.saw(tokens=TOKENS)
    verdict.require(tokens=TOKENS)


@clause("ROUTE-15", "The router's bias is part of its logits", dtypes=LOGIC, about=BOTH, when=has_bias)
def test_router_bias_is_part_of_the_logits(subject: Subject, verdict: Verdict) -> None:
    for router in _routers(subject):
        logits_TE = _logits(router)
        answer, shown = router.layer(router.input(logits_TE)), partial(transparent_exhibit, subject, router)
        if answer.router_logits_LTE is not None:
            error = float(np.max(np.abs(answer.router_logits_LTE[0] - router.biased(logits_TE))))
            verdict.judge(Metric("logit_error", error, UNIT_ROUNDOFF["float32"] * 16), exhibit=shown)
        unbiased_TK = np.argsort(-logits_TE, axis=-1, kind="stable")[:, : router.spec.top_k]
        selected = routing.selection(router.ranking(logits_TE), answer.topk_ids_LTK[0], router.allowance(), router.spec)
        verdict.judge(*selected, exhibit=shown)
        moved = int(np.sum((np.sort(unbiased_TK) != np.sort(answer.topk_ids_LTK[0])).any(-1)))
        verdict.saw(tokens=TOKENS, selections_moved=moved)
    verdict.require(selections_moved=8)


def _routers(subject: Subject, correction: int = 0) -> Iterator[TransparentRouter]:
    """Small, and for a router by itself at the true size of its model too. `correction`: see `bare`; a model's is its own."""
    if subject.router_spec is None:
        yield inside(subject, 16, 3, True)
        return
    yield bare(subject, replace(resized(subject.router_spec, 16, 3), top_groups=2 if has_groups(subject.router_spec) else 1), correction)
    yield bare(subject, subject.router_spec, correction)


def _logits(router: TransparentRouter) -> np.ndarray:
    """Close to one another, on the grid of sixteenths that every dtype holds exactly: biases of a few sixteenths then decide."""
    return np.random.default_rng(5).integers(-16, 17, (TOKENS, router.spec.num_experts)).astype(np.float32) / 16
