"""A machine that two arms are timed on, simulated: its level drifts or swings, its rounds are interrupted. Seconds a round."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_harness.bench.blocks import ORDERS

Drift = Callable[[np.random.Generator, int], np.ndarray]  # log level of each of n consecutive rounds
Samples = list[list[float]]


def quiet(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.zeros(n)


def random_walk(rng: np.random.Generator, n: int) -> np.ndarray:
    """Doubles or halves over a few hundred rounds."""
    return np.cumsum(rng.normal(0, 0.03, n))


def periodic(rng: np.random.Generator, n: int) -> np.ndarray:
    """Half as slow again in every other pair of rounds: what a neighbour with a fixed time slice does."""
    return 0.4 * ((np.arange(n) + rng.integers(4)) % 4 < 2)


def busy_spells(rng: np.random.Generator, n: int) -> np.ndarray:
    """Twice as slow for a few dozen rounds at a time."""
    return np.log(2) * (np.cumsum(rng.random(n) < 1 / 30) % 2)


DRIFTS: tuple[Drift, ...] = (quiet, random_walk, periodic, busy_spells)


def rounds(rng: np.random.Generator, level: np.ndarray, noise: float = 0.02) -> np.ndarray:
    """Seconds: lognormal noise, and one round in ten interrupted for up to its own length."""
    interrupted = 1 + (rng.random(len(level)) < 0.1) * rng.random(len(level))
    return 1e-3 * np.exp(level + rng.normal(0, noise, len(level))) * interrupted


def series(
    rng: np.random.Generator, drift: Drift, effect: float = 1.0, blocks: int = 20, quads: int = 3, drawn: bool = True
) -> tuple[Samples, Samples]:
    """As `blocks.Series` takes them; B takes `effect` times as long. Not `drawn`: A B B A every time."""
    order = np.concatenate([ORDERS[rng.integers(2) if drawn else 0] for _ in range(blocks * quads)])
    seconds = rounds(rng, drift(rng, len(order))) * np.where(order == 1, effect, 1.0)
    a, b = (seconds[order == arm].reshape(blocks, -1).tolist() for arm in (0, 1))
    return a, b


def sequential(rng: np.random.Generator, drift: Drift, effect: float = 1.0, count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """All rounds of A, then all of B: how it is done elsewhere."""
    seconds = rounds(rng, drift(rng, 2 * count))
    return seconds[:count], effect * seconds[count:]
