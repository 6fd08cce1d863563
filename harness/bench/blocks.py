"""Series of ABBA blocks: rounds of two arms taken in turn, with a canary between the blocks.

The order within a quad (A B B A or B A A B) is drawn, so that nothing periodic in the machine keeps step with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from moe_harness.bench import canary
from moe_harness.bench.clock import Arm, no_collection
from moe_harness.bench.warmup import WarmUp
from moe_harness.stats.paired import FEWEST_BLOCKS

BLOCKS, QUADS = 20, 12  # of a series, unless a budget is given
LONG_S = 2.0  # where a series of undisturbed rounds takes longer, blocks have fewer quads, at least one
MOST_QUADS = 64  # a block, with a budget
ORDERS = ((0, 1, 1, 0), (1, 0, 0, 1))


@dataclass(frozen=True)
class Plan:
    """Of one series."""

    blocks: int
    quads: int

    @property
    def rounds(self) -> int:
        """Of each arm."""
        return self.blocks * self.quads * 2


def plan(a: WarmUp, b: WarmUp, budget: float | None = None) -> Plan:
    """For two warm arms. By default the number of rounds does not depend on how busy the machine is: there they are needed most. A `budget`
    (seconds of a series) is kept, but for the fewest blocks that make a verdict; too few quads for all blocks make fewer blocks."""
    if budget is None:
        return Plan(BLOCKS, _within(1, QUADS, LONG_S / (2 * (a.typical + b.typical) * BLOCKS)))
    quads = budget / (2 * (a.cost + b.cost))
    blocks = _within(FEWEST_BLOCKS, BLOCKS, quads)
    return Plan(blocks, _within(1, MOST_QUADS, quads / blocks))


def _within(least: int, most: int, number: float) -> int:
    return max(least, min(most, round(number)))


@dataclass
class Series:
    """Rounds of two arms as they are taken. `samples`: seconds a round, [arm][block][round in order of time]. `songs`: the canaries before
    the first block and after each."""

    arms: tuple[Arm, Arm]
    plan: Plan
    seed: int
    samples: tuple[list[list[float]], list[list[float]]] = field(default_factory=lambda: ([], []))
    songs: list[float] = field(default_factory=list)

    @property
    def disturbed(self) -> list[int]:
        return canary.disturbed_blocks(self.songs)

    def take(self) -> Series:
        """Takes all rounds."""
        for take_round in self.pending():
            take_round()
        return self

    def pending(self) -> Iterator[Callable[[], None]]:
        """Takes A's rounds by itself and hands out B's, each to be called before the next is asked for: pytest-benchmark counts them."""
        rng = np.random.default_rng(self.seed)
        with no_collection():
            self.songs.append(canary.sing())
            for _ in range(self.plan.blocks):
                for arm in (0, 1):
                    self.samples[arm].append([])
                for _ in range(self.plan.quads):
                    for arm in ORDERS[rng.integers(2)]:
                        if arm:
                            yield lambda: self._round(1)
                        else:
                            self._round(0)
                self.songs.append(canary.sing())

    def _round(self, arm: int) -> None:
        self.samples[arm][-1].append(self.arms[arm].time())
