"""Series over a history's runs, and the steps in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_harness.stats.changepoints import FEWEST, steps


@dataclass(frozen=True)
class Trend:
    """One metric over the runs that have it, oldest first. `steps`: (run from which on, level before, level after)."""

    name: str
    runs: tuple[str, ...]
    values: tuple[float, ...]
    steps: tuple[tuple[str, float, float], ...]

    @property
    def long_enough(self) -> bool:
        return len(self.values) >= FEWEST


def trends(entries: Sequence[Mapping[str, Any]]) -> list[Trend]:
    """One per metric, by name. Values are compared as logarithms: a step is a factor. Zeros, which have none, are left out."""
    series: dict[str, list[tuple[str, float]]] = {}
    for entry in entries:
        for name, value in entry["metrics"].items():
            if value > 0 and math.isfinite(value):
                series.setdefault(name, []).append((entry["run"], value))
    return [_trend(name, series[name]) for name in sorted(series)]


def _trend(name: str, points: Sequence[tuple[str, float]]) -> Trend:
    runs, values = tuple(run for run, _ in points), tuple(value for _, value in points)
    found = steps([math.log(value) for value in values])
    return Trend(name, runs, values, tuple((runs[step.index], math.exp(step.before), math.exp(step.after)) for step in found))
