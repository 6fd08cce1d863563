"""One number over earlier runs and this one: the failures of a run, and every speed on the same machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.frame import Frame
from harness.report.order import short_dtype
from harness.report.speed import speeds
from harness.report.text import ratio, seconds
from harness.report.verdict import count

FEWEST = 3  # two runs are a comparison
WIDTH, HEIGHT, EDGE = 180, 22, 4  # of a spark line, in pixels


@dataclass(frozen=True)
class Trend:
    """`points`: (x, y) in pixels of a spark line; `first`, `last`: in words; `change`: last over first, "" where that is no number."""

    name: str
    where: str
    points: tuple[tuple[str, str], ...]
    first: str
    last: str
    change: str


def trends(frame: Frame) -> list[Trend]:
    """Nothing under FEWEST runs. A speed needs two of them on one machine."""
    runs = [*frame.past, frame]
    if len(runs) < FEWEST:
        return []
    failed = [float(sum(count(each)[name] for name in ("failed", "void"))) for each in runs]
    found = [Trend("failures", "all", _points(list(enumerate(failed)), len(runs)), f"{failed[0]:.0f}", f"{failed[-1]:.0f}", "")]
    series: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for number, each in enumerate(runs):
        for speed in speeds(each):
            if speed.median is not None:
                series.setdefault((*speed.group, str(speed.row["backend"])), []).append((number, speed.median))
    return found + [_speed(key, values, len(runs)) for key, values in sorted(series.items()) if len(values) > 1]


def _speed(key: tuple[str, ...], values: Sequence[tuple[int, float]], runs: int) -> Trend:
    workload, case, dtype, parameters, machine, backend = key
    first, last = values[0][1], values[-1][1]
    where = f"{backend} · {case} · {short_dtype(dtype)} @ {machine}"
    return Trend(f"{workload} {parameters}", where, _points(values, runs), seconds(first), seconds(last), ratio(last / first))


def _points(values: Sequence[tuple[int, float]], runs: int) -> tuple[tuple[str, str], ...]:
    """The vertical axis starts at zero: a change of a tenth shall not look like a cliff."""
    top = max(value for _, value in values) or 1.0
    wide, high = WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE
    return tuple((f"{EDGE + wide * x / max(1, runs - 1):.1f}", f"{EDGE + high * (1 - y / top):.1f}") for x, y in values)
