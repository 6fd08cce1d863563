"""BLOCK: what may be rearranged without changing an output. Legend: T tokens, E experts, K top-k, D hidden.

Routers are transparent here: rearranging cannot flip a selection, so what differs is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moe_harness.implementations.interface import PinnedRouting, RoutingSpec
from moe_harness.judge.exhibit import Exhibit
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.block_runs import BlockRun, block_metrics, shown
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.situations import Tensors, rewritten
from moe_harness.suite.subject import Subject
from moe_harness.suite.transparent import in_model, one_layer, transparent_model

TOKENS = 33
ROUTER_TENSORS = ("moe.router.weight", "moe.router.bias", "moe.router.correction_bias")
EXPERT_TENSORS = (*ROUTER_TENSORS, "moe.gate_up.weight", "moe.down.weight")


@clause("BLOCK-05", "Permuting the tokens permutes the outputs")
def test_permuted_tokens_give_permuted_outputs(subject: Subject, verdict: Verdict) -> None:
    model = transparent_model(subject)
    probe, x_TD, ids_TK = _expected(model)
    for seed in range(3):
        order_T = subject.random(seed).permutation(TOKENS)
        moved_TD = np.ascontiguousarray(x_TD[order_T])
        moved_TK, _ = one_layer(probe.route(0, moved_TD), TOKENS, model.config.routing.top_k)
        changed = int(np.sum(np.sort(moved_TK) != np.sort(ids_TK[order_T])))
        run = BlockRun(moved_TD, PinnedRouting(ids_TK[order_T][None]), probe.moe_block(0, moved_TD))
        metrics = (Metric("changed_ids", changed, 0), *block_metrics(model, run))
        verdict.judge(*metrics, about=f"order {order_T.tolist()}", exhibit=_shown(model, run, moved_TK))
        verdict.saw(tokens=TOKENS)
    verdict.require(tokens=3 * TOKENS)


@clause("BLOCK-06", "Relabelling the experts, router and weights together, changes no output", dtypes=LOGIC)
def test_relabelled_experts_give_the_same_outputs(subject: Subject, verdict: Verdict) -> None:
    model = transparent_model(subject)
    _, x_TD, ids_TK = _expected(model)
    for seed in range(2):
        old_of_new = relabelling(model.config.routing, seed)
        relabelled = rewritten(model, f"relabelled-{seed}", lambda tensors, order=old_of_new: _take(tensors, order))  # type: ignore[misc]
        probe = relabelled.probe()
        new_TK, _ = one_layer(probe.route(0, x_TD), TOKENS, model.config.routing.top_k)
        changed = int(np.sum(np.sort(old_of_new[new_TK]) != np.sort(ids_TK)))
        run = BlockRun(x_TD, PinnedRouting(ids_TK[None]), probe.moe_block(0, x_TD))
        metrics = (Metric("changed_experts", changed, 0), *block_metrics(model, run))
        verdict.judge(*metrics, about=f"old of new: {old_of_new.tolist()}", exhibit=_shown(relabelled, run, new_TK))
        verdict.saw(tokens=TOKENS)
    verdict.require(tokens=2 * TOKENS)


@clause("BLOCK-07", "With every expert there twice and twice as many chosen, the output is the same", dtypes=LOGIC)
def test_duplicated_experts_give_the_same_outputs(subject: Subject, verdict: Verdict) -> None:
    """A softmax halves every score, an L1 normalisation every weight, and there are two of each."""
    model = transparent_model(subject)
    _, x_TD, ids_TK = _expected(model)
    spec = model.config.routing
    twice = np.tile(np.arange(spec.num_experts), 2)
    doubled = replace(spec, num_experts=2 * spec.num_experts, top_k=2 * spec.top_k)
    if spec.num_groups > 1:
        doubled = replace(doubled, num_groups=2 * spec.num_groups, top_groups=2 * spec.top_groups)
    config = replace(model.config, routing=doubled)
    duplicated = rewritten(model, "duplicated", lambda tensors: _take(tensors, twice), config)
    probe = duplicated.probe()
    both_TK, _ = one_layer(probe.route(0, x_TD), TOKENS, doubled.top_k)
    wanted = np.sort(np.concatenate([ids_TK, ids_TK + spec.num_experts], axis=-1))
    run = BlockRun(x_TD, PinnedRouting(ids_TK[None]), probe.moe_block(0, x_TD))
    metrics = (Metric("changed_experts", int(np.sum(np.sort(both_TK) != wanted)), 0), *block_metrics(model, run))
    verdict.judge(*metrics, exhibit=_shown(duplicated, run, both_TK))
    verdict.saw(tokens=TOKENS)
    verdict.require(tokens=TOKENS)


def relabelling(spec: RoutingSpec, seed: int) -> np.ndarray:
    """Old expert id of every new one: groups change places, and experts inside them."""
    random, size = np.random.default_rng(seed), spec.num_experts // spec.num_groups
    return np.concatenate([group * size + random.permutation(size) for group in random.permutation(spec.num_groups)])


def _expected(model: Subject) -> tuple:
    """(probe, x_TD, the oracle's ids_TK) for clearly separated router logits."""
    ranks_TE = np.argsort(model.random(7).random((TOKENS, model.config.routing.num_experts)))
    x_TD = in_model(model).input((ranks_TE.astype(np.float32) - 6) / 2)
    ids_TK = model.case.oracle.route(0, x_TD)[1]
    return model.probe(), x_TD, ids_TK


def _shown(model: Subject, run: BlockRun, chosen_TK: np.ndarray) -> Callable[[], Exhibit]:
    """The run under the experts that this model's own router chose."""
    return shown(model, replace(run, pinned=PinnedRouting(chosen_TK[None])))


def _take(tensors: Tensors, order: np.ndarray) -> Tensors:
    """Every tensor that has a row per expert, with its rows taken in this order."""
    return {name: t[order] if name.endswith(EXPERT_TENSORS) else t for name, t in tensors.items()}
