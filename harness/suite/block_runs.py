"""One MoE block run and judged against the oracle. Legend: T tokens, K top-k, D hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from moe_harness.implementations.interface import PinnedRouting
from moe_harness.judge import errors
from moe_harness.judge.certificate import ranking_allowance
from moe_harness.judge.distance import relative_rms
from moe_harness.judge.exhibit import Exhibit
from moe_harness.judge.metric import Metric
from moe_harness.judge.rounding import router_noise
from moe_harness.judge.verdict import Verdict
from moe_harness.oracle.routing import gap
from moe_harness.suite.bounds.reference import one_layer_weights
from moe_harness.suite.exhibits import block_exhibit
from moe_harness.suite.situations import hidden_states
from moe_harness.suite.subject import Subject
from moe_harness.suite.transparent import one_layer


@dataclass(frozen=True)
class BlockRun:
    """What a block was given and gave. `pinned`: L = 1; the experts that it chose where none were pinned. `clear_T`: tokens to judge."""

    x_TD: np.ndarray
    pinned: PinnedRouting
    observed_TD: np.ndarray
    clear_T: np.ndarray | None = None
    layer: int = 0

    @property
    def ids_TK(self) -> np.ndarray:
        return self.pinned.topk_ids_LTK[0]

    @property
    def weighted_ids_T(self) -> np.ndarray:
        """The expert with the largest pinned weight."""
        assert self.pinned.topk_weights_LTK is not None
        return np.take_along_axis(self.ids_TK, self.pinned.topk_weights_LTK[0].argmax(-1)[:, None], axis=-1)[:, 0]


def expected_block(subject: Subject, run: BlockRun) -> np.ndarray:
    """y_TD of the oracle; asserts that what came has its shape."""
    expected_TD = subject.case.oracle.moe_block(run.layer, run.x_TD, run.ids_TK, one_layer_weights(run.pinned))[0]
    assert run.observed_TD.shape == expected_TD.shape, f"expected shape {expected_TD.shape}, got {run.observed_TD.shape}"
    return expected_TD


def expert_errors(subject: Subject, run: BlockRun) -> list[Metric]:
    """The error of every expert that has its tokens to itself."""
    expected_TD = expected_block(subject, run)
    pools = [run.weighted_ids_T == expert for expert in range(subject.config.routing.num_experts)]
    limits = [subject.floors.block(run.layer, run.x_TD, run.pinned, pool)["block_error"] for pool in pools]
    errors = [relative_rms(run.observed_TD[pool], expected_TD[pool]) for pool in pools]
    return [Metric.within("expert_error", error, limit) for error, limit in zip(errors, limits, strict=True)]


def block_metrics(subject: Subject, run: BlockRun) -> list[Metric]:
    """Those of judge/errors.py, against the oracle and the floors of the subject's case."""
    expected_TD = expected_block(subject, run)
    rows = np.ones(len(run.x_TD), bool) if run.clear_T is None else run.clear_T
    limits = subject.floors.block(run.layer, run.x_TD, run.pinned, rows)
    return errors.block_metrics(run.observed_TD[rows], expected_TD[rows], run.ids_TK[rows], limits)


def judge_block(subject: Subject, verdict: Verdict, x_TD: np.ndarray, layer: int = 0, about: str = "", exact: bool = False) -> None:
    """Runs the block on x and compares with the oracle, which is given the experts that the candidate's router shows; tokens that two
    honest routers may send elsewhere are left out, since a block may well route by another kernel than `route` does. `exact`: the logits
    are exact in every dtype, so that only ties are left out."""
    probe = subject.probe()
    ids_TK, _ = one_layer(probe.route(layer, x_TD), len(x_TD), subject.config.routing.top_k)
    observed_TD = probe.moe_block(layer, x_TD.copy())  # one that writes to its input shall not spoil the comparison
    verdict.judge(shape_metric(observed_TD, x_TD), about=about)
    clear_T = decided(subject, layer, x_TD, exact)
    judge_run(subject, verdict, BlockRun(x_TD, PinnedRouting(ids_TK[None]), observed_TD, clear_T, layer), about)
    verdict.saw(tokens=int(clear_T.sum()), experts_hit=len(np.unique(ids_TK[clear_T])))


def judge_run(subject: Subject, verdict: Verdict, run: BlockRun, about: str) -> None:
    """Against the oracle."""
    verdict.judge(*block_metrics(subject, run), about=about, exhibit=shown(subject, run))


def shown(subject: Subject, run: BlockRun) -> Callable[[], Exhibit]:
    """What a failing judgement of the run hands over."""
    judged_T = np.ones(len(run.x_TD), bool) if run.clear_T is None else run.clear_T
    return partial(block_exhibit, subject, run.layer, run.x_TD, run.pinned, run.observed_TD, judged_T)


def decided(subject: Subject, layer: int, x_TD: np.ndarray, exact: bool = False) -> np.ndarray:
    """Boolean (T): no rounding in the subject's dtype flips the token's selection. Two experts may err by delta each, two groups, which
    are sums of two, by twice that."""
    oracle, spec = subject.case.oracle, subject.config.routing
    logits_TE = oracle.route(layer, x_TD)[0]
    delta_TE = np.zeros_like(logits_TE) if exact else router_noise(x_TD, oracle.router_weight(layer), logits_TE, subject.dtype).delta_TE
    allowance_T = np.max(ranking_allowance(delta_TE, spec), axis=-1)
    return gap(oracle.ranking(layer, logits_TE), spec) > (4 if spec.num_groups > 1 else 2) * allowance_T


def decided_states(subject: Subject, tokens: int) -> np.ndarray:
    """x_TD of unit scale whose selections no rounding flips."""
    found = [np.zeros((0, subject.config.hidden_size), np.float32)]
    for seed in range(100):
        if sum(map(len, found)) >= tokens:
            break
        x_TD = hidden_states(subject, 4 * tokens + 16, seed)
        found.append(x_TD[decided(subject, 0, x_TD)])
    return np.ascontiguousarray(np.concatenate(found)[:tokens])


def shape_metric(observed_TD: np.ndarray, x_TD: np.ndarray) -> Metric:
    """One output row per token, in float32."""
    wrong = observed_TD.shape != x_TD.shape or observed_TD.dtype != np.float32
    return Metric("wrong_shape_or_dtype", int(wrong), 0)
