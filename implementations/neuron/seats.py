"""Where the tokens of a call sit in the batch of a graph, whose shape does not depend on them. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_harness.implementations.common.batch import Batch

EMPTY = -1


@dataclass(frozen=True)
class Seats:
    """`source_BS`: for every place of a graph's batch the number of the call's token (row by row, pads counted), or EMPTY; a row's tokens
    come first. `rows_B`: of the cache. Behind the `own` rows come empty ones, for which any other row of the cache stands: they write to
    nobody's positions. `starts_B`: positions cached before."""

    source_BS: np.ndarray
    rows_B: np.ndarray
    starts_B: np.ndarray
    own: int

    @property
    def lengths_B(self) -> np.ndarray:
        return (self.source_BS != EMPTY).sum(1)

    def seat(self, values_T: np.ndarray, empty: int) -> np.ndarray:
        """The call's values, [T, ...], in the graph's order, [B * S, ...]."""
        source_T = self.source_BS.ravel()
        seated = values_T[source_T]
        seated[source_T == EMPTY] = empty
        return seated

    def unseat(self, found_T: np.ndarray, values_T: np.ndarray) -> None:
        """The inverse, into `values_T`; what is not the call's own is left out."""
        source_T = self.source_BS[: self.own].ravel()
        held_T = source_T != EMPTY
        values_T[source_T[held_T]] = found_T[: len(source_T)][held_T]


def seats(batch: Batch, rows: np.ndarray, shape: tuple[int, int], cache_rows_B: np.ndarray) -> Seats:
    """Of some of the call's rows, in a graph of `shape`. `cache_rows_B`: of all the call's rows."""
    height, width = shape
    columns, own = batch.ids_BS.shape[1], len(rows)
    source_BS = np.full(shape, EMPTY)
    for place, row in enumerate(rows):
        valid = np.flatnonzero(batch.valid_BS[row])
        source_BS[place, : len(valid)] = row * columns + valid
    taken = cache_rows_B[rows]
    spare = np.setdiff1d(np.arange(height), taken)[: height - own]
    starts_B = batch.starts_B[np.concatenate((rows, rows[:1].repeat(height - own)))]
    return Seats(source_BS, np.concatenate((taken, spare)), starts_B, own)
