"""Judgement of a routing. Legend: T tokens, E experts, K top-k."""

from __future__ import annotations

import numpy as np

from moe_harness.implementations.interface import RoutingSpec
from moe_harness.judge.certificate import Certificate, certify
from moe_harness.judge.metric import Metric


def ids(ids_TK: np.ndarray, num_experts: int) -> list[Metric]:
    """Ids are distinct per token and in [0, E)."""
    ranked = np.sort(ids_TK, axis=-1)
    repeated = int(np.sum(ranked[:, 1:] == ranked[:, :-1]))
    outside = int(np.sum((ids_TK < 0) | (ids_TK >= num_experts)))
    return [Metric("repeated_ids", repeated, 0), Metric("ids_out_of_range", outside, 0)]


def weights_sane(weights_TK: np.ndarray) -> list[Metric]:
    """Weights are finite and not negative."""
    return [
        Metric("non_finite_weights", int(np.sum(~np.isfinite(weights_TK))), 0),
        Metric("negative_weights", int(np.sum(weights_TK < 0)), 0),
    ]


def weight_sum(weights_TK: np.ndarray, expected_TK: np.ndarray, bound: float) -> Metric:
    """The sum per token against the expected weights' sum (one iff renormalised), relative."""
    sums = expected_TK.sum(-1)
    return Metric("weight_sum_error", _largest(np.abs(weights_TK.astype(np.float64).sum(-1) - sums) / sums), bound)


def weights(weights_TK: np.ndarray, expected_TK: np.ndarray, bound: float) -> Metric:
    """Each weight against the oracle's at the same id, relative."""
    return Metric("weight_error", _largest(np.abs(weights_TK - expected_TK) / expected_TK), bound)


def weights_within(weights_TK: np.ndarray, expected_TK: np.ndarray, allowance_TK: np.ndarray) -> Metric:
    """Each weight against the oracle's in units of what rounding of the logits allows it (relative allowance)."""
    return Metric("weight_error_ratio", _largest(np.abs(weights_TK - expected_TK) / (expected_TK * allowance_TK)), 1.0)


def selection(
    ranking_TE: np.ndarray, ids_TK: np.ndarray, delta_TE: np.ndarray | float = 0.0, spec: RoutingSpec | None = None
) -> list[Metric]:
    """No selection outside the oracle's margin; the flips inside it are reported. `delta_TE` 0 asks for the exact top-k, ties free."""
    return certified(certify(ranking_TE, ids_TK, delta_TE, spec))


def certified(certificate: Certificate) -> list[Metric]:
    """What no selection may be, and how many needed an excuse."""
    return [Metric("uncertified_selections", certificate.uncertified, 0), Metric("excused_flips", certificate.excused)]


def dense(ids_TK: np.ndarray, weights_TK: np.ndarray, num_experts: int) -> np.ndarray:
    """Weights by expert (T, E), zero where not selected: comparable whatever the order within K."""
    table_TE = np.zeros((len(ids_TK), num_experts))
    np.put_along_axis(table_TE, ids_TK, weights_TK, axis=-1)
    return table_TE


def _largest(values: np.ndarray) -> float:
    return float(np.max(values)) if values.size else 0.0
