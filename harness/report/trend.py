"""One number over earlier runs and this one: the failures of a run, and every speed on the same machine, with its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moe_harness.records.frame import Frame
from moe_harness.report.order import short_dtype
from moe_harness.report.speed import speeds
from moe_harness.report.text import ratio, seconds
from moe_harness.report.verdict import count
from moe_harness.stats.changepoints import Step, steps

FEWEST = 3  # two runs are a comparison
WIDTH, HEIGHT, EDGE = 180, 22, 4  # of a spark line, in pixels


@dataclass(frozen=True)
class Point:
    """Of a spark line, in pixels. `step`: the level changed here."""

    x: str
    y: str
    step: bool = False


@dataclass(frozen=True)
class Trend:
    """`first`, `last`: in words; `change`: last over first, "" where that is no number; `steps`: each in words."""

    name: str
    where: str
    points: tuple[Point, ...]
    first: str
    last: str
    change: str
    steps: tuple[str, ...] = ()


def trends(frame: Frame) -> list[Trend]:
    """Nothing under FEWEST runs. A speed needs two of them on one machine. Those with a step come first."""
    runs = [*frame.past, frame]
    if len(runs) < FEWEST:
        return []
    failed = [float(sum(count(each)[name] for name in ("failed", "void"))) for each in runs]
    failures = Trend("failures", "all", _points(list(enumerate(failed)), len(runs)), f"{failed[0]:.0f}", f"{failed[-1]:.0f}", "")
    series: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for number, each in enumerate(runs):
        for speed in speeds(each):
            if speed.median is not None:
                series.setdefault((*speed.group, str(speed.row["backend"])), []).append((number, speed.median))
    found = [_speed(key, values, runs) for key, values in sorted(series.items()) if len(values) > 1]
    return [failures, *sorted(found, key=lambda trend: not trend.steps)]


def _speed(key: tuple[str, ...], values: Sequence[tuple[int, float]], runs: Sequence[Frame]) -> Trend:
    workload, case, dtype, parameters, machine, backend = key
    first, last = values[0][1], values[-1][1]
    where = f"{backend} · {case} · {short_dtype(dtype)} @ {machine}"
    found = steps([math.log(value) for _, value in values])
    points = _points(values, len(runs), {step.index for step in found})
    words = tuple(f"{_percent(step)} from {runs[values[step.index][0]].runs[0].run_id}" for step in found)
    return Trend(f"{workload} {parameters}", where, points, seconds(first), seconds(last), ratio(last / first), words)


def _percent(step: Step) -> str:
    return f"{math.expm1(step.after - step.before):+.1%}".replace("-", "−")


def _points(values: Sequence[tuple[int, float]], runs: int, at: frozenset[int] | set[int] = frozenset()) -> tuple[Point, ...]:
    """The vertical axis starts at zero: a change of a tenth shall not look like a cliff. `at`: indices of steps."""
    top = max(value for _, value in values) or 1.0
    wide, high = WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE
    places = ((f"{EDGE + wide * x / max(1, runs - 1):.1f}", f"{EDGE + high * (1 - y / top):.1f}") for x, y in values)
    return tuple(Point(x, y, index in at) for index, (x, y) in enumerate(places))
