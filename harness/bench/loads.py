"""How many tokens each expert gets: exact integer loads, token-expert pairs that have them, and the check that they do.

Legend: T tokens, K top-k, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np


class WrongLoads(AssertionError):
    """A routing that does not have the loads it was made for. Nothing is timed with it."""


def apportion(shares_E: Sequence[float] | np.ndarray, total: int, cap: int) -> np.ndarray:
    """Integer loads_E of sum `total`, none above `cap`, in proportion to `shares_E` by the method of largest remainders (Hamilton): whole
    parts first, what is left one by one to the largest fractions, of equal ones to the lower id. What would exceed the cap goes to the
    others in proportion to their shares; experts of share zero get something only where all others are full. Fractions are exact, so that
    every machine gives the same. Raises ValueError for what cannot be done."""
    shares = [Fraction(float(share)) for share in shares_E]
    if min(shares, default=Fraction(0)) < 0 or not 0 <= total <= cap * len(shares):
        raise ValueError(f"{total} tokens cannot be given to {len(shares)} experts, at most {cap} each, by shares {list(shares_E)}")
    loads, free = [0] * len(shares), [e for e, share in enumerate(shares) if share > 0]
    while free:
        left, whole = total - sum(loads), sum(shares[e] for e in free)
        full = [e for e in free if left * shares[e] >= cap * whole]
        if not full:
            _round(loads, {e: left * shares[e] / whole for e in free}, left)
            return np.array(loads, np.int64)
        for e in full:
            loads[e] = cap
        free = [e for e in free if e not in full]
    unloved = np.array([share == 0 for share in shares])
    left = total - sum(loads)
    return np.array(loads, np.int64) + (apportion(unloved, left, cap) if left else 0)


def _round(loads: list[int], quotas: dict[int, Fraction], total: int) -> None:
    """Fills `loads` with the quotas' whole parts and the largest remainders."""
    for e, quota in quotas.items():
        loads[e] = int(quota)
    rest = total - sum(int(quota) for quota in quotas.values())
    for e in sorted(quotas, key=lambda e: (int(quotas[e]) - quotas[e], e))[:rest]:
        loads[e] += 1


def place(loads_E: np.ndarray, tokens: int, seed: int) -> np.ndarray:
    """ids_TK (int64) with exactly these loads and K = sum(loads) / T different experts in each token.

    The T*K slots, expert after expert, are dealt out to tokens in turn (McNaughton's wrap-around rule): an expert's slots are consecutive
    and at most T, so no token gets it twice. Then tokens, and the slots within each, are shuffled. Raises ValueError where no such routing
    exists."""
    total = int(loads_E.sum())
    if not tokens or total % tokens or loads_E.min() < 0 or loads_E.max() > tokens:
        raise ValueError(f"no routing of {tokens} tokens has the loads {loads_E.tolist()}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(loads_E))
    ids_TK = np.repeat(order, loads_E[order]).reshape(total // tokens, tokens).T
    return np.ascontiguousarray(rng.permuted(ids_TK, axis=1)[rng.permutation(tokens)]).astype(np.int64)


def drawn(tokens: int, num_experts: int, top_k: int, seed: int) -> np.ndarray:
    """ids_TK: every token draws K different experts, each set equally likely, independent of the other tokens."""
    return np.argsort(np.random.default_rng(seed).random((tokens, num_experts)), axis=-1)[:, :top_k].astype(np.int64)


def count(ids_TK: np.ndarray, num_experts: int) -> np.ndarray:
    """loads_E of a routing."""
    return np.bincount(ids_TK.ravel(), minlength=num_experts)


def verify(ids_TK: np.ndarray, loads_E: np.ndarray, top_k: int) -> None:
    """Raises WrongLoads unless every token has K different experts and every expert exactly its load."""
    if ids_TK.ndim != 2 or ids_TK.shape[1] != top_k:
        raise WrongLoads(f"expected {top_k} experts a token, got an array of shape {ids_TK.shape}")
    if ids_TK.size and not 0 <= ids_TK.min() <= ids_TK.max() < len(loads_E):
        raise WrongLoads(f"expert {ids_TK.max()} or {ids_TK.min()} of {len(loads_E)}")
    ordered_TK = np.sort(ids_TK, axis=-1)
    if repeated := np.flatnonzero((ordered_TK[:, 1:] == ordered_TK[:, :-1]).any(-1)).tolist():
        raise WrongLoads(f"token {repeated[0]} has an expert twice: {ids_TK[repeated[0]].tolist()}")
    found_E = count(ids_TK, len(loads_E))
    if wrong := np.flatnonzero(found_E != loads_E).tolist():
        e = wrong[0]
        raise WrongLoads(f"expert {e} gets {found_E[e]} tokens, expected {loads_E[e]} (and {len(wrong) - 1} more experts are wrong)")


def expected_touched(tokens: int, num_experts: int, top_k: int) -> float:
    """How many different experts T tokens reach on average where each draws K of E uniformly: E (1 - (1 - K/E)^T), since one token misses
    an expert with probability 1 - K/E and tokens draw independently."""
    return num_experts * (1.0 - (1.0 - top_k / num_experts) ** tokens)
