"""One MoE block run and judged against the oracle. Legend: T tokens, K top-k, D hidden."""

from __future__ import annotations

import numpy as np

from harness.checks.transparent import one_layer
from harness.judge import block, bounds
from harness.judge.metric import Metric
from harness.oracle.model import Oracle
from harness.oracle.routing import combine_weights
from harness.subject import Subject
from harness.verdict import Verdict


def block_metrics(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray, subject: Subject) -> list[Metric]:
    """Those of judge/block.py, at the subject's dtype."""
    return block.block_metrics(observed_TD, expected_TD, ids_TK, bounds.BLOCK[subject.dtype])


def judge_block(subject: Subject, verdict: Verdict, x_TD: np.ndarray, layer: int = 0, about: str = "") -> None:
    """Routes x, runs the block on it and compares with the oracle, which is given the same experts."""
    probe, oracle = subject.probe(), subject.case.oracle
    ids_TK, _ = one_layer(probe.route(layer, x_TD), len(x_TD), subject.config.routing.top_k)
    expected_TD = expected_output(oracle, layer, x_TD, ids_TK)
    verdict.judge(*block_metrics(probe.moe_block(layer, x_TD), expected_TD, ids_TK, subject), about=about)
    verdict.saw(tokens=len(x_TD), experts_hit=len(np.unique(ids_TK)))


def expected_output(oracle: Oracle, layer: int, x_TD: np.ndarray, ids_TK: np.ndarray) -> np.ndarray:
    """y_TD of the oracle's block with these experts, weighted by its own scores."""
    weights_TK = combine_weights(oracle.route(layer, x_TD)[0], ids_TK, oracle.config.routing)
    return oracle.combine(layer, x_TD, ids_TK, weights_TK)


def shape_metric(observed_TD: np.ndarray, x_TD: np.ndarray) -> Metric:
    """One output row per token, in float32."""
    wrong = observed_TD.shape != x_TD.shape or observed_TD.dtype != np.float32
    return Metric("wrong_shape_or_dtype", int(wrong), 0)
