"""A matrix written as its transpose."""

from __future__ import annotations

import numpy as np

STRIP = 64  # rows at a time: what is written of a strip stays in the processor's cache


def put_turned(target: np.ndarray, source: np.ndarray) -> None:
    """target[...] = source.T, bit for bit."""
    bits = f"u{source.dtype.itemsize}"
    target_bits, source_bits = target.view(bits), source.view(bits)
    for first in range(0, len(source), STRIP):
        target_bits[:, first : first + STRIP] = source_bits[first : first + STRIP].T
