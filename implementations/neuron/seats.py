"""Where the tokens of a call go, in shapes that do not depend on them: a bucket, the batch of a graph, rows of the cache. numpy only.

Buckets are the sizes that graphs are compiled for: powers of two up to the longest sequence, as NxD Inference chooses them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from moe_harness.implementations.common.batch import Batch, integers
from moe_harness.implementations.interface import InvalidInput

SMALLEST = 16
EMPTY = -1


def buckets(longest: int) -> tuple[int, ...]:
    """Ascending; the last one is `longest` itself."""
    sizes = []
    size = SMALLEST
    while size < longest:
        sizes.append(size)
        size *= 2
    return (*sizes, longest)


def bucket(size: int, among: tuple[int, ...]) -> int:
    """The smallest that holds `size`, which is at most the last one."""
    return next(each for each in among if each >= size)


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


class Occupancy:
    """Of a cache of `size` rows; none holds anything at first. What raises InvalidInput has changed nothing."""

    def __init__(self, size: int):
        self._held = np.zeros(size, np.int64)
        self._batch = 0  # rows of the batch; 0: slots, or nothing

    def batch(self, rows: int) -> np.ndarray:
        """Positions that a batch of so many rows has already. Raises InvalidInput."""
        if not self._batch and self._held.any():
            raise InvalidInput("requests are in slots; reset first")
        if self._batch not in (0, rows):
            raise InvalidInput(f"{rows} rows, but the cache holds {self._batch}")
        return self._held[:rows].copy()

    def slots(self, slots_B: Any, rows: int) -> np.ndarray:
        """The slots of a call's rows, as int64. Raises InvalidInput."""
        if self._batch:
            raise InvalidInput("the cache holds a batch; reset first")
        slots_B = integers("slots", slots_B, 1)
        if slots_B.shape != (rows,) or len(np.unique(slots_B)) != rows or slots_B.min() < 0 or slots_B.max() >= len(self._held):
            raise InvalidInput(f"{rows} different slots of 0 .. {len(self._held) - 1} are expected, got {slots_B.tolist()}")
        return slots_B

    def held(self, slots_B: np.ndarray) -> np.ndarray:
        """Positions of the requests in these slots. Raises InvalidInput for an empty one."""
        held_B = self._held[slots_B]
        if not held_B.all():
            raise InvalidInput(f"slot {slots_B[held_B == 0][0]} is empty: decode before any prefill")
        return held_B

    def started(self) -> int:
        """Rows of the batch. Raises InvalidInput where there is none."""
        if not self._batch:
            raise InvalidInput("decode before any prefill" if not self._held.any() else "requests are in slots; reset first")
        return self._batch

    def becomes(self, rows_B: np.ndarray, ends_B: np.ndarray, is_batch: bool) -> None:
        self._held[rows_B] = ends_B
        self._batch = len(rows_B) if is_batch else 0

    def clear(self) -> None:
        self._held[:], self._batch = 0, 0
