"""The gate of a single layer: its router and its block against the oracle. A layer is no model, and one as large as these has no reference
run that would bound the error of a whole pass; of a block, honest errors are known at any size. Legend: T tokens, K top-k."""

from __future__ import annotations

from moe_harness.bench.pins import every_expert
from moe_harness.bench.states import hidden_states, probe_of
from moe_harness.implementations.interface import Model, PinnedRouting
from moe_harness.judge.certificate import ranking_allowance
from moe_harness.judge.rounding import router_noise
from moe_harness.judge.routing import selection
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.block_runs import BlockRun, block_metrics, decided
from moe_harness.suite.subject import Subject

TOKENS = 24


def judge_layer(subject: Subject, model: Model, verdict: Verdict) -> None:
    """Selections within rounding of the oracle's; the block by its own router, on the tokens that rounding cannot send elsewhere; where
    experts can be pinned, every one of them. Raises Violation, Blind."""
    probe, oracle, spec = probe_of(subject, model), subject.case.oracle, subject.config.routing
    x_TD = hidden_states(subject, TOKENS)
    logits_TE = oracle.route(0, x_TD)[0]
    delta_TE = router_noise(x_TD, oracle.router_weight(0), logits_TE, subject.dtype).delta_TE
    ids_TK = probe.route(0, x_TD).topk_ids_LTK[0]
    verdict.judge(*selection(oracle.ranking(0, logits_TE), ids_TK, ranking_allowance(delta_TE, spec), spec), about="of the timed layer")
    clear_T = decided(subject, 0, x_TD)
    runs = {"by its own router": BlockRun(x_TD, PinnedRouting(ids_TK[None]), probe.moe_block(0, x_TD), clear_T)}
    if "pinned" in subject.capabilities.features:
        pinned = PinnedRouting(every_expert(spec.num_experts, spec.top_k)[None])
        few_TD = x_TD[: pinned.topk_ids_LTK.shape[1]]
        runs["every expert pinned"] = BlockRun(few_TD, pinned, probe.moe_block(0, few_TD, pinned))
    for about, run in runs.items():
        verdict.judge(*block_metrics(subject, run), about=f"of the timed layer, {about}")
