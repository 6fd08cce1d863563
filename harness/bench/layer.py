"""A single layer that is timed, its router and its block: the hidden states that it gets, whether it uses the experts that are pinned
(asked before a pinned routing is timed), and its gate, against the oracle. A layer is no model, and one as large as these has no reference
run that would bound the error of a whole pass; of a block, honest errors are known at any size.

Legend: T tokens, K top-k, E experts.
"""

from __future__ import annotations

import numpy as np

from moe_harness.cases.tensors import round_to
from moe_harness.implementations.interface import Model, PinnedRouting, Probe
from moe_harness.judge.certificate import ranking_allowance
from moe_harness.judge.limit import Blind
from moe_harness.judge.rounding import router_noise
from moe_harness.judge.routing import selection
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.block_runs import BlockRun, block_metrics, decided
from moe_harness.suite.subject import Subject


def hidden_states(subject: Subject, tokens: int) -> np.ndarray:
    """x_TD, float32: normal, as after a norm, and exact in the subject's dtype."""
    return round_to(np.random.default_rng(6).standard_normal((tokens, subject.config.hidden_size), np.float32), subject.dtype)


def probe_of(subject: Subject, model: Model) -> Probe:
    """The very model, known to have `route` and `moe_block`. Raises Unsupported where they are not declared."""
    subject.needs("probe")
    assert isinstance(model, Probe), f"{subject.backend.name} declares `probe` but its model has no route and moe_block"
    return model


def broken_pins(subject: Subject, probe: Probe) -> str:
    """Why pinned times of this model would mean nothing; empty if its block, pinned to every expert in turn, computes what the oracle does
    with them. The oracle remembers its answer, since the question is the same each time."""
    ids_TK = every_expert(subject.config.routing.num_experts, subject.config.routing.top_k)
    x_TD, pinned = hidden_states(subject, len(ids_TK)), PinnedRouting(ids_TK[None])
    try:
        metrics = block_metrics(subject, BlockRun(x_TD, pinned, probe.moe_block(0, x_TD, pinned)))
    except (Blind, AssertionError) as error:
        return f"the pinned block cannot be judged: {error}"
    wrong = [metric for metric in metrics if metric.violated]
    return f"the block does not compute what its pinned experts do: {wrong[0]}" if wrong else ""


def every_expert(E: int, K: int) -> np.ndarray:
    """ids (ceil(E / K), K) that reach all experts."""
    T = -(-E // K)
    return np.arange(T * K).reshape(T, K) % E


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
