"""One MoE block run and judged against the oracle. Legend: T tokens, K top-k, D hidden."""

from __future__ import annotations

from functools import partial

import numpy as np

from harness.checks.exhibits import block_exhibit
from harness.checks.small_models import hidden_states
from harness.checks.transparent import one_layer
from harness.judge import block, bounds
from harness.judge.certificate import ranking_allowance, rounding_allowance
from harness.judge.metric import Metric
from harness.oracle.model import Oracle
from harness.oracle.routing import combine_weights, gap
from harness.subject import Subject
from harness.verdict import Verdict


def block_metrics(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray, subject: Subject) -> list[Metric]:
    """Those of judge/block.py, at the subject's dtype."""
    return block.block_metrics(observed_TD, expected_TD, ids_TK, bounds.BLOCK[subject.dtype])


def judge_block(subject: Subject, verdict: Verdict, x_TD: np.ndarray, layer: int = 0, about: str = "", exact: bool = False) -> None:
    """Runs the block on x and compares with the oracle, which is given the experts that the candidate's router shows; tokens that two
    honest routers may send elsewhere are left out, since a block may well route by another kernel than `route` does. `exact`: the logits
    are exact in every dtype, so that only ties are left out."""
    probe, oracle = subject.probe(), subject.case.oracle
    ids_TK, _ = one_layer(probe.route(layer, x_TD), len(x_TD), subject.config.routing.top_k)
    observed_TD = probe.moe_block(layer, x_TD.copy())  # one that writes to its input shall not spoil the comparison
    expected_TD = expected_output(oracle, layer, x_TD, ids_TK)
    verdict.judge(shape_metric(observed_TD, x_TD), about=about)
    clear_T = decided(subject, layer, x_TD, exact)
    metrics = block_metrics(observed_TD[clear_T], expected_TD[clear_T], ids_TK[clear_T], subject)
    verdict.judge(*metrics, about=about, exhibit=partial(block_exhibit, subject, layer, x_TD, ids_TK, observed_TD, judged_T=clear_T))
    verdict.saw(tokens=int(clear_T.sum()), experts_hit=len(np.unique(ids_TK[clear_T])))


def decided(subject: Subject, layer: int, x_TD: np.ndarray, exact: bool = False) -> np.ndarray:
    """Boolean (T): no rounding in the subject's dtype flips the token's selection. Two experts may err by delta each, two groups, which
    are sums of two, by twice that."""
    oracle, spec = subject.case.oracle, subject.config.routing
    relative = 0.0 if exact else bounds.router_rounding(subject.dtype, x_TD.shape[-1])
    delta_TE = ranking_allowance(rounding_allowance(x_TD, oracle.router_weight(layer), relative), spec)
    ranking_TE = oracle.ranking(layer, oracle.route(layer, x_TD)[0])
    return gap(ranking_TE, spec) > (4 if spec.num_groups > 1 else 2) * np.max(delta_TE, axis=-1)


def decided_states(subject: Subject, tokens: int) -> np.ndarray:
    """x_TD of unit scale whose selections no rounding flips."""
    found = [np.zeros((0, subject.config.hidden_size), np.float32)]
    for seed in range(100):
        if sum(map(len, found)) >= tokens:
            break
        x_TD = hidden_states(subject, 4 * tokens + 16, seed)
        found.append(x_TD[decided(subject, 0, x_TD)])
    return np.ascontiguousarray(np.concatenate(found)[:tokens])


def expected_output(oracle: Oracle, layer: int, x_TD: np.ndarray, ids_TK: np.ndarray) -> np.ndarray:
    """y_TD of the oracle's block with these experts, weighted by its own scores."""
    weights_TK = combine_weights(oracle.route(layer, x_TD)[0], ids_TK, oracle.config.routing)
    return oracle.combine(layer, x_TD, ids_TK, weights_TK)


def shape_metric(observed_TD: np.ndarray, x_TD: np.ndarray) -> Metric:
    """One output row per token, in float32."""
    wrong = observed_TD.shape != x_TD.shape or observed_TD.dtype != np.float32
    return Metric("wrong_shape_or_dtype", int(wrong), 0)
