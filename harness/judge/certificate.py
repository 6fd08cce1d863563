"""The margin certificate: is a selection excused by rounding? Legend: T tokens, E experts, K top-k, D hidden.

Selecting i instead of j is excused only if the oracle's logits on the candidate's own input put j ahead of i by at most delta_i + delta_j.
delta never comes from the candidate's logits: a backend does not certify itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from harness.oracle.routing import group_scores, ranks_logits
from implementations.interface import RoutingSpec

# A float32 score is at most 1 and carries a few roundings (exp, sum, division, the added correction).
SCORE_ROUNDING = 8 * 2.0**-24


@dataclass(frozen=True)
class Certificate:
    """`excess_T`: logits by which the worst selected/unselected pair exceeds its allowance; > 0 is uncertified. `flipped_T`: the selection
    differs from the oracle's (exact ties are no flip)."""

    excess_T: np.ndarray
    flipped_T: np.ndarray

    @property
    def uncertified(self) -> int:
        return int(np.sum(~(self.excess_T <= 0)))

    @property
    def excused(self) -> int:
        return int(np.sum(self.flipped_T & (self.excess_T <= 0)))


def rounding_allowance(x_TD: np.ndarray, w_ED: np.ndarray, relative: float) -> np.ndarray:
    """delta_TE = relative * (|x| @ |W|.T): bounds the error of a dot product in any order of summation (Higham 2002, section 3.1)."""
    return relative * (np.abs(x_TD.astype(np.float64)) @ np.abs(w_ED.astype(np.float64)).T)


def ranking_allowance(delta_TE: np.ndarray | float, spec: RoutingSpec) -> np.ndarray | float:
    """What logits that are off by delta may move what selection ranks: themselves, or sigmoid scores, whose slope is at most 1/4, or
    softmax scores, whose relative change is at most that of numerator and denominator; and the rounding of a float32 score."""
    if ranks_logits(spec):
        return delta_TE
    delta_TE = np.atleast_1d(delta_TE)
    moved = delta_TE / 4 if spec.scoring == "sigmoid" else delta_TE + np.max(delta_TE, axis=-1, keepdims=True)
    return moved + SCORE_ROUNDING


def certify(ranking_TE: np.ndarray, ids_TK: np.ndarray, delta_TE: np.ndarray | float, spec: RoutingSpec | None = None) -> Certificate:
    """Certificate of the selection `ids_TK` (distinct, in range) against what the oracle ranks (logits, or corrected scores). `spec`: with
    groups, the selection must be the best of some allowed set of groups."""
    if spec is None or spec.num_groups == 1:
        return _certify(ranking_TE, ids_TK, delta_TE)
    candidates = [_certify_within(ranking_TE, ids_TK, delta_TE, spec, chosen) for chosen in _group_sets(spec)]
    excess, flipped = (np.stack([getattr(c, name) for c in candidates]) for name in ("excess_T", "flipped_T"))
    best = np.argmin(np.where(np.isnan(excess), np.inf, excess), axis=0)
    columns = np.arange(len(best))
    return Certificate(excess[best, columns], np.asarray(flipped.all(axis=0)))


def _certify(ranking_TE: np.ndarray, ids_TK: np.ndarray, delta_TE: np.ndarray | float) -> Certificate:
    selected = np.zeros(ranking_TE.shape, bool)
    np.put_along_axis(selected, ids_TK, True, axis=-1)
    if selected.all():
        return Certificate(np.full(len(ranking_TE), -np.inf), np.zeros(len(ranking_TE), bool))
    excess = _best(ranking_TE - delta_TE, ~selected) - _worst(ranking_TE + delta_TE, selected)
    flipped = _best(ranking_TE, ~selected) > _worst(ranking_TE, selected)
    return Certificate(excess, flipped)


def _group_sets(spec: RoutingSpec) -> Iterator[tuple[int, ...]]:
    return combinations(range(spec.num_groups), spec.top_groups)


def _certify_within(
    ranking_TE: np.ndarray, ids_TK: np.ndarray, delta_TE: np.ndarray | float, spec: RoutingSpec, chosen: tuple[int, ...]
) -> Certificate:
    """As if exactly these groups had been chosen: the choice of groups and that of experts inside them must both hold. A group's score is
    a sum of two, so its error may be twice that of its worst expert."""
    T, G = len(ranking_TE), spec.num_groups
    delta_TE = np.broadcast_to(delta_TE, ranking_TE.shape)
    groups = _certify(group_scores(ranking_TE, spec), np.broadcast_to(chosen, (T, len(chosen))), 2 * delta_TE.reshape(T, G, -1).max(-1))
    inside = np.isin(np.arange(spec.num_experts) // (spec.num_experts // G), chosen)
    experts = _certify(np.where(inside, ranking_TE, -np.inf), ids_TK, np.where(inside, delta_TE, 0.0))
    return Certificate(np.maximum(groups.excess_T, experts.excess_T), groups.flipped_T | experts.flipped_T)


def _best(values_TE: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, values_TE, -np.inf).max(-1)


def _worst(values_TE: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, values_TE, np.inf).min(-1)
