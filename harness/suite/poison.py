"""Poisoned memory: for the length of a block, every malloc of this process is filled with bytes that make a wild number of any float type.

What is read before it is written then shows. glibc's own means (mallopt, M_PERTURB; see mallopt(3)). Not reached: blocks below about 1 kB,
which numpy and the C library keep in caches of their own, and memory that does not come from malloc, a GPU's for one.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from moe_harness.implementations.interface import Unsupported

M_PERTURB = -6
FILL = 0x80  # fresh memory gets the complement, 0x7f: 3.4e38 in float32 and bfloat16, NaN in float16, 127 in a byte


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Raises Unsupported where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        raise Unsupported("memory can be poisoned with glibc only")
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_PERTURB, FILL)
    try:
        if np.empty(1 << 16, np.uint8)[1 << 12] != FILL ^ 0xFF:
            raise Unsupported("memory cannot be poisoned here: another allocator stands in for glibc's")
        yield
    finally:
        mallopt(M_PERTURB, 0)
