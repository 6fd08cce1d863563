"""A matrix written as its transpose."""

from __future__ import annotations

import numpy as np

ROWS, COLUMNS = 2048, 128  # of a block: it stays in the processor's cache
PAD = 8  # numbers behind a row of it: rows a power of two apart would push each other out


def put_turned(target: np.ndarray, source: np.ndarray) -> None:
    """target[...] = source.T, bit for bit."""
    bits = f"u{source.dtype.itemsize}"
    target_bits, source_bits = target.view(bits), source.view(bits)
    block = np.empty((min(ROWS, len(source)), COLUMNS + PAD), bits)
    for first in range(0, source.shape[0], ROWS):
        for left in range(0, source.shape[1], COLUMNS):
            part = source_bits[first : first + ROWS, left : left + COLUMNS]
            held = block[: part.shape[0], : part.shape[1]]
            held[...] = part
            target_bits[left : left + COLUMNS, first : first + ROWS] = held.T
