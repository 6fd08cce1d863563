"""What is timed: a step of an arm, behind an untimed preparation, on the clock that belongs to it."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

LONG = 1000  # ticks: a round this long is read to a thousandth
FIRST = 5  # rounds that tell how long a step takes
MOST_REPEATS = 10_000

Clock = Callable[[], float]


@dataclass(frozen=True)
class Arm:
    """One side of a timing. `prepare` is called before each round and not timed; None: nothing has to be prepared, so that a short step may
    be repeated within a round. `clock`: seconds that only rise."""

    name: str
    step: Callable[[], object]
    prepare: Callable[[], object] | None = None
    clock: Clock = time.perf_counter
    repeats: int = 1

    def time(self) -> float:
        """One round: seconds a step."""
        if self.prepare is not None:
            self.prepare()
        step, clock, repeats = self.step, self.clock, self.repeats
        began = clock()
        for _ in range(repeats):
            step()
        return (clock() - began) / repeats

    def repeated(self, repeats: int) -> Arm:
        return replace(self, repeats=repeats)


def clock_of(model: object) -> Clock:
    """Wall-clock time; of a model in a worker, the time that its calls took over there, without the way there and back."""
    if hasattr(model, "called_seconds"):
        return lambda: float(model.called_seconds)
    return time.perf_counter


def tick(clock: Clock = time.perf_counter, tries: int = 200) -> float:
    """Seconds: the smallest time that two readings of the clock are apart, their cost included."""
    return min(after - before for before, after in ((clock(), clock()) for _ in range(tries)))


def repeats(*arms: Arm) -> int:
    """Steps a round, the same for all arms, so that the shortest is LONG ticks long. 1 where something has to be prepared each time."""
    if any(arm.prepare is not None for arm in arms):
        return 1
    shortest = min(min(arm.time() for _ in range(FIRST)) for arm in arms)
    return min(MOST_REPEATS, max(1, math.ceil(LONG * tick() / max(shortest, 1e-9))))


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage collector does not run inside; what there is to collect is collected before."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
