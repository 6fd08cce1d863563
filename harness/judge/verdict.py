"""A check's verdict in the making: metrics and evidence come first, assertions second, so that the measured value survives a failure. And
the grade of a backend: how much it shows, and so how sharp its verdict can be; see docs/spec.md, "Grades"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from moe_harness.implementations.interface import Capabilities
from moe_harness.judge.metric import Metric

if TYPE_CHECKING:
    from moe_harness.judge.exhibit import Exhibit


class Violation(AssertionError):
    """A judged metric is over its bound."""


class Inconclusive(Exception):
    """Too little evidence for a PASS. `str()` says what is missing."""


class Verdict:
    """Collects what one check measures. Of a metric judged many times (Hypothesis) the worst value is kept; a violation replaces everything
    with the violating example, which after shrinking is the smallest one. `exhibit`: what the violating judgement saw, for a capsule."""

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self.evidence: dict[str, float] = {}
        self.maps: dict[str, dict[str, list[Any]]] = {}
        self.floors: dict[str, float] = {}
        self.exhibit: Exhibit | None = None

    def judge(self, *metrics: Metric, about: str = "", exhibit: Callable[[], Exhibit | None] | None = None) -> None:
        """Records all, then raises Violation if any is over its bound. `about` says on what input; `exhibit` shows it, and is called only
        then."""
        violated = [m for m in metrics if m.violated]
        if violated:
            self.metrics = {}
            self.exhibit = exhibit() if exhibit else None
        for metric in metrics:
            kept = self.metrics.get(metric.name)
            if kept is None or not metric.severity <= kept.severity or (metric.bound is None and metric.value > kept.value):
                self.metrics[metric.name] = metric
        if violated:
            raise Violation("; ".join(map(str, violated)) + (f" [{about}]" if about else ""))

    def saw(self, **counts: float) -> None:
        """Adds evidence: tokens, experts_hit, flips_excused, ..."""
        for name, count in counts.items():
            self.evidence[name] = self.evidence.get(name, 0) + count

    def map(self, metrics_LE: Sequence[Sequence[Metric]]) -> None:
        """Records one metric of every (MoE layer, expert) under its name, values and bounds to three digits."""
        values = [[_three_digits(metric.value) for metric in row_E] for row_E in metrics_LE]
        bounds = [[None if metric.bound is None else _three_digits(metric.bound) for metric in row_E] for row_E in metrics_LE]
        self.maps[metrics_LE[0][0].name] = {"values": values, "bounds": bounds}

    def require(self, **floors: float) -> None:
        """Raises Inconclusive if a named evidence is below its floor. A check that never asks for any passes nothing: see status.py."""
        self.floors |= floors
        for name, floor in floors.items():
            if self.evidence.get(name, 0) < floor:
                raise Inconclusive(f"{name} = {self.evidence.get(name, 0):g}, at least {floor:g} needed for a verdict")

    def to_record(self) -> dict[str, Any]:
        return {"metrics": [m.to_record() for m in self.metrics.values()], "evidence": dict(self.evidence), "maps": dict(self.maps)}


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


TOP = "top-"


def grade(capabilities: Capabilities) -> str:
    """A: the router and each MoE block by themselves; B: the routing inside the model; C: logits; D: the likeliest tokens alone; "" where
    there is no model, only routers."""
    if "probe" in capabilities.features:
        return "A"
    if "routing" in capabilities.features:
        return "B"
    if {"all", "last"} & set(capabilities.logits):
        return "C" if "prefill" in capabilities.features else ""
    return "D" if top_n(capabilities.logits) else ""


def top_n(logits: Iterable[str]) -> int:
    """The largest n of the declared `top-<n>`, 0 without any."""
    numbers = (name.removeprefix(TOP) for name in logits if name.startswith(TOP))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)
