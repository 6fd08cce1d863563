"""Error of one MoE block's output, pooled three ways. Legend: T tokens, K top-k, D hidden."""

from __future__ import annotations

import numpy as np

from moe_harness.judge.distance import relative_rms, worst_row
from moe_harness.judge.limit import Limits
from moe_harness.judge.metric import Metric


def block_metrics(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray, limits: Limits) -> list[Metric]:
    """Error pooled over all tokens, over the tokens of the worst expert, and of the worst token. `ids_TK`: the experts of every token.
    Raises AssertionError for a wrong shape."""
    assert observed_TD.shape == expected_TD.shape, f"expected shape {expected_TD.shape}, got {observed_TD.shape}"
    return [Metric.within(name, value, limits[name]) for name, value in block_errors(observed_TD, expected_TD, ids_TK).items()]


def block_errors(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray) -> dict[str, float]:
    """The three errors by name."""
    return {
        "block_error": relative_rms(observed_TD, expected_TD),
        "worst_expert_error": max(expert_errors(observed_TD, expected_TD, ids_TK).values(), default=0.0),
        "worst_token_error": worst_row(observed_TD, expected_TD),
    }


def expert_errors(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray) -> dict[int, float]:
    """Relative RMS error over the tokens of every expert that has any."""
    pools = {int(e): (ids_TK == e).any(-1) for e in np.unique(ids_TK)}
    return {e: relative_rms(observed_TD[pool], expected_TD[pool]) for e, pool in pools.items()}
