"""Metrics as records hold them: a value, its bound, and how close the two are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """`ratio` = value / bound: at most 1 within the bound, infinite where a bound of 0 or a NaN leaves no measure, None if not judged."""

    name: str
    value: float
    bound: float | None
    kind: str

    @property
    def ratio(self) -> float | None:
        if not judged(self):
            return None
        assert self.bound is not None
        if math.isnan(self.value) or math.isnan(self.bound):
            return math.inf
        if self.bound == 0:
            return math.inf if self.value > 0 else 0.0
        return self.value / self.bound if math.isfinite(self.bound) else 0.0


def judged(metric: Metric) -> bool:
    """Whether the metric had a say in the verdict."""
    return metric.kind == "judged" and metric.bound is not None


def metrics_of(records: Iterable[Mapping[str, Any]]) -> tuple[Metric, ...]:
    """Metrics of a record's list; "nan", "inf", "-inf" become numbers again, a value that is none becomes NaN."""
    return tuple(Metric(str(r.get("name")), _number(r.get("value")), _bound(r.get("bound")), str(r.get("kind"))) for r in records)


def worst_metric(metrics: Iterable[Metric]) -> Metric | None:
    """The judged metric closest to, or furthest beyond, its bound."""
    return max((metric for metric in metrics if judged(metric)), key=lambda metric: metric.ratio or 0.0, default=None)


def finite(value: Any) -> float | None:
    """`value` as a number, None where it is none, absent, or not finite."""
    found = _number(value)
    return found if math.isfinite(found) else None


def _bound(value: Any) -> float | None:
    return None if value is None else _number(value)


def _number(value: Any) -> float:
    """NaN for what is no number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
