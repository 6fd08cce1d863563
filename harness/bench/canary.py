"""The canary: a fixed piece of work, the same on every day, timed beside what is measured. Where it sings slower, the machine was busy
with something else: the block is marked and has no say in a verdict. Its time is never divided out: what slows a GEMM need not slow a
decode step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

SIDE, PRODUCTS = 192, 16  # float32 GEMMs: compute
READ = 4 << 20  # float32 values, 16 MB: memory
FIRST, SONGS = 7, 3  # songs for the reference, and each time it sings: the fastest counts, so that one interruption is no event
TOLERANCE = 1.25  # times the reference: two quiet measurements of one canary differ by a few per cent
OUTLYING = 3.0  # robust standard deviations: on a machine that is busy all the time, being busy is no event


@dataclass(frozen=True)
class Canary:
    """Seconds before and after a block, and what they are held against."""

    before: float
    after: float
    reference: float

    @property
    def disturbed(self) -> bool:
        return max(self.before, self.after) > TOLERANCE * self.reference

    def to_record(self) -> dict[str, Any]:
        return {**vars(self), "tolerance": TOLERANCE, "disturbed": self.disturbed}


@cache
def _work() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((SIDE, SIDE), np.float32), np.ones(READ, np.float32)


def sing(songs: int = SONGS) -> float:
    """Seconds of the canary, some milliseconds. A song before it brings its memory back into the caches, out of which what is measured has
    driven it, and wakes the threads."""
    return min([_song() for _ in range(1 + songs)][1:])


def _song() -> float:
    matrix, values = _work()
    began = time.perf_counter()
    for _ in range(PRODUCTS):
        matrix @ matrix  # noqa: B018
    values.sum()
    return time.perf_counter() - began


@cache
def reference() -> float:
    """Seconds of the canary at the beginning of this process."""
    return sing(FIRST)


def disturbed_blocks(songs: Sequence[float]) -> list[int]:
    """Blocks of a series with an outlier among the n + 1 canaries around its n blocks: slower than TOLERANCE times their median, and by
    more than OUTLYING of their own spread."""
    logs = np.log(songs)
    middle = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - middle)))
    loud = logs - middle > max(np.log(TOLERANCE), OUTLYING * spread)
    return [block for block in range(len(songs) - 1) if loud[block] or loud[block + 1]]
