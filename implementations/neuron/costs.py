"""What this process has spent on graphs, counted by whoever exports or compiles one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from moe_harness.implementations.interface import Compilation


class Costs:
    """Since they were last taken."""

    def __init__(self) -> None:
        self._found = Compilation()

    @contextmanager
    def exporting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add(Compilation(exported=1, export_s=time.perf_counter() - began))

    @contextmanager
    def compiling(self, graphs: int = 1) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.add(Compilation(compiled=graphs, compile_s=time.perf_counter() - began))

    def add(self, more: Compilation) -> None:
        self._found = one_after_the_other(self._found, more)

    def take(self) -> Compilation:
        found, self._found = self._found, Compilation()
        return found


COSTS = Costs()


def one_after_the_other(*found: Compilation) -> Compilation:
    return Compilation(
        sum(each.exported for each in found),
        sum(each.export_s for each in found),
        sum(each.compiled for each in found),
        sum(each.compile_s for each in found),
        sum(each.cached for each in found),
        _together(found),
    )


def side_by_side(found: Sequence[Compilation]) -> Compilation:
    """Of the processes of a mesh, which work on parts of the same graphs at the same time."""
    slowest = max(found, key=lambda each: each.export_s + each.compile_s)
    return replace(slowest, host_operators=_together(found))


def _together(found: Sequence[Compilation]) -> dict[str, int]:
    operators: Counter[str] = Counter()
    for each in found:
        operators.update(each.host_operators)
    return dict(operators)
