"""Error of one MoE block's output, pooled three ways. Legend: T tokens, K top-k, D hidden."""

from __future__ import annotations

import math

import numpy as np

from harness.judge import bounds
from harness.judge.distance import relative_rms, worst_row
from harness.judge.metric import Metric


def kernel_bound(dtype: str, hidden_size: int, ffn_size: int) -> float:
    """Relative RMS error allowed to the experts of one layer: the roundings of bounds.BLOCK, measured on layers of at most 128 columns, and
    the float32 accumulation of two products over `hidden_size` and `ffn_size` terms, whose errors grow like the square root of their number
    (Higham and Mary 2019). At 4096 and 14336 terms that adds 1.1e-5: much in float32, nothing in bfloat16."""
    return bounds.BLOCK[dtype] + bounds.UNIT_ROUNDOFF["float32"] * (math.sqrt(hidden_size) + math.sqrt(ffn_size))


def block_metrics(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray, bound: float) -> list[Metric]:
    """Error pooled over all tokens, over the tokens of the worst expert, and of the worst token. `ids_TK`: the experts of every token;
    `bound`: allowed relative RMS error over all tokens (bounds.BLOCK). Raises AssertionError for a wrong shape."""
    assert observed_TD.shape == expected_TD.shape, f"expected shape {expected_TD.shape}, got {observed_TD.shape}"
    worst_expert = max(expert_errors(observed_TD, expected_TD, ids_TK).values(), default=0.0)
    return [
        Metric("block_error", relative_rms(observed_TD, expected_TD), bound),
        Metric("worst_expert_error", worst_expert, bounds.WORST_EXPERT * bound),
        Metric("worst_token_error", worst_row(observed_TD, expected_TD), bounds.WORST_TOKEN * bound),
    ]


def expert_errors(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray) -> dict[int, float]:
    """Relative RMS error over the tokens of every expert that has any."""
    pools = {int(e): (ids_TK == e).any(-1) for e in np.unique(ids_TK)}
    return {e: relative_rms(observed_TD[pool], expected_TD[pool]) for e, pool in pools.items()}
