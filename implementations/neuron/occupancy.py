"""Which positions the rows of the cache hold, and whether the rows are those of one batch or slots of requests. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np

from moe_harness.implementations.common.batch import integers
from moe_harness.implementations.interface import InvalidInput


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
