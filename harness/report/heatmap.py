"""Local errors of single experts, in units of their bounds: per backend and case, a grid of MoE layers by experts for every dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.metric import finite
from moe_harness.report.order import Labels, place_key, short_dtype
from moe_harness.report.text import multiple

MAP = "expert_error"
_STEPS = (0.25, 0.5, 0.75, 1.0)  # shades up to the bound; beyond it there is one more


@dataclass(frozen=True)
class Cell:
    """`ratio`: error over bound, infinite where it is not a number; `shade`: 0 to 4, the last beyond the bound."""

    ratio: float
    shade: int

    @property
    def text(self) -> str:
        """At most three characters: .3, 1.4, 33, e4 for tens of thousands."""
        if self.ratio < 9.95:
            return f"{self.ratio:.1f}".removeprefix("0")
        if self.ratio < 999.5:
            return f"{self.ratio:.0f}"
        return f"e{math.log10(self.ratio):.0f}" if math.isfinite(self.ratio) else "∞"


@dataclass(frozen=True)
class Grid:
    """`layers`: cells by MoE layer and expert."""

    dtype: str
    layers: tuple[tuple[Cell, ...], ...]

    @property
    def worst(self) -> tuple[float, int, int]:
        """(ratio, MoE layer, expert)."""
        return max(((c.ratio, -i, -e) for i, cells in enumerate(self.layers) for e, c in enumerate(cells)), default=(0.0, 0, 0))


@dataclass(frozen=True)
class HeatRow:
    """One backend and case."""

    backend: str
    case: str
    grids: tuple[Grid, ...]

    @property
    def ratio(self) -> float:
        return max(grid.worst[0] for grid in self.grids)

    @property
    def words(self) -> str:
        """The worst cell, and how many lie beyond the bound."""
        grid = max(self.grids, key=lambda grid: grid.worst[0])
        ratio, layer, expert = grid.worst
        place = f"MoE layer {-layer}, expert {-expert}, {grid.dtype}: {multiple(ratio)} the bound"
        beyond = sum(cell.ratio > 1 for grid in self.grids for cells in grid.layers for cell in cells)
        return f"worst: {place}" if not beyond else f"{beyond} beyond the bound; worst: {place}"


def heat_rows(frame: Frame) -> list[HeatRow]:
    """In the order of backends and cases; what is no map is left out."""
    labels, grids = Labels(frame), dict[tuple[str, str], dict[str, Grid]]()
    for row in sorted(frame.of("check"), key=place_key):
        grid = grid_of(row)
        if grid is not None:
            grids.setdefault((labels(row), row["case"]), {})[grid.dtype] = grid
    return [HeatRow(backend, case, tuple(found.values())) for (backend, case), found in grids.items()]


def grid_of(row: Mapping[str, Any]) -> Grid | None:
    found = row["maps"].get(MAP) if isinstance(row["maps"], Mapping) else None
    try:
        pairs = [zip(*layer, strict=True) for layer in zip(found["values"], found["bounds"], strict=True)]  # type: ignore[index]
        layers = tuple(tuple(_cell(value, bound) for value, bound in layer) for layer in pairs)
    except (KeyError, TypeError, ValueError):
        return None
    return Grid(short_dtype(row["dtype"]), layers) if any(layers) else None


def _cell(value: Any, bound: Any) -> Cell:
    error, allowed = finite(value), finite(bound)
    ratio = error / allowed if error is not None and allowed else math.inf
    return Cell(ratio, sum(ratio > step for step in _STEPS))
