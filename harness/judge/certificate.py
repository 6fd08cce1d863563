"""The margin certificate: is a selection excused by rounding? Legend: T tokens, E experts, K top-k, D hidden.

Selecting i instead of j is excused only if the oracle's logits on the candidate's own input put j ahead of i by at most delta_i + delta_j.
delta never comes from the candidate's logits: a backend does not certify itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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


def certify(logits_TE: np.ndarray, ids_TK: np.ndarray, delta_TE: np.ndarray | float) -> Certificate:
    """Certificate of the selection `ids_TK` (distinct, in range) against the oracle's logits."""
    selected = np.zeros(logits_TE.shape, bool)
    np.put_along_axis(selected, ids_TK, True, axis=-1)
    if selected.all():
        return Certificate(np.full(len(logits_TE), -np.inf), np.zeros(len(logits_TE), bool))
    excess = _best(logits_TE - delta_TE, ~selected) - _worst(logits_TE + delta_TE, selected)
    flipped = _best(logits_TE, ~selected) > _worst(logits_TE, selected)
    return Certificate(excess, flipped)


def _best(values_TE: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, values_TE, -np.inf).max(-1)


def _worst(values_TE: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.where(where, values_TE, np.inf).min(-1)
