"""ROUTE: what a router may select and with which weights. Legend: T tokens, E experts, K top-k."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from moe_harness.cases.strategies import EXAMPLES, explore, logits, shifts, tied_logits
from moe_harness.implementations.interface import PinnedRouting, Probe, Routing, RoutingSpec
from moe_harness.judge import routing
from moe_harness.judge.certificate import certify, ranking_allowance
from moe_harness.judge.distance import relative_rms
from moe_harness.judge.metric import Metric
from moe_harness.judge.rounding import router_noise, weight_allowance, weight_error
from moe_harness.judge.verdict import Verdict
from moe_harness.oracle.routing import combine_weights
from moe_harness.suite.clause import MODELS, ROUTERS, clause
from moe_harness.suite.exhibits import router_exhibit, transparent_exhibit
from moe_harness.suite.situations import layer_states
from moe_harness.suite.subject import Subject
from moe_harness.suite.transparent import TransparentRouter, one_layer, transparent_model, variants

Metrics = list[Metric]
BOTH = (MODELS, ROUTERS)
StrategyOf = Callable[[int], st.SearchStrategy[Any]]  # made for a number of experts


def is_softmax(spec: RoutingSpec) -> bool:
    return spec.scoring == "softmax"


@clause("ROUTE-01", "Selected expert ids are distinct and in range", about=BOTH)
def test_ids_are_distinct_and_in_range(subject: Subject, verdict: Verdict) -> None:
    def judge(router: TransparentRouter, logits_TE: np.ndarray) -> Metrics:
        return routing.ids(router.route(logits_TE)[0], router.spec.num_experts)

    _for_all(subject, verdict, variants(subject), judge, logits_TE=logits)


@clause("ROUTE-02", "Combine weights are finite and not negative", about=BOTH)
def test_weights_are_finite_and_not_negative(subject: Subject, verdict: Verdict) -> None:
    def judge(router: TransparentRouter, logits_TE: np.ndarray) -> Metrics:
        return routing.weights_sane(router.route(8 * logits_TE)[1])

    _for_all(subject, verdict, variants(subject), judge, logits_TE=lambda E: logits(E) | logits(E, -64, -1))


@clause("ROUTE-03", "Combine weights sum to one iff the router renormalises", about=BOTH)
def test_weights_sum_to_one_iff_renormalised(subject: Subject, verdict: Verdict) -> None:
    def judge(router: TransparentRouter, logits_TE: np.ndarray) -> Metrics:
        ids_TK, weights_TK = router.route(logits_TE)
        return [routing.weight_sum(weights_TK, router.expected_weights(logits_TE, ids_TK), weight_error(subject.dtype))]

    _for_all(subject, verdict, variants(subject), judge, logits_TE=logits)


@clause("ROUTE-04", "Selection agrees with the oracle outside the rounding margin", about=BOTH)
def test_selection_agrees_outside_the_margin(subject: Subject, verdict: Verdict) -> None:
    def exact(router: TransparentRouter, logits_TE: np.ndarray) -> Metrics:
        return routing.selection(router.ranking(logits_TE), router.route(logits_TE)[0], router.allowance(), router.spec)

    _for_all(subject, verdict, variants(subject), exact, logits_TE=logits)
    for layer, forced in enumerate(_forced_layers(subject)):
        allowance_TE = ranking_allowance(forced.delta_TE, subject.config.routing)
        certificate = certify(forced.ranking_TE, forced.ids_TK, allowance_TE, subject.config.routing)
        shown = partial(router_exhibit, subject, layer, forced.x_TD, forced.answer)
        verdict.judge(*routing.certified(certificate), about=f"MoE layer {layer}", exhibit=shown)
        observed = len(forced.ids_TK) - certificate.unobservable
        verdict.saw(tokens=observed, experts_hit=len(np.unique(forced.ids_TK)), **certificate.counts())
    verdict.require(tokens=64)


@clause("ROUTE-05", "Combine weights agree with the oracle at the candidate's own ids", about=BOTH)
def test_weights_agree_at_own_ids(subject: Subject, verdict: Verdict) -> None:
    def exact(router: TransparentRouter, logits_TE: np.ndarray) -> Metrics:
        ids_TK, weights_TK = router.route(logits_TE)
        return [routing.weights(weights_TK, router.expected_weights(logits_TE, ids_TK), weight_error(subject.dtype))]

    _for_all(subject, verdict, variants(subject), exact, logits_TE=logits)
    for layer, forced in enumerate(_forced_layers(subject)):
        # d log(softmax_i) <= |dl_i| + max|dl|: both the weight's own logit and the normaliser move.
        moved_TK = np.take_along_axis(forced.delta_TE, forced.ids_TK, -1) + forced.delta_TE.max(-1, keepdims=True)
        expected_TK = combine_weights(forced.logits_TE, forced.ids_TK, subject.config.routing)
        allowance_TK = weight_allowance(expected_TK, moved_TK, subject.dtype)
        within = routing.weights_within(forced.weights_TK, expected_TK, allowance_TK)
        verdict.judge(within, about=f"MoE layer {layer}", exhibit=partial(router_exhibit, subject, layer, forced.x_TD, forced.answer))
        verdict.saw(tokens=len(forced.ids_TK))
    verdict.require(tokens=64)


@clause("ROUTE-06", "Adding a constant to all router logits of a token changes nothing", about=BOTH, when=is_softmax)
def test_shift_invariance(subject: Subject, verdict: Verdict) -> None:
    def judge(router: TransparentRouter, logits_TE: np.ndarray, shift: int) -> Metrics:
        still, moved = (routing.dense(*router.route(logits_TE, s), router.spec.num_experts) for s in (0, shift))
        return [Metric("change_under_shift", float(np.max(np.abs(still - moved))), weight_error(subject.dtype))]

    _for_all(subject, verdict, variants(subject), judge, logits_TE=lambda E: logits(E, unique=True), shift=lambda E: shifts())


@clause("ROUTE-07", "All-negative logits are routed like any others", about=BOTH)
def test_all_negative_logits(subject: Subject, verdict: Verdict) -> None:
    _for_all(subject, verdict, variants(subject), _selection_and_weights(subject), logits_TE=lambda E: logits(E, -64, -1))


@clause("ROUTE-08", "Exact ties: distinct experts, a largest selection, equal weights for equal logits", about=BOTH)
def test_exact_ties(subject: Subject, verdict: Verdict) -> None:
    _for_all(subject, verdict, variants(subject), _selection_and_weights(subject), logits_TE=tied_logits)


@clause("ROUTE-09", "k = 1: the best expert, with weight one or its softmax score", about=BOTH)
def test_one_expert_per_token(subject: Subject, verdict: Verdict) -> None:
    _for_all(subject, verdict, variants(subject, top_k=1), _selection_and_weights(subject), logits_TE=logits)


@clause("ROUTE-10", "k = E: every expert once, with its softmax score", about=BOTH)
def test_all_experts_per_token(subject: Subject, verdict: Verdict) -> None:
    _for_all(subject, verdict, variants(subject, num_experts=12, top_k=12), _selection_and_weights(subject), logits_TE=logits)


@clause("ROUTE-11", "A NaN token leaves the routing of others bit-equal, their outputs within rounding, its own ids in range")
def test_nan_token_stays_alone(subject: Subject, verdict: Verdict) -> None:
    def judge(router: TransparentRouter, logits_TE: np.ndarray) -> Metrics:
        clean_TD = router.input(logits_TE)
        poisoned_TD = clean_TD.copy()
        poisoned_TD[len(clean_TD) // 2] = np.nan
        others = np.arange(len(clean_TD)) != len(clean_TD) // 2
        before, after = (one_layer(router.layer(x), len(x), router.spec.top_k) for x in (clean_TD, poisoned_TD))
        changed = sum(int(np.sum(a[others] != b[others])) for a, b in zip(before, after, strict=True))
        # The poisoned token joins other experts, so their matrix products change shape and may round differently.
        assert isinstance(router.answers, Probe)
        still, moved = (router.answers.moe_block(0, x)[others] for x in (clean_TD, poisoned_TD))
        spec = router.spec
        model = transparent_model(subject, spec.num_experts, spec.top_k, spec.normalize_topk)
        limits = model.floors.block(0, clean_TD, PinnedRouting(before[0][None]), others)
        # Both outputs are off by a block's error.
        drift = Metric.within("change_in_output_of_others", relative_rms(moved, still), limits["block_error"].times(2))
        return [Metric("changed_routing_of_others", changed, 0), drift, *routing.ids(after[0], router.spec.num_experts)[1:]]

    def several(num_experts: int) -> st.SearchStrategy[np.ndarray]:
        return logits(num_experts, tokens=6).filter(lambda rows: len(rows) > 1)

    _for_all(subject, verdict, variants(subject), judge, logits_TE=several)


@dataclass(frozen=True)
class Forced:
    """One layer's routing on the oracle's hidden states: these, the candidate's answer, the oracle's logits, what selection ranks, what
    rounding may move the logits by, the answer's ids and weights."""

    x_TD: np.ndarray
    answer: Routing
    logits_TE: np.ndarray
    ranking_TE: np.ndarray
    delta_TE: np.ndarray
    ids_TK: np.ndarray
    weights_TK: np.ndarray


def _forced_layers(subject: Subject) -> Iterator[Forced]:
    if subject.router_spec is not None:  # a router by itself has no hidden states
        return
    probe, oracle = subject.probe(), subject.case.oracle
    for layer, x_TD in layer_states(subject):
        answer = probe.route(layer, x_TD)
        ids_TK, weights_TK = one_layer(answer, len(x_TD), subject.config.routing.top_k)
        logits_TE = oracle.route(layer, x_TD)[0]
        delta_TE = router_noise(x_TD, oracle.router_weight(layer), logits_TE, subject.dtype).delta_TE
        yield Forced(x_TD, answer, logits_TE, oracle.ranking(layer, logits_TE), delta_TE, ids_TK, weights_TK)


def _for_all(
    subject: Subject, verdict: Verdict, routers: Iterable[TransparentRouter], judge: Callable[..., Metrics], **strategies: StrategyOf
) -> None:
    """Judges each router on generated inputs; a strategy is made for its number of experts."""
    for router in routers:
        _explore(subject, verdict, router, judge, {name: make(router.spec.num_experts) for name, make in strategies.items()})
    verdict.require(tokens=EXAMPLES)


def _explore(
    subject: Subject, verdict: Verdict, router: TransparentRouter, judge: Callable[..., Metrics], strategies: dict[str, Any]
) -> None:
    @explore(subject.workshop.thorough, reseed=subject.case.seed, **strategies)
    def check(**drawn: Any) -> None:
        shown = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in drawn.items()}
        about = f"E={router.spec.num_experts}, k={router.spec.top_k}: {shown}"
        verdict.judge(*judge(router, **drawn), about=about, exhibit=partial(transparent_exhibit, subject, router))
        verdict.saw(tokens=len(drawn["logits_TE"]))


def _selection_and_weights(subject: Subject) -> Callable[..., Metrics]:
    """Distinct ids, the exact top-k (ties free) and the oracle's weights."""

    def judge(router: TransparentRouter, logits_TE: np.ndarray) -> Metrics:
        ids_TK, weights_TK = router.route(logits_TE)
        found = routing.ids(ids_TK, router.spec.num_experts)
        if any(metric.violated for metric in found):
            return found
        error = routing.weights(weights_TK, router.expected_weights(logits_TE, ids_TK), weight_error(subject.dtype))
        return [*found, routing.selection(router.ranking(logits_TE), ids_TK, router.allowance(), router.spec)[0], error]

    return judge
