"""Cold caches: what a round reads has been driven out of them before it, as where other layers work in between."""

from __future__ import annotations

from functools import cache

import numpy as np

from moe_harness.implementations.interface import Unsupported
from moe_harness.implementations.worker import WorkerBackend
from moe_harness.suite.subject import Subject

SIZE = 1 << 28  # bytes: more than most processors' last cache


def needs_cold_caches(subject: Subject) -> None:
    """Raises Unsupported where the caches are not those of this process's processor."""
    if subject.workshop.device != "cpu" or isinstance(subject.backend, WorkerBackend):
        raise Unsupported("caches of a device or of another process are not emptied from here")


def evict() -> None:
    """Reads and writes a buffer of SIZE bytes, on one thread. A cache that is larger, or another core's own, may keep something."""
    buffer = _buffer()
    np.add(buffer, 1, out=buffer)


@cache
def _buffer() -> np.ndarray:
    return np.zeros(SIZE // 8)
