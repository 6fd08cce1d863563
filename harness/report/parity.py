"""Measured errors against their bounds: per backend, case and dtype, the worst value of each judged metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.metric import Metric, judged
from moe_harness.report.order import Labels, place_key, short_dtype

TOPIC = "PARITY"


@dataclass(frozen=True)
class Point:
    """The worst record of one metric; `ratio` = value / bound, infinite for NaN."""

    check: str
    metric: Metric
    ratio: float


@dataclass(frozen=True)
class Lane:
    """The points of one backend, case and dtype, worst first."""

    backend: str
    case: str
    dtype: str
    execution: str
    points: tuple[Point, ...]

    @property
    def label(self) -> str:
        return " · ".join(filter(None, (self.backend, self.case, short_dtype(self.dtype))))


def lanes(frame: Frame) -> tuple[Lane, ...]:
    """Lanes of the parity checks; without any, of all checks (a kernel has no model to be at parity with)."""
    rows = sorted((row for row in frame.of("check") if any(judged(metric) for metric in row["metrics"])), key=place_key)
    chosen = [row for row in rows if row["topic"] == TOPIC] or rows
    labels, grouped = Labels(frame), dict[tuple[str, str, str], list[Mapping[str, Any]]]()
    for row in chosen:
        grouped.setdefault((labels(row), row["case"], row["dtype"]), []).append(row)
    return tuple(Lane(*key, group[0]["execution"], _points(group)) for key, group in grouped.items())


def _points(rows: Iterable[Mapping[str, Any]]) -> tuple[Point, ...]:
    worst: dict[tuple[str, str], Point] = {}
    for row in rows:
        for metric in row["metrics"]:
            key = (row["check"], metric.name)
            if metric.ratio is not None and (key not in worst or metric.ratio > worst[key].ratio):
                worst[key] = Point(row["check"], metric, metric.ratio)
    return tuple(sorted(worst.values(), key=lambda point: (-point.ratio, point.check, point.metric.name)))


def checks_of(chosen: Sequence[Lane]) -> list[str]:
    """The checks that the lanes' points come from."""
    return sorted({point.check for lane in chosen for point in lane.points})
