"""Requests in slots (continuous batching): each slot has a cache of one row."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moe_harness.emulator.cache import Cache
from moe_harness.emulator.numerics import Array
from moe_harness.implementations.interface import InvalidInput


@dataclass
class Slots:
    """`caches`: of the slots in use."""

    count: int
    caches: dict[int, Cache] = field(default_factory=dict)


def admit(slots: Slots, slots_B: Array, rows: int) -> list[int]:
    """The slots of a call's rows. Raises InvalidInput."""
    slots_B = np.asarray(slots_B)
    if slots_B.dtype.kind not in "iu" or slots_B.shape != (rows,):
        raise InvalidInput(f"slots_B: {rows} integers are expected, got {slots_B.dtype} of shape {slots_B.shape}")
    found: list[int] = slots_B.tolist()
    if len(set(found)) != rows or min(found) < 0 or max(found) >= slots.count:
        raise InvalidInput(f"slots_B: different ones of 0 .. {slots.count - 1} are expected, got {found}")
    return found


def in_use(slots: Slots, asked: list[int]) -> None:
    """Raises InvalidInput for an empty one."""
    if empty := [slot for slot in asked if slot not in slots.caches]:
        raise InvalidInput(f"slot {empty[0]} is empty: decode before any prefill")


def seat(asked: list[int]) -> list[int]:
    """The slot whose cache each row of a call reads and writes."""
    return asked


def begin(slots: Slots, slot: int, empty: Cache) -> Cache:
    """The cache that a new request gets: an empty one, whatever the slot held."""
    return empty
