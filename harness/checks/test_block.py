"""BLOCK: one MoE block (router, experts, combine) on forced hidden states. Legend: T tokens, E experts, K top-k, D hidden."""

from __future__ import annotations

import numpy as np

from harness.checks.clause import clause
from harness.checks.states import layer_states
from harness.checks.transparent import one_layer
from harness.judge import bounds
from harness.judge.distance import relative_rms, worst_row
from harness.judge.metric import Metric
from harness.oracle.routing import combine_weights
from harness.subject import Subject
from harness.verdict import Verdict
from implementations.interface import PinnedRouting

TOKENS_PER_EXPERT = 4


@clause("BLOCK-01", "The MoE block equals the oracle on the oracle's hidden states")
def test_block_equals_oracle(subject: Subject, verdict: Verdict) -> None:
    probe, oracle = subject.probe(), subject.case.oracle
    for layer, x_TD in layer_states(subject):
        ids_TK, _ = one_layer(probe.route(layer, x_TD), len(x_TD), subject.config.routing.top_k)
        weights_TK = combine_weights(oracle.route(layer, x_TD)[0], ids_TK, subject.config.routing)
        expected_TD = oracle.combine(layer, x_TD, ids_TK, weights_TK)
        observed_TD = probe.moe_block(layer, x_TD)
        verdict.judge(*block_metrics(observed_TD, expected_TD, ids_TK, subject), about=f"MoE layer {layer}")
        verdict.saw(tokens=len(x_TD), experts_hit=len(np.unique(ids_TK)))
    verdict.require(tokens=64)


@clause("BLOCK-02", "Pinned routes reach every expert, and each equals the oracle")
def test_every_expert_equals_oracle(subject: Subject, verdict: Verdict) -> None:
    subject.needs("pinned")
    probe, oracle = subject.probe(), subject.case.oracle
    for layer, x_TD in layer_states(subject):
        pinned = round_robin(subject.config.routing.num_experts, subject.config.routing.top_k)
        ids_TK, weights_TK = pinned.topk_ids_LTK[0], pinned.topk_weights_LTK
        assert weights_TK is not None
        x_TD = x_TD[np.arange(len(ids_TK)) % len(x_TD)]
        expected_TD = oracle.combine(layer, x_TD, ids_TK, weights_TK[0].astype(np.float64))
        observed_TD = probe.moe_block(layer, x_TD, pinned)
        verdict.judge(*block_metrics(observed_TD, expected_TD, ids_TK, subject), about=f"MoE layer {layer}")
        verdict.saw(tokens=len(x_TD), experts_hit=len(np.unique(ids_TK)))
    verdict.require(experts_hit=subject.config.routing.num_experts * len(subject.config.moe_layers))


def round_robin(num_experts: int, top_k: int) -> PinnedRouting:
    """Every expert in every slot, TOKENS_PER_EXPERT times; weights differ by slot, so that swapped slots show."""
    first_T = np.arange(num_experts * TOKENS_PER_EXPERT)
    ids_TK = (first_T[:, None] + np.arange(top_k)) % num_experts
    weights_K = np.arange(1, top_k + 1, dtype=np.float32)
    weights_TK = np.broadcast_to(weights_K / weights_K.sum(), ids_TK.shape).astype(np.float32)
    return PinnedRouting(ids_TK[None].astype(np.int64), weights_TK[None].copy())


def block_metrics(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray, subject: Subject) -> list[Metric]:
    """Error pooled over all tokens, over the tokens of the worst expert, and of the worst token."""
    assert observed_TD.shape == expected_TD.shape, f"expected shape {expected_TD.shape}, got {observed_TD.shape}"
    bound = bounds.BLOCK[subject.dtype]
    pools = {int(e): (ids_TK == e).any(-1) for e in np.unique(ids_TK)}
    worst_expert = max(relative_rms(observed_TD[pool], expected_TD[pool]) for pool in pools.values())
    return [
        Metric("block_error", relative_rms(observed_TD, expected_TD), bound),
        Metric("worst_expert_error", worst_expert, bounds.WORST_EXPERT * bound),
        Metric("worst_token_error", worst_row(observed_TD, expected_TD), bounds.WORST_TOKEN * bound),
    ]
