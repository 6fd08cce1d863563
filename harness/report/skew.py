"""How much longer the same block takes where some experts get more tokens than others: benchmark rows that pin a routing by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.metric import finite
from moe_harness.report.order import Labels, short_dtype
from moe_harness.report.speed import Speed, speeds

EVEN = ("balanced", "uniform")  # the first of these that was timed is what the others are divided by
_OWN = ("skew", "routing", "ranks")  # parameters that say where tokens go


@dataclass(frozen=True)
class Curve:
    """One backend in one dtype. `factors`: skew -> time over that of the even skew, in the panel's order; skews without a number are
    missing."""

    label: str
    factors: Mapping[str, float]


@dataclass(frozen=True)
class Panel:
    """One case and size. `skews`: (name, tokens of the busiest expert over the mean, or None), from even to extreme; `even`: the skew of
    factor 1."""

    title: str
    even: str
    skews: tuple[tuple[str, float | None], ...]
    curves: tuple[Curve, ...]


def panels(frame: Frame) -> list[Panel]:
    """Panels with at least two skews of one backend."""
    grouped: dict[str, list[Speed]] = {}
    for speed in speeds(frame):
        if speed.median is not None and _skew(speed):
            grouped.setdefault(_title(speed.row), []).append(speed)
    found = [_panel(title, members, Labels(frame)) for title, members in grouped.items()]
    return [panel for panel in found if panel.curves and len(panel.skews) > 1]


def imbalance(row: Mapping[str, Any]) -> float | None:
    """Tokens of the busiest expert over the mean of all, in the layer where that is largest; 1 is even."""
    work = row["facts"].get("work")
    layers = work.get("loads") if isinstance(work, Mapping) else None
    ratios = [_imbalance(layer) for layer in layers] if isinstance(layers, list) else []
    return max((found for found in ratios if found is not None), default=None)


def _imbalance(layer: Any) -> float | None:
    loads = [finite(load) for load in layer] if isinstance(layer, list) else []
    numbers = [load for load in loads if load is not None]
    return max(numbers) * len(numbers) / sum(numbers) if numbers and sum(numbers) > 0 else None


def _panel(title: str, members: Sequence[Speed], labels: Labels) -> Panel:
    busiest = {_skew(speed): imbalance(speed.row) for speed in members}
    order = sorted(busiest, key=lambda name: (busiest[name] or 0.0, EVEN.index(name) if name in EVEN else len(EVEN), name))
    even = next((name for name in EVEN if name in busiest), "")
    lines: dict[str, dict[str, float]] = {}
    for speed in members:
        lines.setdefault(f"{labels(speed.row)} {short_dtype(speed.row['dtype'])}", {})[_skew(speed)] = speed.median or 0.0
    curves = [
        Curve(label, {name: times[name] / times[even] for name in order if name in times})
        for label, times in lines.items()
        if even in times
    ]
    return Panel(title, even, tuple((name, busiest[name]) for name in order), tuple(curves))


def _parameters(row: Mapping[str, Any]) -> dict[str, str]:
    return dict(part.split("=", 1) for part in row["parameters"].split(" ") if "=" in part)


def _skew(speed: Speed) -> str:
    """Nothing where the model's own router decides."""
    found = _parameters(speed.row)
    name = found.get("skew") or found.get("routing") or ""
    return "" if name == "own" else name


def _title(row: Mapping[str, Any]) -> str:
    rest = " ".join(f"{name}={value}" for name, value in _parameters(row).items() if name not in _OWN)
    return f"{row['check']} {row['case']} {rest}".strip()
