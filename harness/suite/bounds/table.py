"""The floors as they are kept: golden/floors.json, made by `moe-harness golden floors`.

For every dtype, metric and number of tokens: how the errors of honest implementations lie above those of the reference on the same input
(log ratio), and how they lie by themselves (log error), for cases too large to run the reference.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from moe_harness.stats.tolerance import Spread

SCHEMA, FILE = 1, "floors.json"
TOKENS = (1, 4, 16, 64, 256, 2048)  # sizes at which floors are measured
SHORT, LONG_ENOUGH = 16, 64  # tokens: of a sequence that is short, and of one that is not
FALSE_ALARMS, CONFIDENCE = 1e-4, 0.95  # per run of one backend, family and dtype; of the tolerance limits
COMPARISONS = 2000  # numbers that such a run holds against floors, at most
RARE = 1e-5  # share of the samples of a kind or case that may exceed the limits made without it


class FloorsError(Exception):
    """Floors that cannot be read, or that are not there. `str()` names the file or the metric."""


@dataclass(frozen=True)
class Floor:
    """Logs of one metric. `quantiles`: of the samples, at 0, 5, ... 100 %."""

    spread: Spread
    samples: int
    quantiles: tuple[float, ...]

    @cached_property
    def limit(self) -> float:
        return self.spread.limit(FALSE_ALARMS / COMPARISONS, CONFIDENCE)

    def share_within(self, log_ratio: float) -> float:
        """Share of the honest samples that show no more."""
        return bisect_right(self.quantiles, log_ratio) / len(self.quantiles)


Floors = Mapping[tuple[str, str, int], Floor]  # by dtype, metric, tokens


@dataclass(frozen=True)
class Table:
    """`floors`: of log ratios. `typical`: of log errors. `facts`: how they were measured and validated."""

    floors: Floors
    typical: Floors
    facts: Mapping[str, Any]

    def around(self, dtype: str, metric: str, tokens: int) -> list[Floor]:
        """The floors of the nearest measured numbers of tokens, below and above: means settle with more tokens, the worst one grows.
        Raises FloorsError."""
        measured = self._measured(dtype, metric)
        below = max((n for n in measured if n <= tokens), default=measured[0])
        above = min((n for n in measured if n >= tokens), default=measured[-1])
        return [self.floors[dtype, metric, n] for n in {below, above}]

    def nearest(self, dtype: str, metric: str, tokens: int) -> int:
        """The largest measured number of tokens that is not above. Raises FloorsError."""
        measured = self._measured(dtype, metric)
        return max((n for n in measured if n <= tokens), default=measured[0])

    def _measured(self, dtype: str, metric: str) -> list[int]:
        measured = [n for n in TOKENS if (dtype, metric, n) in self.floors]
        if not measured:
            raise FloorsError(f"{FILE}: no floors of {metric} in {dtype}; `moe-harness golden floors` makes them")
        return measured


@lru_cache(maxsize=4)
def read(path: Path) -> Table:
    """Raises FloorsError."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != SCHEMA:
            raise ValueError(f"schema {raw['schema']!r}; {SCHEMA} is known")
        floors, typical = ({_key(key): _floor(value) for key, value in raw[part].items()} for part in ("floors", "typical"))
        return Table(floors, typical, raw["facts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FloorsError(f"{path}: {error}; `moe-harness golden floors` makes it") from error


def write(table: Table, path: Path) -> None:
    parts = {"floors": table.floors, "typical": table.typical}
    plain = {part: {"/".join(map(str, key)): _plain(floor) for key, floor in floors.items()} for part, floors in parts.items()}
    raw = {"schema": SCHEMA, "facts": table.facts} | plain
    path.write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _key(text: str) -> tuple[str, str, int]:
    dtype, metric, tokens = text.split("/")
    return dtype, metric, int(tokens)


def _floor(raw: Mapping[str, Any]) -> Floor:
    return Floor(Spread(*raw["spread"]), raw["samples"], tuple(raw["quantiles"]))


def _plain(floor: Floor) -> dict[str, Any]:
    return {"spread": _rounded(vars(floor.spread).values()), "samples": floor.samples, "quantiles": _rounded(floor.quantiles)}


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]
