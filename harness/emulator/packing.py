"""The honest reading of packed sequences: several in one row, each from position 0, none seeing another."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator.numerics import Array


def segments(cu_seqlens: Array) -> Array:
    """Number_T of the sequence that each token belongs to."""
    return np.repeat(np.arange(len(cu_seqlens) - 1), np.diff(cu_seqlens))


def positions(cu_seqlens: Array) -> Array:
    """Position_T of each token in its own sequence."""
    return np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))


def last(cu_seqlens: Array) -> Array:
    """Index of each sequence's last token."""
    return cu_seqlens[1:] - 1
