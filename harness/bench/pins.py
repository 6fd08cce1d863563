"""Whether a model uses the experts that are pinned, asked before a pinned routing is timed. Legend: T tokens, K top-k, E experts."""

from __future__ import annotations

import numpy as np

from moe_harness.bench.states import hidden_states
from moe_harness.implementations.interface import PinnedRouting, Probe
from moe_harness.judge.limit import Blind
from moe_harness.suite.block_runs import BlockRun, block_metrics
from moe_harness.suite.subject import Subject


def broken(subject: Subject, probe: Probe) -> str:
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
