"""What the host can do, measured here and now: a matrix product and a read of memory. No framework.

The product is numpy's in float32, through whatever BLAS numpy was built with, on the threads this process may use. numpy has no product in
bfloat16 or float16.

The read is the fastest of three reductions over a buffer, split over the same threads. Its size matters: what fits into a cache is read
from there, by the workload as by the probe. A workload is therefore held against a buffer of its own size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from moe_harness.implementations.common.memory import available_bytes
from moe_harness.records.environment import threads

GEMM = 1536  # rows and columns: three float32 matrices of 9 MB; larger ones are no faster
REPEATS, SECONDS = 4, 0.1  # at least so many, for at least so long: the best one counts, the others were disturbed
SMALLEST, LARGEST = 1 << 20, 1 << 30  # bytes of the buffer that is read
SPARED = 4  # the buffer takes at most this part of the memory that is free


@cache
def flops_per_s() -> float:
    """Of a product of float32: 2 n^3 operations, n^2 results of n multiplications and n additions each."""
    a, b = np.random.default_rng(0).standard_normal((2, GEMM, GEMM), np.float32)
    out = np.empty_like(a)
    return 2 * GEMM**3 / best_time(lambda: np.matmul(a, b, out=out))


def bytes_per_s(size: int) -> float:
    """Of a buffer of `size` bytes, rounded up to a power of two and kept between SMALLEST and LARGEST; each measured once."""
    return _read_rate(buffer_size(size), threads() or 1)


def buffer_size(size: int) -> int:
    largest = min(LARGEST, (available_bytes() or SPARED * LARGEST) // SPARED)
    return max(min(1 << max(size - 1, 0).bit_length(), 1 << (largest.bit_length() - 1)), SMALLEST)


@cache
def _read_rate(size: int, workers: int) -> float:
    parts = np.array_split(np.ones(size // 8, np.uint64), workers)
    readers: tuple[Callable[[np.ndarray], object], ...] = (np.add.reduce, np.bitwise_or.reduce, _dot)
    with ThreadPoolExecutor(workers) as pool:
        return size / min(best_time(lambda read=read: list(pool.map(read, parts))) for read in readers)  # type: ignore[misc]


def _dot(part: np.ndarray) -> object:
    values = part.view(np.float32)
    return np.dot(values, values)


def best_time(call: Callable[[], object]) -> float:
    """Seconds of the fastest of several calls; the first, which touches fresh memory, does not count."""
    call()
    times: list[float] = []
    while len(times) < REPEATS or sum(times) < SECONDS:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
