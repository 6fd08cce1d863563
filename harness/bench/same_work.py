"""Whether two arms did the same work: without that, their ratio says nothing. Legend: L MoE layers, S sequence, K top-k."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from moe_harness.bench.workload import Workload

FARTHEST = 0.5  # relative distance. Near-ties that flip move a few rows by tens of per cent; outputs of other inputs are sqrt(2) apart


@dataclass(frozen=True)
class Sameness:
    """`routing`: share of the expert choices on the gate's tokens that both arms make, None where one does not show them. `distance`: of
    the outputs of one timed step, relative, None where a step returns none. `difference`: why it is not the same work, or ""."""

    routing: float | None
    distance: float | None
    difference: str = ""


def sameness(a: Workload, b: Workload) -> Sameness:
    """Runs each step once, untimed. Both models have passed their gate: an expert that differs from the oracle's is then a near-tie."""
    if difference := declared_difference(a, b):
        return Sameness(None, None, difference)
    outputs = [list(arrays(each.once())) for each in (a, b)]
    shapes = [[array.shape for array in each] for each in outputs]
    if shapes[0] != shapes[1]:
        return Sameness(None, None, f"the outputs have shapes {shapes[0]} and {shapes[1]}")
    distance = max((_distance(x, y) for x, y in zip(*outputs, strict=True) if x.dtype.kind == "f"), default=None)
    if distance is not None and not distance <= FARTHEST:
        return Sameness(None, distance, f"the outputs of one step are {distance:.2g} of their size apart; at most {FARTHEST:g} is rounding")
    return Sameness(routing_agreement(a, b), distance)


def declared_difference(a: Workload, b: Workload) -> str:
    """Tokens, parameters and operations as the workload states them. Which experts were used may differ by near-ties, and their bytes with
    them; that each differing choice is a near-tie, the gate has judged."""
    flops = [each.work and each.work["flops"] for each in (a, b)]
    stated = {"tokens": (a.tokens, b.tokens), "parameters": (a.parameters, b.parameters), "operations": flops}
    return next((f"{name} differ: {one} and {other}" for name, (one, other) in stated.items() if one != other), "")


def routing_agreement(a: Workload, b: Workload) -> float | None:
    """Share of (layer, token, rank) whose expert the other arm uses for that token too."""
    one, other = (each.trace().ids_LSK for each in (a, b))
    if one is None or other is None:
        return None
    return float(np.mean((one[..., :, None] == other[..., None, :]).any(axis=-1)))


def arrays(output: Any) -> Iterator[np.ndarray]:
    """All arrays of what a step returned, in the order of their fields."""
    if isinstance(output, np.ndarray):
        yield output
    elif is_dataclass(output):
        for field in fields(output):
            yield from arrays(getattr(output, field.name))
    elif isinstance(output, (list, tuple)):
        for item in output:
            yield from arrays(item)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Relative to their root mean square; infinite where one is not finite."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("inf")
    size = np.sqrt((np.sum(x**2) + np.sum(y**2)) / 2)
    return float(np.linalg.norm(x - y) / size) if size else 0.0
