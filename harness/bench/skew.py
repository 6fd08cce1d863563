"""The skew axis: routings from even to extreme, pinned so that every backend does the same work. Legend: T tokens, K top-k, E experts.

- `uniform`: every token draws K experts, all sets equally likely: what an ideal router does, with the unevenness of chance
- `balanced`: equal loads, to within one token: what no real router reaches
- `zipf`: the r-th expert gets a share proportional to 1/r
- `hot-expert`: every token goes to expert 0; its other K-1 experts are even
- `hot-rank`: with the experts split over RANKS devices in consecutive runs, all tokens go to the first device's experts, evenly; where it
  has fewer than K, what is left over goes to the others
- `dead-experts`: the last half of the experts get nothing (fewer where K needs them), the others are even
- `trace`: the loads or ids of a file (`--routing-trace`)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moe_harness.bench.loads import apportion, count, drawn, place, verify
from moe_harness.bench.routing_trace import RoutingTrace
from moe_harness.implementations.interface import RoutingSpec, Unsupported

RANKS = 4


@dataclass(frozen=True)
class Pinning:
    """Experts of every token, with loads that were verified. `about`: parameters of the skew that a record states."""

    ids_TK: np.ndarray
    loads_E: np.ndarray
    about: dict[str, int]


def pin(skew: str, tokens: int, spec: RoutingSpec, seed: int = 0, trace: RoutingTrace | None = None) -> Pinning:
    """Raises KeyError for an unknown skew, Unsupported for a trace that is missing or of another router, WrongLoads (never seen) for a
    routing that is not what was asked for."""
    E, K = spec.num_experts, spec.top_k
    about = {"ranks": min(RANKS, E)} if skew == "hot-rank" else {}
    if skew in SHARES:
        loads_E = apportion(SHARES[skew](E, K), tokens * K, tokens)
        ids_TK = place(loads_E, tokens, seed)
    else:
        ids_TK = _given(skew, tokens, spec, seed, trace)
        loads_E = count(ids_TK, E)
    verify(ids_TK, loads_E, K)
    return Pinning(ids_TK, loads_E, about)


def _given(skew: str, tokens: int, spec: RoutingSpec, seed: int, trace: RoutingTrace | None) -> np.ndarray:
    """Of the skews that say who goes where rather than how many."""
    if skew == "uniform":
        return drawn(tokens, spec.num_experts, spec.top_k, seed)
    if skew != "trace":
        raise KeyError(f"unknown skew {skew!r}; known: {', '.join(SKEWS)}")
    if trace is None:
        raise Unsupported("no trace was given (--routing-trace FILE)")
    return trace.routing(tokens, spec.num_experts, spec.top_k, seed)


def _zipf(E: int, K: int) -> np.ndarray:
    return 1.0 / np.arange(1, E + 1)


def _hot_expert(E: int, K: int) -> np.ndarray:
    """E-1 against K-1 of each other: of the (E-1) K shares that makes, 1/K, which is one slot of every token."""
    return np.array([max(E - 1, 1)] + [K - 1] * (E - 1), float)


def _hot_rank(E: int, K: int) -> np.ndarray:
    hot = np.array_split(np.arange(E), min(RANKS, E))[0]
    return np.isin(np.arange(E), hot).astype(float)


def _dead_experts(E: int, K: int) -> np.ndarray:
    return (np.arange(E) < max(E - E // 2, K)).astype(float)


SHARES: dict[str, Callable[[int, int], np.ndarray]] = {
    "balanced": lambda E, K: np.ones(E),
    "zipf": _zipf,
    "hot-expert": _hot_expert,
    "hot-rank": _hot_rank,
    "dead-experts": _dead_experts,
}
SKEWS = ("uniform", *SHARES)  # and `trace`, where one is given
