"""The smallest error that the suite sees, by bisection over its size. Legend: see dials.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moe_harness.selftest.alarms import rounding_checks
from moe_harness.selftest.dials import DIALS
from moe_harness.selftest.trial import Trial, hold

SEEDS, LEAST_KILLED = 20, 19  # 95 %
DTYPES = ("float32", "bfloat16")
STEPS = 4  # an octave, a factor of two, is searched in so many
FIRST = 10_000  # of the seeds: none that an honest run had
# Likeliest to kill first: no check is asked after one that fails.
ORDER = ("BLOCK-02", "ROUTE-19", "ROUTE-18", "ROUTE-04", "ROUTE-16", "BLOCK-01", "PARITY-03", "PARITY-02", "ROUTE-05")


@dataclass(frozen=True)
class Search:
    """What is sought: `dial` in one dtype on one family."""

    dial: str
    dtype: str
    family: str
    seeds: int = SEEDS
    least: int = LEAST_KILLED


@dataclass(frozen=True)
class Effect:
    """`size`: the smallest that at least 95 % of seeds are killed at, to a quarter of an octave; None: not even the dial's largest is.
    `says`: in words."""

    dial: str
    what: str
    dtype: str
    family: str
    size: float | None
    says: str


def search(directory: Path, asked: Search) -> Effect:
    """Bisection: what is killed at one size is at a larger one."""
    dial = DIALS[asked.dial]
    low, high = dial.low * STEPS, dial.high * STEPS
    if not _killed(directory, asked, 2.0 ** (high / STEPS)):
        return Effect(dial.name, dial.what, asked.dtype, asked.family, None, "not seen at any size")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _killed(directory, asked, 2.0 ** (middle / STEPS)) else (middle, high)
    size = 2.0 ** (high / STEPS)
    return Effect(dial.name, dial.what, asked.dtype, asked.family, size, dial.says(size))


def _killed(directory: Path, asked: Search, size: float) -> bool:
    """At least `least` of the seeds are; no more are tried than it takes to know."""
    survivors = 0
    for seed in range(FIRST, FIRST + asked.seeds):
        trial = Trial(f"{asked.dial}={size!r}", asked.family, asked.dtype, _names(asked), seed, until_killed=True)
        survivors += not any(ending.failed for ending in hold(directory, trial))
        if survivors > asked.seeds - asked.least:
            return False
    return True


def _names(asked: Search) -> tuple[str, ...]:
    first = {name: place for place, name in enumerate(ORDER)}
    return tuple(sorted(rounding_checks(asked.family, asked.dtype, costly=False), key=lambda name: first.get(name, len(first))))
