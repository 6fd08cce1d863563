"""What a rule is given of one run of a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Rows = tuple[np.ndarray, ...]  # one array (tokens, columns) per sequence: columns are the vocabulary's, or a layer's hidden ones


@dataclass(frozen=True)
class Evidence:
    """The same sequences, or the same layers' tokens, four times. `observed`: the candidate. `reference`: the reference implementation in
    float32; `same_dtype`: in the candidate's dtype. `exact`: float64. No run pins the routing: today's rules do not."""

    observed: Rows
    reference: Rows
    same_dtype: Rows
    exact: Rows
    dtype: str

    @cached_property
    def pooled(self) -> Pooled:
        """All sequences as one array each."""
        return Pooled(*(np.concatenate(rows).astype(np.float64) for rows in (self.observed, self.reference, self.same_dtype, self.exact)))


@dataclass(frozen=True)
class Pooled:
    """Arrays (tokens, columns) in float64, named as in `Evidence`."""

    observed: np.ndarray
    reference: np.ndarray
    same_dtype: np.ndarray
    exact: np.ndarray
