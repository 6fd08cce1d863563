"""The ratio of two arms from ABBA quads: estimate, interval, smallest change that would be seen, verdict. Pure functions of samples.

A quad is two rounds of each arm, in the order A B B A or B A A B, drawn, so that no drift favours an arm. Its log-ratio is that of each
arm's faster round: interruptions only ever add time. The estimate is the median over all quads, so that a quad spoilt all the same has one
vote. The interval is a block bootstrap: blocks of consecutive quads are drawn with replacement, since neighbours share the machine's mood
(Kuensch 1989). Percentiles are expanded for the small number of blocks (Hesterberg 2015, "What teachers should know about the bootstrap").
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

DELTA, CONFIDENCE = 0.02, 0.95
RESAMPLES = 2000
POWER = 0.95  # of one series; a change has to be seen by two of them, so about 0.9 for both
FEWEST_BLOCKS = 8  # undisturbed ones; below, a bootstrap of blocks says nothing

Samples = Sequence[Sequence[float]]


@dataclass(frozen=True)
class PairConfig:
    """`delta`: changes up to this share count as none. `confidence`: two-sided, of the interval."""

    delta: float = DELTA
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must lie between 0 and 1, got {self.delta:g}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"a confidence lies between 0.5 and 1, got {self.confidence:g}")


@dataclass(frozen=True)
class Estimate:
    """B's time over A's with its interval. `mde`: the smallest slow-down, as a share, that such a series calls slower with probability
    POWER. `verdict`: faster | slower | equivalent | inconclusive, of B against A. Numbers are None where too few blocks were
    undisturbed."""

    ratio: float | None
    low: float | None
    high: float | None
    mde: float | None
    verdict: str
    note: str = ""


def log_ratios(samples_a: Samples, samples_b: Samples) -> np.ndarray:
    """(blocks, quads). Seconds a round, rounds of each arm in order of time, two a quad. Raises ValueError where the arms do not match."""
    a, b = np.asarray(samples_a, float), np.asarray(samples_b, float)
    if a.ndim != 2 or a.shape != b.shape or a.shape[1] % 2 or not a.size:
        raise ValueError(f"the arms' samples do not pair: {a.shape} and {b.shape}")
    if not (np.all(a > 0) and np.all(b > 0)):
        raise ValueError("a sample is not a positive number of seconds")
    faster_a, faster_b = (each.reshape(len(each), -1, 2).min(axis=2) for each in (a, b))
    return np.log(faster_b / faster_a)


def estimate(samples_a: Samples, samples_b: Samples, pair_config: PairConfig, disturbed: Collection[int] = ()) -> Estimate:
    """Of the undisturbed blocks. The same samples give the same numbers."""
    quads = log_ratios(samples_a, samples_b)
    quads = quads[[block not in disturbed for block in range(len(quads))]]
    if len(quads) < FEWEST_BLOCKS:
        return Estimate(None, None, None, None, "inconclusive", f"{len(quads)} undisturbed blocks, {FEWEST_BLOCKS} are needed")
    low, high = interval(quads, pair_config.confidence)
    half = (high - low) / 2
    spread = half / float(stats.t.isf((1 - pair_config.confidence) / 2, len(quads) - 1))
    ratio, least, most = (math.exp(number) for number in (float(np.median(quads)), low, high))
    return Estimate(ratio, least, most, smallest_seen(half, spread, pair_config.delta), call(low, high, pair_config.delta))


def interval(quads: np.ndarray, confidence: float) -> tuple[float, float]:
    """Of the median log-ratio, by resampling blocks."""
    blocks = len(quads)
    drawn = np.random.default_rng(0).integers(0, blocks, (RESAMPLES, blocks))
    medians = np.median(quads[drawn].reshape(RESAMPLES, -1), axis=1)
    tail = float(stats.norm.sf(_half_width(blocks, confidence)))
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def _half_width(blocks: int, confidence: float) -> float:
    """In units of the bootstrap's own standard deviation: Student's factor, and the bootstrap's missing n / (n - 1)."""
    return float(stats.t.isf((1 - confidence) / 2, blocks - 1) * math.sqrt(blocks / (blocks - 1)))


def call(low: float, high: float, delta: float) -> str:
    """The verdict of an interval of the log-ratio. Within the margin is equivalent, even where it does not hold zero."""
    margin = math.log1p(delta)
    if -margin < low and high < margin:
        return "equivalent"
    return "slower" if low > 0 else "faster" if high < 0 else "inconclusive"


def smallest_seen(half: float, spread: float, delta: float) -> float:
    """A share. The interval must lie above zero and reach beyond the margin, each with probability POWER. Of the log-ratio: `half` the
    interval's width, `spread` the estimate's standard error."""
    sure = stats.norm.isf(1 - POWER) * spread
    return math.expm1(max(half + sure, math.log1p(delta) - half + sure))
