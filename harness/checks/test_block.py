"""BLOCK: one MoE block (router, experts, combine) on forced hidden states. Legend: T tokens, E experts, K top-k, D hidden."""

from __future__ import annotations

from functools import partial

import numpy as np

from harness.checks.block_runs import block_metrics, decided_states, judge_block
from harness.checks.clause import clause
from harness.checks.exhibits import block_exhibit
from harness.checks.small_models import like
from harness.checks.states import layer_states
from harness.judge import bounds
from harness.judge.distance import relative_rms, worst_row
from harness.judge.metric import Metric
from harness.subject import Subject
from harness.synthetic import FLAT, PEAKED
from harness.verdict import Verdict
from implementations.interface import PinnedRouting

TOKENS_PER_EXPERT = 4


@clause("BLOCK-01", "The MoE block equals the oracle on the oracle's hidden states")
def test_block_equals_oracle(subject: Subject, verdict: Verdict) -> None:
    for layer, x_TD in layer_states(subject):
        judge_block(subject, verdict, x_TD, layer, f"MoE layer {layer}")
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
        shown = partial(block_exhibit, subject, layer, x_TD, ids_TK, observed_TD, weights_TK=weights_TK[0])
        verdict.judge(*block_metrics(observed_TD, expected_TD, ids_TK, subject), about=f"MoE layer {layer}", exhibit=shown)
        verdict.saw(tokens=len(x_TD), experts_hit=len(np.unique(ids_TK)))
    verdict.require(experts_hit=subject.config.routing.num_experts * len(subject.config.moe_layers))


@clause("BLOCK-03", "The block equals the oracle under a flat and under a peaked router")
def test_block_at_two_router_scales(subject: Subject, verdict: Verdict) -> None:
    for scale in (FLAT, PEAKED):
        model = like(subject, "router-scale", router_scale=scale)
        judge_block(model, verdict, decided_states(model, 64), about=f"router logits of spread {scale}")
    verdict.require(tokens=128)


@clause("BLOCK-10", "With all combine weights zero the shared expert alone remains, or nothing")
def test_zero_weights_leave_the_shared_expert(subject: Subject, verdict: Verdict) -> None:
    subject.needs("pinned")
    probe, spec = subject.probe(), subject.config.routing
    for layer, x_TD in layer_states(subject):
        pinned = round_robin(spec.num_experts, spec.top_k)
        x_TD = x_TD[np.arange(pinned.topk_ids_LTK.shape[1]) % len(x_TD)]
        zero = PinnedRouting(pinned.topk_ids_LTK, np.zeros(pinned.topk_ids_LTK.shape, np.float32))
        observed_TD = probe.moe_block(layer, x_TD, zero)
        pinned_TK = (zero.topk_ids_LTK[0], zero.topk_weights_LTK[0])  # type: ignore[index]
        shown = partial(block_exhibit, subject, layer, x_TD, pinned_TK[0], observed_TD, weights_TK=pinned_TK[1])
        verdict.judge(*_shared_metrics(observed_TD, layer, x_TD, subject), about=f"MoE layer {layer}", exhibit=shown)
        verdict.saw(tokens=len(x_TD))
    verdict.require(tokens=32)


def _shared_metrics(observed_TD: np.ndarray, layer: int, x_TD: np.ndarray, subject: Subject) -> list[Metric]:
    if subject.config.shared_expert == "none":
        return [Metric("largest_output", float(np.max(np.abs(observed_TD))), 0)]
    expected_TD, bound = subject.case.oracle.shared(layer, x_TD.astype(np.float64)), bounds.BLOCK[subject.dtype]
    return [
        Metric("shared_expert_error", relative_rms(observed_TD, expected_TD), bound),
        Metric("worst_token_error", worst_row(observed_TD, expected_TD), bounds.WORST_TOKEN * bound),
    ]


def round_robin(num_experts: int, top_k: int) -> PinnedRouting:
    """Every expert in every slot, TOKENS_PER_EXPERT times; weights differ by slot, so that swapped slots show."""
    first_T = np.arange(num_experts * TOKENS_PER_EXPERT)
    ids_TK = (first_T[:, None] + np.arange(top_k)) % num_experts
    weights_K = np.arange(1, top_k + 1, dtype=np.float32)
    weights_TK = np.broadcast_to(weights_K / weights_K.sum(), ids_TK.shape).astype(np.float32)
    return PinnedRouting(ids_TK[None].astype(np.int64), weights_TK[None].copy())
