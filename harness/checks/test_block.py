"""BLOCK: one MoE block (router, experts, combine) on forced hidden states. Legend: T tokens, E experts, K top-k, D hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moe_harness.cases.synthetic import FLAT, PEAKED
from moe_harness.implementations.interface import PinnedRouting
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.block_runs import BlockRun, block_metrics, decided_states, expert_errors, judge_block, judge_run, shown
from moe_harness.suite.clause import clause
from moe_harness.suite.situations import layer_states, like
from moe_harness.suite.subject import Subject

# Each expert has a first, a last and inner tokens in its segment, and an error over so many tokens of D >= 96 numbers is settled:
# it scatters by 1 / sqrt(2 * 4 * 96), 4 %, between honest implementations.
TOKENS_PER_EXPERT = 4


@clause("BLOCK-01", "The MoE block equals the oracle on the oracle's hidden states")
def test_block_equals_oracle(subject: Subject, verdict: Verdict) -> None:
    for layer, x_TD in layer_states(subject):
        judge_block(subject, verdict, x_TD, layer, f"MoE layer {layer}")
    verdict.require(tokens=64)


@clause("BLOCK-02", "Pinned routes reach every expert, and each equals the oracle")
def test_every_expert_equals_oracle(subject: Subject, verdict: Verdict) -> None:
    """Together, and each alone: with all the weight on one expert, its error is not its neighbours'."""
    subject.needs("pinned")
    spec, runs = subject.config.routing, []
    for layer, x_TD in layer_states(subject):
        routes = [route(spec.num_experts, spec.top_k) for route in (round_robin, alone)]
        runs.append([_pinned_run(subject, layer, x_TD, pinned) for pinned in routes])
    errors_LE = [expert_errors(subject, run) for _, run in runs]
    verdict.map(errors_LE)
    for layer, (run, one) in enumerate(runs):
        judge_run(subject, verdict, run, f"MoE layer {layer}")
        for expert, error in enumerate(errors_LE[layer]):
            own = shown(subject, replace(one, clear_T=one.weighted_ids_T == expert))
            verdict.judge(error, about=f"MoE layer {layer}, expert {expert} alone", exhibit=own)
    _saw_every_expert(verdict, spec.num_experts, runs)
    verdict.require(experts_hit=spec.num_experts * len(subject.config.moe_layers), tokens_per_expert=TOKENS_PER_EXPERT)


def _pinned_run(subject: Subject, layer: int, x_TD: np.ndarray, pinned: PinnedRouting) -> BlockRun:
    """The block on as many tokens as are pinned."""
    x_TD = x_TD[np.arange(pinned.topk_ids_LTK.shape[1]) % len(x_TD)]
    return BlockRun(x_TD, pinned, subject.probe().moe_block(layer, x_TD, pinned), layer=layer)


def _saw_every_expert(verdict: Verdict, num_experts: int, runs: list[list[BlockRun]]) -> None:
    """`tokens_per_expert`: of the (MoE layer, expert) that got fewest by itself."""
    loads_LE = [np.bincount(run.weighted_ids_T, minlength=num_experts) for _, run in runs]
    verdict.saw(tokens=sum(len(run.x_TD) for both in runs for run in both), experts_hit=int(np.count_nonzero(loads_LE)))
    verdict.saw(tokens_per_expert=int(np.min(loads_LE)))


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
        run = BlockRun(x_TD, zero, observed_TD, layer=layer)
        verdict.judge(*_shared_metrics(run, subject), about=f"MoE layer {layer}", exhibit=shown(subject, run))
        verdict.saw(tokens=len(x_TD))
    verdict.require(tokens=32)


def _shared_metrics(run: BlockRun, subject: Subject) -> list[Metric]:
    if subject.config.shared_expert == "none":
        return [Metric("largest_output", float(np.max(np.abs(run.observed_TD))), 0)]
    return block_metrics(subject, run)


def round_robin(num_experts: int, top_k: int) -> PinnedRouting:
    """Every expert in every slot, TOKENS_PER_EXPERT times; weights differ by slot, so that swapped slots show."""
    first_T = np.arange(num_experts * TOKENS_PER_EXPERT)
    ids_TK = (first_T[:, None] + np.arange(top_k)) % num_experts
    weights_K = np.arange(1, top_k + 1, dtype=np.float32)
    weights_TK = np.broadcast_to(weights_K / weights_K.sum(), ids_TK.shape).astype(np.float32)
    return PinnedRouting(ids_TK[None].astype(np.int64), weights_TK[None].copy())


def alone(num_experts: int, top_k: int) -> PinnedRouting:
    """Every expert with all the weight, in every slot, for TOKENS_PER_EXPERT tokens or more; its neighbours get none."""
    tokens = max(TOKENS_PER_EXPERT, top_k)
    expert_T, slot_T = np.repeat(np.arange(num_experts), tokens), np.tile(np.arange(tokens) % top_k, num_experts)
    ids_TK = (expert_T[:, None] - slot_T[:, None] + np.arange(top_k)) % num_experts
    weights_TK = (np.arange(top_k) == slot_T[:, None]).astype(np.float32)
    return PinnedRouting(ids_TK[None].astype(np.int64), weights_TK[None])
