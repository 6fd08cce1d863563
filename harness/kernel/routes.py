"""Routings without doubt: router logits on an exact grid, with a gap behind the K-th. Legend: T tokens, E experts, K top-k.

A kernel that selects for itself returns y alone, so its selection is not judged apart: there must be only one right selection.
"""

from __future__ import annotations

import numpy as np

from moe_harness.cases.synthetic import PEAKED

LEVELS = 32  # grid steps in one standard deviation: 4 deviations need 7 bits, and bfloat16 has 8
GAP = 2  # steps between the K-th and the next


def random_logits(rng: np.random.Generator, T: int, E: int, K: int, scale: float) -> np.ndarray:
    """float32 logits (T, E) of standard deviation `scale`, whose K-th value leads the next by GAP steps."""
    levels = np.round(np.clip(rng.standard_normal((T, E)), -3.9, 3.9) * LEVELS)
    order = np.argsort(-levels, axis=-1, kind="stable")
    chosen, others = order[:, :K], order[:, K:]
    last = np.take_along_axis(levels, chosen[:, -1:], axis=-1)
    np.put_along_axis(levels, others, np.minimum(np.take_along_axis(levels, others, axis=-1), last - GAP), axis=-1)
    return (levels * (scale / LEVELS)).astype(np.float32)


def logits_for(rng: np.random.Generator, ids_TK: np.ndarray, E: int) -> np.ndarray:
    """float32 logits (T, E) that select `ids_TK` in this order, each slot with another weight."""
    levels = rng.integers(-100, -20, (len(ids_TK), E)).astype(np.float64)
    np.put_along_axis(levels, ids_TK, 60.0 - 4.0 * np.arange(ids_TK.shape[1]), axis=-1)
    return (levels * (PEAKED / LEVELS)).astype(np.float32)


def rotating_ids(E: int, K: int) -> np.ndarray:
    """ids (E, K) in which every expert stands once in every slot. The other slots' experts lie apart, not side by side."""
    return (np.arange(E)[:, None] + (E // K) * np.arange(K)) % E


def same_ids(T: int, E: int, K: int) -> np.ndarray:
    """ids (T, K): every token goes to the last K experts, the last one first."""
    return np.broadcast_to(E - 1 - np.arange(K), (T, K)).copy()


def ids_among(rng: np.random.Generator, T: int, allowed: np.ndarray, K: int) -> np.ndarray:
    """ids (T, K) of experts drawn from `allowed`."""
    return allowed[np.argsort(rng.random((T, len(allowed))), axis=-1)[:, :K]]
