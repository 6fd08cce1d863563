"""The margin certificate: is a selection excused by rounding? Legend: T tokens, E experts, K top-k, D hidden.

Selecting i instead of j is excused only if the oracle's logits on the candidate's own input put j ahead of i by at most delta_i + delta_j
(`moe_harness.judge.rounding`). delta never comes from the candidate's logits: a backend does not certify itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

import numpy as np

from moe_harness.implementations.interface import RoutingSpec
from moe_harness.oracle.routing import group_scores, ranks_logits

# A float32 score is at most 1 and carries a few roundings (exp, sum, division, the added correction).
SCORE_ROUNDING = 8 * 2.0**-24


class State(Enum):
    """What can be said about one token's selection."""

    CERTIFIED = "certified"  # the oracle's, or off it within the allowance
    UNCERTIFIED = "uncertified"
    UNOBSERVABLE = "unobservable"  # the oracle's margin is NaN: no selection is right or wrong


@dataclass(frozen=True)
class Certificate:
    """`excess_T`: logits by which the worst selected/unselected pair exceeds its allowance: > 0 is uncertified, NaN unobservable.
    `flipped_T`: the selection differs from the oracle's (exact ties are no flip)."""

    excess_T: np.ndarray
    flipped_T: np.ndarray

    @property
    def states(self) -> list[State]:
        """Of every token."""
        known = (State.UNCERTIFIED, State.CERTIFIED)
        return [State.UNOBSERVABLE if np.isnan(excess) else known[bool(excess <= 0)] for excess in self.excess_T]

    @property
    def certified(self) -> int:
        """Excused flips included."""
        return int(np.sum(self.excess_T <= 0))

    @property
    def uncertified(self) -> int:
        return int(np.sum(self.excess_T > 0))

    @property
    def unobservable(self) -> int:
        return int(np.sum(np.isnan(self.excess_T)))

    @property
    def excused(self) -> int:
        return int(np.sum(self.flipped_T & (self.excess_T <= 0)))

    def counts(self) -> dict[str, float]:
        """Evidence: how many tokens are in which state, and how many of the certified are excused flips."""
        return {
            "certified": self.certified,
            "flips_excused": self.excused,
            "uncertified": self.uncertified,
            "unobservable": self.unobservable,
        }


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
    groups, the selection must be the best of some allowed set of groups. A token with NaN in ranking or allowance is unobservable."""
    unknown_T = np.asarray(np.isnan(ranking_TE + delta_TE).any(-1))
    found = _certify_known(np.where(unknown_T[:, None], 0.0, ranking_TE), ids_TK, delta_TE, spec)
    return Certificate(np.where(unknown_T, np.nan, found.excess_T), found.flipped_T & ~unknown_T)


def _certify_known(ranking_TE: np.ndarray, ids_TK: np.ndarray, delta_TE: np.ndarray | float, spec: RoutingSpec | None) -> Certificate:
    if spec is None or spec.num_groups == 1:
        return _certify(ranking_TE, ids_TK, delta_TE)
    candidates = [_certify_within(ranking_TE, ids_TK, delta_TE, spec, chosen) for chosen in _group_sets(spec)]
    excess, flipped = (np.stack([getattr(c, name) for c in candidates]) for name in ("excess_T", "flipped_T"))
    best = np.argmin(excess, axis=0)
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
